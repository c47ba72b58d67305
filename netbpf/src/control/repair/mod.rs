//! Puts back what others undo on the host while the daemon runs: gateway addresses, routes,
//! interfaces, neighbour entries, programs, pins. The plan says what, as at a start; what
//! goes on inside of containers is theirs.
//!
//! A look every half a minute finds it, a gateway address that goes is heard of at once.
//! What comes undone again is put back less and less often.

mod lost;
mod record;

use std::{
    collections::HashSet,
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::time::{Instant as TokioInstant, MissedTickBehavior, interval_at};

pub use self::{
    lost::Lost,
    record::{Kind, Repairs},
};
use super::{
    Inner, blocking,
    host::{self, Hooks},
    plan::{self, Step, Wanted},
    seen::Seen,
    state::State,
    uplinks::Uplink,
};
use crate::{
    datapath::Device,
    error::{Code, Result},
    store::{EndpointRecord, NetworkRecord},
    sys::netlink::Netlink,
};

const LOOK: Duration = Duration::from_secs(30);

/// Something that is not as it was made, and can be made again.
#[derive(Clone, Debug)]
enum Job {
    Step(Step),
    Veth(Device),
    Uplink(Box<Uplink>),
    Loopback,
    Cgroup,
    Pins(Vec<PathBuf>),
}

/// Looks from time to time; ends with the last strong reference.
pub async fn watch(inner: Weak<Inner>) {
    let mut ticks = interval_at(TokioInstant::now() + LOOK, LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        match look(&inner).await {
            Err(error) if error.code != Code::Unavailable => {
                tracing::warn!(%error, "what others have undone is not put back");
            }
            _ => {}
        }
    }
}

async fn look(inner: &Arc<Inner>) -> Result<()> {
    if inner.lost.any() {
        // Apart from changes: there may be a million flows to look through.
        let looking = inner.clone();
        blocking(move || lost::forget(&looking)).await?;
    }
    if !inner.store.has_all_copies() {
        Inner::change(inner.clone(), |inner, _| {
            Ok(inner.store.complete_copies()?)
        })
        .await?;
    }
    let looking = inner.clone();
    let found = blocking(move || {
        let jobs = find(&looking, &looking.seen(), &mut Netlink::open()?)?;
        let now = Instant::now();
        let mut due = jobs.iter().map(ToString::to_string);
        Ok(due.any(|what| looking.repairs.may(&what, now)))
    });
    match found.await? {
        false => Ok(()),
        // Looked at again while nothing changes: it may have been a change of ours.
        true => {
            Inner::change(inner.clone(), |inner, state| {
                let jobs = find(inner, &state.seen(), &mut Netlink::open()?)?;
                put_back(inner, state, jobs);
                Ok(())
            })
            .await
        }
    }
}

/// Gateway addresses that are gone, by the list of addresses as it was just read; and the
/// routes that go or lose their source address with them.
pub fn gateways(inner: &Inner, state: &mut State) {
    let networks = state.networks.values();
    let all = networks.flat_map(|network| plan::network_up(&network.record, inner.ipv6));
    let is_gone = |address: &IpAddr| !state.addresses.contains(address);
    let gone = all.filter(|step| matches!(step, Step::AddGateway(a) if is_gone(a)));
    let jobs: Vec<Job> = gone.map(Job::Step).collect();
    if jobs.is_empty() {
        return;
    }
    put_back(inner, state, jobs);
    let wanted = wanted(&state.seen(), inner.ipv6);
    match inner.apply(&mut state.host).look_around() {
        Ok(found) => {
            let steps = plan::repairs(&wanted, &found).into_iter();
            put_back(inner, state, steps.map(Job::Step).collect());
        }
        Err(error) => tracing::warn!(%error, "routes not looked at"),
    }
}

fn find(inner: &Inner, seen: &Seen, netlink: &mut Netlink) -> Result<Vec<Job>> {
    let wanted = wanted(seen, inner.ipv6);
    let found = inner.apply(netlink).look_around()?;
    let steps = plan::repairs(&wanted, &found);
    let mut jobs: Vec<Job> = steps.into_iter().map(Job::Step).collect();

    let datapath = &inner.datapath;
    // Before what hangs by them: their directories may be gone as well.
    let pins = datapath.missing_pins();
    if !pins.is_empty() {
        jobs.push(Job::Pins(pins));
    }
    let links = netlink.links()?;
    let present: HashSet<u32> = links.iter().map(|link| link.ifindex).collect();
    if !datapath.hung_on_loopback(netlink)?.is_right() {
        jobs.push(Job::Loopback);
    }
    let uplinks = seen.uplinks.iter().filter(|u| u.failed.is_none());
    for uplink in uplinks.filter(|u| present.contains(&u.entry.device.ifindex)) {
        let hung = datapath.hung_on_uplink(netlink, &uplink.entry, &uplink.early)?;
        let is_known = datapath.is_uplink(uplink.entry.device.ifindex);
        if !is_known || !hung.iter().all(|hung| hung.is_right()) {
            jobs.push(Job::Uplink(Box::new(uplink.clone())));
        }
    }
    for record in seen.endpoints.values() {
        let device = Device {
            name: record.host_ifname.clone(),
            ifindex: record.host_ifindex,
        };
        let is_present = present.contains(&device.ifindex);
        if is_present && !all_right(&datapath.hung_on_veth(netlink, &device)?) {
            jobs.push(Job::Veth(device));
        }
    }
    if let (Some(Hooks::Cgroup), Some(cgroup)) = (&seen.hooks, host::cgroup(inner)?)
        && !all_right(&datapath.hung_on_cgroup(&cgroup)?)
    {
        jobs.push(Job::Cgroup);
    }
    Ok(jobs)
}

fn all_right(hung: &[crate::datapath::Hung]) -> bool {
    hung.iter().all(|hung| hung.is_right())
}

/// Networks and endpoints as the plan takes them.
fn wanted(seen: &Seen, ipv6: bool) -> Wanted {
    let planned = |record: &Arc<EndpointRecord>| {
        let network = seen.network(&record.network).ok()?;
        Some(Arc::new(plan::Endpoint {
            record: record.clone(),
            flags: plan::flags(&network.record),
        }))
    };
    let networks = seen.networks.iter();
    Wanted {
        networks: networks.map(|n| NetworkRecord::clone(&n.record)).collect(),
        endpoints: seen.endpoints.values().filter_map(planned).collect(),
        ipv6,
        ..Wanted::default()
    }
}

/// Does what is due of it.
fn put_back(inner: &Inner, state: &mut State, jobs: Vec<Job>) {
    for job in jobs {
        let (what, now) = (job.to_string(), Instant::now());
        if !inner.repairs.may(&what, now) {
            continue;
        }
        inner.repairs.tried(&what, now);
        match job.take(inner, state) {
            Ok(()) => {
                inner.repairs.count(job.kind());
                tracing::warn!(what, "undone by others, and put back");
            }
            Err(error) => tracing::warn!(what, %error, "undone by others, and stays so"),
        }
    }
}

impl Job {
    fn take(&self, inner: &Inner, state: &mut State) -> Result<()> {
        let datapath = &inner.datapath;
        match self {
            Job::Step(step) => inner
                .apply(&mut state.host)
                .run(std::slice::from_ref(step))?,
            Job::Veth(device) => datapath.attach_veth(device)?,
            Job::Uplink(uplink) => {
                let early = datapath.attach_uplink(&uplink.entry)?;
                datapath.attach_way_out(&uplink.entry)?;
                let ifindex = uplink.entry.device.ifindex;
                let mut known = state.uplinks.iter_mut();
                if let Some(known) = known.find(|u| u.entry.device.ifindex == ifindex) {
                    known.early = early;
                }
            }
            Job::Loopback => datapath.attach_loopback()?,
            Job::Cgroup => {
                if let Some(cgroup) = host::cgroup(inner)? {
                    datapath.attach_cgroup(&cgroup)?;
                    if let Err(error) = host::forget_connections(inner) {
                        tracing::warn!(%error, "connections of the host that have ended are not forgotten");
                    }
                }
            }
            Job::Pins(pins) => datapath.repin(pins)?,
        }
        Ok(())
    }

    fn kind(&self) -> Kind {
        match self {
            Job::Step(Step::AddGateway(_)) => Kind::Address,
            Job::Step(Step::SetUpHostEnd(_)) => Kind::Interface,
            Job::Step(Step::SetHostNeighbours(_)) => Kind::Neighbour,
            Job::Step(_) => Kind::Route,
            Job::Veth(_) | Job::Uplink(_) | Job::Loopback | Job::Cgroup => Kind::Program,
            Job::Pins(_) => Kind::Pin,
        }
    }
}

/// What it is about: the same words for the same thing.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |what: &str, e: &plan::Endpoint| {
            let record = &e.record;
            format!("{what} of endpoint {} on {}", record.name, record.network)
        };
        let text = match self {
            Job::Step(step) => match step {
                Step::AddGateway(address) => format!("address {address} on lo"),
                Step::HoldSubnet(subnet) => format!("route unreachable {subnet}"),
                Step::SetUpHostEnd(e) => of("interface", e),
                Step::AddHostRoutes(e) => of("routes", e),
                Step::SetHostNeighbours(e) => of("neighbour entries", e),
                other => format!("{other:?}"),
            },
            Job::Veth(device) => format!("programs on {}", device.name),
            Job::Uplink(uplink) => format!("programs on {}", uplink.entry.device.name),
            Job::Loopback => "program on lo".into(),
            Job::Cgroup => "programs on the cgroup".into(),
            Job::Pins(pins) => match &pins[..] {
                [pin] => format!("pin {}", pin.display()),
                pins => format!("{} pins", pins.len()),
            },
        };
        f.write_str(&text)
    }
}
