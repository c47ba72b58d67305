//! `netbpf top`: what goes through the containers now. On a terminal it is a view
//! that is drawn again and again; elsewhere each look is printed after the other.

mod rates;
mod screen;

use std::time::Duration;

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
use crate::client::{Client, Result};

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
    let mut looks = Looks::new(args, client, args.interval).await?;
    let mut left = count;
    while left != Some(0) {
        tokio::select! {
            top = looks.next() => {
                let top = top?.top(args.sort);
                output.show_line(&top)?;
            }
            () = &mut ends => break,
        }
        left = left.map(|left| left - 1);
        if left != Some(0) {
            output.blank_line()?;
        }
    }
    Ok(())
}

async fn watch(args: &Top, client: &Client) -> Done {
    let mut ends = Box::pin(ended()?);
    let mut looks = Looks::new(args, client, args.interval.min(FIRST)).await?;
    let mut order = args.sort;
    let mut seen: Option<Between> = None;
    let mut screen = Screen::open()?;
    loop {
        let top = seen.as_ref().map(|between| between.top(order));
        screen.draw(top.as_ref(), order)?;
        tokio::select! {
            between = looks.next() => seen = Some(between?),
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
struct Between(std::rc::Rc<Sample>, std::rc::Rc<Sample>);

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
    last: std::rc::Rc<Sample>,
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

    /// What is asked and not answered when this is dropped is asked again.
    async fn next(&mut self) -> Result<Between> {
        self.ticks.tick().await;
        let now = look(self.args, self.client, self.began).await?;
        let now = std::rc::Rc::new(now);
        let before = std::mem::replace(&mut self.last, now.clone());
        Ok(Between(before, now))
    }
}

async fn look(args: &Top, client: &Client, began: Instant) -> Result<Sample> {
    let network = args.network.as_deref();
    let (status, mut endpoints, drops) = tokio::try_join!(
        client.status(),
        client.endpoints(),
        client.drops(None, network)
    )?;
    if let Some(network) = network {
        endpoints.retain(|endpoint| endpoint.network == network);
    }
    Ok(Sample {
        at: began.elapsed(),
        time: Timestamp::now().strftime("%FT%TZ").to_string(),
        status,
        endpoints,
        drops,
    })
}
