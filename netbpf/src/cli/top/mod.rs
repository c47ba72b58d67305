//! `netbpf top`: what goes through the containers now. On a terminal it is a view
//! that is drawn again and again; elsewhere each look is printed after the other.

mod rates;
mod screen;

use std::{rc::Rc, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

pub use self::rates::{Order, TopInfo};
use self::{
    rates::Sample,
    screen::{Key, Screen},
};
use super::{
    args::Top,
    commands::{Done, ended},
    output::Output,
};
use crate::{
    client::{Client, Result},
    model::EndpointFilter,
};

/// The first look is soon: nobody likes an empty screen.
const FIRST: Duration = Duration::from_millis(250);

pub async fn run(args: Top, client: &Client, output: &Output) -> Done {
    match args.count {
        None if output.is_for_eyes() => watch(&args, client).await,
        count => print(&args, count, client, output).await,
    }
}

async fn print(args: &Top, count: Option<u64>, client: &Client, output: &Output) -> Done {
    let mut ends = Box::pin(ended()?);
    let mut looks = tokio::select! {
        looks = Looks::new(args, client, args.interval) => looks?,
        () = &mut ends => return Ok(()),
    };
    let mut left = count;
    while left != Some(0) {
        let between;
        (looks, between) = tokio::select! {
            done = looks.next() => done?,
            () = &mut ends => break,
        };
        output.show_line(&between.top(args.sort))?;
        left = left.map(|left| left - 1);
        if left != Some(0) {
            output.blank_line()?;
        }
    }
    Ok(())
}

async fn watch(args: &Top, client: &Client) -> Done {
    let mut ends = Box::pin(ended()?);
    let looks = tokio::select! {
        looks = Looks::new(args, client, args.interval.min(FIRST)) => looks?,
        () = &mut ends => return Ok(()),
    };
    // Goes on whatever keys are pressed.
    let mut next = Box::pin(looks.next());
    let mut order = args.sort;
    let mut seen: Option<Between> = None;
    let mut screen = Screen::open()?;
    loop {
        let top = seen.as_ref().map(|between| between.top(order));
        screen.draw(top.as_ref(), order)?;
        tokio::select! {
            done = &mut next => {
                let (looks, between) = done?;
                seen = Some(between);
                next.set(looks.next());
            }
            key = screen.key() => match key {
                Key::Quit => return Ok(()),
                Key::Order(wanted) => order = wanted,
                Key::Other => {}
            },
            () = &mut ends => return Ok(()),
        }
    }
}

/// Two looks, one after the other.
struct Between(Rc<Sample>, Rc<Sample>);

impl Between {
    fn top(&self, order: Order) -> TopInfo {
        TopInfo::between(&self.0, &self.1, order)
    }
}

struct Looks<'a> {
    args: &'a Top,
    client: &'a Client,
    began: Instant,
    ticks: tokio::time::Interval,
    last: Rc<Sample>,
}

impl<'a> Looks<'a> {
    async fn new(args: &'a Top, client: &'a Client, first: Duration) -> Result<Looks<'a>> {
        let began = Instant::now();
        let last = look(args, client, began).await?;
        let mut ticks = interval_at(Instant::now() + first, args.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Looks {
            args,
            client,
            began,
            ticks,
            last: last.into(),
        })
    }

    /// The next look, and what goes on with it.
    async fn next(mut self) -> Result<(Self, Between)> {
        self.ticks.tick().await;
        let now = look(self.args, self.client, self.began).await?;
        let now = Rc::new(now);
        let before = std::mem::replace(&mut self.last, now.clone());
        Ok((self, Between(before, now)))
    }
}

async fn look(args: &Top, client: &Client, began: Instant) -> Result<Sample> {
    let network = args.network.as_deref();
    let filter = EndpointFilter {
        network: args.network.clone(),
        ..Default::default()
    };
    let (status, endpoints, drops) = tokio::try_join!(
        client.status(),
        client.endpoints(&filter),
        client.drops(None, network)
    )?;
    Ok(Sample {
        at: began.elapsed(),
        time: Timestamp::now().strftime("%FT%TZ").to_string(),
        status,
        endpoints,
        drops,
    })
}
