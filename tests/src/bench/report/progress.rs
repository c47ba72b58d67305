//! A line that says how far it is; only on a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Instant,
};

pub struct Progress {
    done: usize,
    all: usize,
    began: Instant,
    terminal: bool,
}

impl Progress {
    pub fn new(all: usize) -> Progress {
        Progress {
            done: 0,
            all: all.max(1),
            began: Instant::now(),
            terminal: io::stderr().is_terminal(),
        }
    }

    pub fn step(&mut self) {
        self.done += 1;
        if self.terminal {
            let width = 30;
            let full = "#".repeat((width * self.done / self.all).min(width));
            let seconds = self.began.elapsed().as_secs();
            // A terminal that has gone is no reason to stop.
            _ = write!(
                io::stderr(),
                "\r[{full:<width$}] {}/{} {seconds} s ",
                self.done,
                self.all
            );
        }
    }

    pub fn end(self) {
        if self.terminal {
            _ = writeln!(io::stderr());
        }
    }
}
