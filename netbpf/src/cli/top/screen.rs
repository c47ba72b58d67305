//! The terminal as a whole: it is as it was when this is dropped.

use std::io::{self, Write as _};

use crossterm::{
    cursor,
    event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers},
    execute, queue,
    style::{Attribute, SetAttribute},
    terminal::{
        self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate,
        EnterAlternateScreen, LeaveAlternateScreen,
    },
};
use futures_util::StreamExt;

use super::rates::{Order, TopInfo};
use crate::cli::output::Show;

const HELP: &str = "q quit  t total  r in  x out  d drops  n name";

pub struct Screen {
    events: EventStream,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Quit,
    Order(Order),
    /// Of the terminal's size, or of a key without meaning: draw again.
    Other,
}

impl Screen {
    pub fn open() -> io::Result<Screen> {
        terminal::enable_raw_mode()?;
        // From here on it is to be undone.
        let screen = Screen {
            events: EventStream::new(),
        };
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    /// The next key. Without a terminal to read from any more it is the last one.
    pub async fn key(&mut self) -> Key {
        match self.events.next().await {
            Some(Ok(event)) => key(&event),
            Some(Err(_)) | None => Key::Quit,
        }
    }

    pub fn draw(&self, top: Option<&TopInfo>, order: Order) -> io::Result<()> {
        // A serial line does not know its size.
        let (width, height) = match terminal::size()? {
            (0, _) | (_, 0) => (80, 24),
            known => known,
        };
        let text = match top {
            Some(top) => top.human(Some(width)),
            None => "looking …\n".into(),
        };
        let mut to = io::stdout().lock();
        queue!(to, BeginSynchronizedUpdate, Clear(ClearType::All))?;
        // The last line is the help's.
        let room = usize::from(height.saturating_sub(1));
        for (row, line) in text.lines().take(room).enumerate() {
            queue!(to, cursor::MoveTo(0, row as u16))?;
            if line.starts_with("ENDPOINT") {
                write!(
                    to,
                    "{}{line}{}",
                    SetAttribute(Attribute::Reverse),
                    SetAttribute(Attribute::Reset)
                )?;
            } else {
                write!(to, "{line}")?;
            }
        }
        let help = format!("by {}:  {HELP}", name(order));
        let help: String = help.chars().take(width.into()).collect();
        queue!(to, cursor::MoveTo(0, height.saturating_sub(1)))?;
        write!(to, "{help}")?;
        queue!(to, EndSynchronizedUpdate)?;
        to.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to be told.
        _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
        _ = terminal::disable_raw_mode();
    }
}

fn name(order: Order) -> &'static str {
    match order {
        Order::Total => "total",
        Order::Rx => "in",
        Order::Tx => "out",
        Order::Drops => "drops",
        Order::Name => "name",
    }
}

fn key(event: &Event) -> Key {
    let Event::Key(key) = event else {
        return Key::Other;
    };
    if key.kind == KeyEventKind::Release {
        return Key::Other;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => Key::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('t') => Key::Order(Order::Total),
        KeyCode::Char('r') => Key::Order(Order::Rx),
        KeyCode::Char('x') => Key::Order(Order::Tx),
        KeyCode::Char('d') => Key::Order(Order::Drops),
        KeyCode::Char('n') => Key::Order(Order::Name),
        _ => Key::Other,
    }
}
