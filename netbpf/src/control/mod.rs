//! The one way to change anything: validate, store the intent, plan, apply,
//! store the outcome.
//!
//! Changes come one at a time, each in a thread that may block: a change that
//! was begun is finished also when whoever asked for it has gone. `plan` says
//! which steps lead where (pure), `apply` takes them; `recover` brings the
//! kernel to what the store says at start, `follow` reacts to what changes by
//! itself, `repair` puts back what others undo, `reaper` frees devices behind a
//! detach. `doctor` says what of all that is not as it should be.

mod apply;
mod attaching;
mod check;
mod detach;
mod devices;
mod doctor;
mod endpoint;
mod errors;
mod flows;
mod follow;
mod host;
mod ipam;
mod mac;
mod monitor;
mod network;
mod overlay;
mod plan;
mod ports;
mod portset;
pub(crate) mod portspec;
mod programs;
mod publish;
mod published;
mod reaper;
#[cfg(test)]
mod records_fuzz;
mod recover;
mod repair;
mod request;
mod reserved;
mod seen;
mod services;
mod sources;
mod state;
mod teardown;
mod upgrade;
mod uplinks;
mod view;

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64},
    },
};

use netbpf_common::flow::Timeouts;
use tokio::{
    runtime::Handle,
    sync::{Mutex, Notify},
};

use self::{
    apply::Apply,
    attaching::Attaching,
    flows::Wanted,
    monitor::Monitor,
    overlay::node as nodes,
    reaper::Reaper,
    repair::Repairs,
    request::{Attached, Request},
    seen::Seen,
    state::State,
};
pub(crate) use self::{errors::check_name, mac::parse as parse_mac};
pub use self::{monitor::EventStream, network::DEFAULT as DEFAULT_NETWORK};
use crate::{
    cluster::Cluster,
    datapath::Datapath,
    error::{Code, Error, Result},
    metrics::Figures,
    model::*,
    settings::Settings,
    store::Store,
    sys::{
        bpffs::Prepared,
        lock::{DirectoryLock, NamespaceLock},
        netlink::Netlink,
        sysctl::Sysctls,
    },
};

/// The daemon's state; cheap to clone.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    /// Asked for by [`Inner::settings`], as they may change.
    settings: RwLock<Arc<Settings>>,
    /// Declared before the store: it ends, and lets go of the store, first.
    reaper: Reaper,
    store: Arc<Store>,
    datapath: Arc<Datapath>,
    state: Arc<Mutex<State>>,
    /// What the state was after the last change; asked for by [`Inner::seen`].
    seen: RwLock<Arc<Seen>>,
    /// Who reads what the programs tell.
    monitor: Arc<Monitor>,
    /// Whether the host has IPv6; asked once, at start.
    ipv6: bool,
    /// The host's.
    sysctls: Arc<Sysctls>,
    bpffs: Prepared,
    /// What nodes agree on, where there are others.
    cluster: Option<Cluster>,
    runtime: Handle,
    /// Told when devices have come or gone.
    overlay_wake: Arc<Notify>,
    /// Of etcd: all up to there is in the overlay's tables.
    overlay_revision: AtomicI64,
    /// Entries of the overlay's tables that others had changed.
    overlay_repairs: AtomicU64,
    /// What engines wait for.
    attaching: Attaching,
    /// Told when a port begins to be drained.
    drains: Arc<Notify>,
    /// What others had undone.
    repairs: Repairs,
    /// Addresses that the host has lost a moment ago.
    lost: repair::Lost,
    /// How often the kernel told more than was heard in time.
    overruns: AtomicU64,
    /// Let go of last.
    _locks: (NamespaceLock, DirectoryLock),
}

impl Control {
    /// Opens store and datapath, brings the kernel to what the store says and
    /// follows what changes.
    pub async fn start(settings: Settings) -> Result<Control> {
        Control::start_with(settings, NamespaceLock::take()?).await
    }

    /// The same for who holds the network namespace already.
    pub async fn start_with(settings: Settings, lock: NamespaceLock) -> Result<Control> {
        let inner = tokio::task::spawn_blocking(move || recover::start(settings, lock))
            .await
            .map_err(Error::internal)??;
        let inner = Arc::new(inner);
        follow::spawn(&inner)?;
        overlay::start(&inner).await;
        Ok(Control { inner })
    }

    pub async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkInfo> {
        self.change(move |inner, state| network::create(inner, state, spec))
            .await
    }

    pub async fn networks(&self) -> Result<Vec<NetworkInfo>> {
        Ok(view::networks(&self.inner, &self.inner.seen()))
    }

    pub async fn network(&self, name: &str) -> Result<NetworkInfo> {
        let seen = self.inner.seen();
        Ok(view::network(&self.inner, &seen, seen.network(name)?))
    }

    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.change(move |inner, state| network::remove(inner, state, &name))
            .await
    }

    /// Removes networks without endpoints, `default` aside; returns their names.
    pub async fn network_prune(&self) -> Result<Vec<String>> {
        self.change(network::prune).await
    }

    pub async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        self.look(|inner, seen| Ok(nodes::list(inner, seen))).await
    }

    pub async fn node(&self, name: &str) -> Result<NodeInfo> {
        let name = name.to_owned();
        self.look(move |inner, seen| nodes::inspect(inner, seen, &name))
            .await
    }

    /// Takes a node that is away out of the cluster, with all that it had.
    pub async fn node_remove(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.look(move |inner, _| nodes::remove(inner, &name)).await
    }

    /// Whether a node is to get new endpoints.
    pub async fn node_drain(&self, name: &str, drained: bool) -> Result<NodeInfo> {
        let name = name.to_owned();
        self.look(move |inner, seen| nodes::drain(inner, seen, &name, drained))
            .await
    }

    pub async fn attach(&self, spec: AttachSpec) -> Result<EndpointInfo> {
        let ticket = self.inner.attaching.enter(&spec);
        let mut request = blocking(move || Request::new(spec, ticket)).await?;
        loop {
            let inner = self.inner.clone();
            request = blocking(move || {
                request.wait(&inner.reaper);
                Ok(request)
            })
            .await?;
            let attach =
                move |inner: &Inner, state: &mut State| endpoint::attach(inner, state, request);
            match self.change(attach).await? {
                Attached::Done(info) => return Ok(*info),
                Attached::Later(again) => request = *again,
            }
        }
    }

    /// Idempotent; returns what was detached.
    pub async fn detach(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        let (name, network) = (name.to_owned(), network.map(str::to_owned));
        self.change(move |inner, state| detach::detach(inner, state, &name, network.as_deref()))
            .await
    }

    /// Takes away what an engine has attached, and what of it still waits to be.
    pub async fn detach_of_engine(&self, spec: DetachSpec) -> Result<Vec<EndpointInfo>> {
        self.inner.attaching.give_up(&spec);
        self.change(move |inner, state| detach::detach_of_engine(inner, state, &spec))
            .await
    }

    pub async fn endpoints(&self, filter: EndpointFilter) -> Result<Vec<EndpointInfo>> {
        self.look(move |inner, seen| view::endpoints(inner, seen, &filter))
            .await
    }

    /// Compares the endpoints of a name with what is in the kernel.
    pub async fn check(&self, name: &str, spec: CheckSpec) -> Result<Vec<Difference>> {
        let name = name.to_owned();
        self.look(move |_, seen| check::check(seen, &name, &spec))
            .await
    }

    /// The endpoints of a name: one per network, `not_found` when there is none.
    pub async fn endpoint(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        let (name, network) = (name.to_owned(), network.map(str::to_owned));
        self.look(move |inner, seen| view::endpoints_named(inner, seen, &name, network.as_deref()))
            .await
    }

    pub async fn publish(&self, name: &str, spec: PublishSpec) -> Result<EndpointInfo> {
        let name = name.to_owned();
        self.change(move |inner, state| publish::publish(inner, state, &name, &spec))
            .await
    }

    pub async fn unpublish(&self, name: &str, spec: UnpublishSpec) -> Result<EndpointInfo> {
        let name = name.to_owned();
        self.change(move |inner, state| publish::unpublish(inner, state, &name, &spec))
            .await
    }

    /// Changes allow lists and weights of published ports.
    pub async fn update(&self, name: &str, spec: UpdateSpec) -> Result<EndpointInfo> {
        let name = name.to_owned();
        self.change(move |inner, state| publish::update(inner, state, &name, &spec))
            .await
    }

    pub async fn ports(&self, name: Option<&str>) -> Result<Vec<PortOf>> {
        view::ports(&self.inner.seen(), name)
    }

    pub async fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowInfo>> {
        self.look(move |inner, seen| {
            let wanted = Wanted::of(seen, &filter)?;
            let flows = inner.datapath.flows()?;
            let meant = flows.iter().filter(|flow| wanted.fits(flow));
            Ok(meant
                .map(|flow| view::flow(flow, &seen.endpoints))
                .collect())
        })
        .await
    }

    /// Forgets the flows that fit the filter.
    pub async fn flows_flush(&self, filter: FlowFilter) -> Result<FlushInfo> {
        self.look(move |inner, seen| {
            if seen.closed {
                return Err(Error::new(Code::Unavailable, "the daemon is about to end"));
            }
            let wanted = Wanted::of(seen, &filter)?;
            let tell = |event| inner.monitor.tell(event);
            let flushed = inner.datapath.flush(|flow| wanted.fits(flow), &tell)?;
            Ok(FlushInfo {
                flows: flushed.flows,
                mappings: flushed.mappings,
            })
        })
        .await
    }

    pub async fn drops(
        &self,
        endpoint: Option<&str>,
        network: Option<&str>,
    ) -> Result<Vec<DropInfo>> {
        let (endpoint, network) = (endpoint.map(str::to_owned), network.map(str::to_owned));
        self.look(move |inner, seen| {
            view::drops(inner, seen, endpoint.as_deref(), network.as_deref())
        })
        .await
    }

    /// What happens from now on, as far as it is asked for. It ends with the daemon.
    pub async fn events(&self, filter: EventFilter) -> Result<EventStream> {
        monitor::listen(&self.inner, filter)
    }

    /// What Prometheus reads.
    pub async fn figures(&self) -> Result<Figures> {
        self.look(view::figures).await
    }

    pub async fn status(&self) -> Result<StatusInfo> {
        self.look(view::status).await
    }

    /// Looks at all that can be wrong.
    pub async fn doctor(&self) -> Result<Vec<Finding>> {
        doctor::with_daemon(&self.inner).await
    }

    /// The same without a running daemon, as far as it goes; `why` there is none.
    pub fn doctor_offline(settings: &Settings, socket: &Path, why: &str) -> Vec<Finding> {
        doctor::without_daemon(settings, socket, why)
    }

    /// Goes on with these, as far as they can change while the daemon runs.
    pub async fn reload(&self, settings: Settings) -> Result<()> {
        self.change(move |inner, state| {
            let before = inner.settings();
            inner.set_settings(Arc::new(settings));
            let mut apply = || -> Result<()> {
                inner.set_timeouts(inner.settings().timeouts)?;
                uplinks::refresh(inner, state)?;
                reserved::sync(inner, state)
            };
            apply().inspect_err(|_| {
                let timeouts = before.timeouts;
                inner.set_settings(before);
                if let Err(error) = inner.set_timeouts(timeouts) {
                    tracing::warn!(%error, "time-outs stay changed");
                }
            })
        })
        .await
    }

    /// Removes every link, program, map, route and pin; with `purge` the state
    /// directory's content too. The daemon is to end afterwards. What could not be
    /// removed can be tried again.
    pub async fn teardown(&self, purge: bool) -> Result<()> {
        Inner::alone(self.inner.clone(), move |inner, state| {
            teardown::online(inner, state, purge)
        })
        .await
    }

    /// What a start with these settings would do to the datapath that is there.
    pub fn upgrade_check(settings: &Settings) -> Result<Vec<UpgradeInfo>> {
        upgrade::check(settings)
    }

    /// The same without a running daemon, from the store and what is found.
    pub async fn teardown_offline(settings: &Settings, purge: bool) -> Result<()> {
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || teardown::offline(&settings, purge))
            .await
            .map_err(Error::internal)?
    }

    /// Returns when nothing is left half-done; nothing is changed any more then.
    /// The datapath goes on.
    pub async fn shutdown(&self) -> Result<()> {
        Inner::alone(self.inner.clone(), |inner, state| {
            state.closed = true;
            inner.reaper.wait_for_all();
            overlay::keep_rests(inner, state);
            Ok(())
        })
        .await
    }

    /// Does work that may change things, alone, in a thread that may block.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        Inner::change(self.inner.clone(), work).await
    }

    /// Looks at what is there, in a thread that may block, and waits for no change.
    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &Seen) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        blocking(move || work(&inner, &inner.seen())).await
    }
}

impl Inner {
    /// What takes steps on this host.
    fn apply<'a>(&'a self, host: &'a mut Netlink) -> Apply<'a> {
        Apply::new(host, &self.sysctls, Some(&self.datapath), self.ipv6)
    }

    /// Where this node takes in VXLAN.
    fn vtep(&self) -> Option<IpAddr> {
        self.cluster.as_ref().map(|cluster| cluster.me().address)
    }

    /// Those of this moment.
    fn settings(&self) -> Arc<Settings> {
        // The pointer is whole whatever panicked beside it.
        let settings = self.settings.read();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_timeouts(&self, timeouts: Timeouts) -> Result<()> {
        Ok(self.datapath.set_timeouts(timeouts)?)
    }

    fn set_settings(&self, settings: Arc<Settings>) {
        let place = self.settings.write();
        *place.unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// The state after the last change.
    fn seen(&self) -> Arc<Seen> {
        let seen = self.seen.read();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this is what can be seen.
    fn show(&self, state: &State) {
        let place = self.seen.write();
        *place.unwrap_or_else(PoisonError::into_inner) = Arc::new(state.seen());
    }

    async fn change<T: Send + 'static>(
        inner: Arc<Inner>,
        work: impl FnOnce(&Inner, &mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        Inner::alone(inner, |inner, state| match state.closed {
            true => Err(Error::new(Code::Unavailable, "the daemon is about to end")),
            false => work(inner, state),
        })
        .await
    }

    /// Also when the daemon is about to end.
    async fn alone<T: Send + 'static>(
        inner: Arc<Inner>,
        work: impl FnOnce(&Inner, &mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut state = inner.state.clone().lock_owned().await;
        blocking(move || {
            let done = work(&inner, &mut state);
            // Before the answer: who asks next sees what was done.
            inner.show(&state);
            done
        })
        .await
    }
}

/// Does work that needs no state in a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::internal)?
}

/// RFC 3339, to the second.
fn now() -> String {
    let now = jiff::Timestamp::now();
    // Cut off, not rounded: nothing was made in the future.
    let second = jiff::Timestamp::from_second(now.as_second());
    second.unwrap_or(now).to_string()
}
