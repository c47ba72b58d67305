//! Endpoints: attached, detached, and gone by themselves.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Inner,
    attaching::{Ticket, same_caller},
    errors::check_name,
    ipam::Refused,
    mac,
    network::DEFAULT,
    now,
    plan::{self, ContainerFound},
    ports::{Chooser, Chosen, Sharing},
    reaper::Reaper,
    reserved,
    state::State,
    uplinks, view,
};
use crate::{
    error::{Code, Error, Result},
    model::{AttachSpec, DetachSpec, EndpointInfo, NetnsRef, OpenNetns},
    store::{Draining, EndpointRecord, EndpointState, EngineRecord},
    sys::{netns::Namespace, process},
};

/// An attach that was asked for, with what of it needs no state.
pub struct Request {
    spec: AttachSpec,
    /// Whether it is there is told after whether the network is.
    namespace: Result<Namespace>,
    ticket: Option<Ticket>,
}

/// What became of a request.
pub enum Attached {
    Done(Box<EndpointInfo>),
    /// A device is on its way out of the namespace: to be waited for, and asked
    /// again.
    Later(Box<Request>),
}

impl Request {
    /// Opens the namespace, wherever its path leads: nothing else is kept waiting.
    pub fn new(spec: AttachSpec, ticket: Option<Ticket>) -> Result<Request> {
        check_spec(&spec)?;
        let namespace = open_namespace(&spec.netns);
        Ok(Request {
            spec,
            namespace,
            ticket,
        })
    }

    /// Waits until no device of the namespace is on its way out.
    pub fn wait(&self, reaper: &Reaper) {
        if let Ok(namespace) = &self.namespace {
            reaper.wait_for(namespace.id());
        }
    }
}

/// The steps that publish all ports of an endpoint.
fn publishing(state: &State, endpoint: &Arc<plan::Endpoint>) -> Vec<plan::Step> {
    let ports = &endpoint.record.ports;
    ports
        .iter()
        .map(|port| state.publishing(endpoint, port))
        .collect()
}

/// The steps that take back all that an endpoint has published, and what it drains,
/// when it leaves.
pub fn unpublishing(state: &State, endpoint: &Arc<plan::Endpoint>) -> Vec<plan::Step> {
    let record = &endpoint.record;
    // All at once, below.
    let leave = plan::Leave::Later;
    let published = record.ports.iter();
    let published = published.map(|port| state.unpublishing(endpoint, port, leave));
    let draining = record.draining.iter();
    let ended = |d: &Draining| plan::Step::EndConnections(endpoint.clone(), d.port.clone());
    let mut steps: Vec<_> = published.chain(draining.map(ended)).collect();
    if !record.ports.is_empty() {
        let slots = record.ports.iter().map(|p| p.slot);
        steps.push(plan::Step::EndSlots(slots.collect()));
    }
    steps
}

#[tracing::instrument(level = "debug", skip_all, fields(endpoint = request.spec.name))]
pub fn attach(inner: &Inner, state: &mut State, request: Request) -> Result<Attached> {
    if let Ok(namespace) = &request.namespace
        && inner.reaper.is_busy(namespace.id())
    {
        return Ok(Attached::Later(Box::new(request)));
    }
    if request.ticket.as_ref().is_some_and(Ticket::is_given_up) {
        return Err(Error::new(
            Code::Conflict,
            format!(
                "endpoint {:?}: the engine has detached it before it was attached",
                request.spec.name
            ),
        ));
    }
    uplinks::look_for(inner, state, &request.spec.publish);
    let Request {
        spec, namespace, ..
    } = &request;
    replace(inner, state, spec, namespace)?;
    let (mut record, chosen) = match settle(inner, state, spec, namespace) {
        // Who is in the way may have died just now, and not be missed yet.
        Err(error) if clear_dead(inner, state, spec, error.code)? => {
            settle(inner, state, spec, namespace)?
        }
        settled => settled?,
    };
    let Request {
        spec, namespace, ..
    } = request;
    let (namespace, index) = (namespace?, record.index);

    let internal = state.network_of(&record)?.record.internal;
    let mut looking = inner.apply(&mut state.host);
    let found = looking.look_into(namespace)?;
    let opened = looking.into_open();
    record.ifname = choose_ifname(&spec, &found, Path::new(&record.netns))?;
    plan::settle_routes(&mut record, internal, &found);

    inner.store.put_endpoint(&record)?;
    let flags = state.networks[&record.network].flags();
    let endpoint = Arc::new(plan::Endpoint { record, flags });
    let steps = plan::attach(&endpoint, publishing(state, &endpoint));
    let mut apply = inner.apply(&mut state.host);
    apply.keep_open(opened);
    let done = apply.run(&steps);
    let device = apply.device(index).cloned();
    let mut record = endpoint.record.clone();
    let done = done.and_then(|()| {
        record.host_ifindex = device.as_ref().map_or(0, |d| d.ifindex);
        record.state = EndpointState::Attached;
        if let Err(e) = inner.store.put_endpoint(&record) {
            // The undo of the last step and of all before it.
            let undo: Vec<_> = steps.iter().rev().filter_map(plan::Step::undo).collect();
            apply.run_to_end(&undo);
            return Err(e.into());
        }
        Ok(())
    });
    if let Err(error) = done {
        if let Err(e) = inner.store.remove_endpoint(index) {
            tracing::error!(error = %e, "record of a failed attach stays");
        }
        return Err(error);
    }
    chosen.note(state);
    state.put_endpoint(record.clone());
    if let Err(error) = reserved::sync(inner, state) {
        // The port is published all the same; what is lost is the guard against
        // the kernel choosing it for a program of the host.
        tracing::warn!(%error, "ports not reserved");
    }
    tracing::info!(
        endpoint = record.name,
        network = record.network,
        host_ifname = record.host_ifname,
        "endpoint attached"
    );
    Ok(Attached::Done(Box::new(view::endpoint(inner, &record))))
}

/// What the endpoint is to be, as far as the container's namespace has no say in
/// it, and where the next search for a port begins. Changes nothing.
fn settle(
    inner: &Inner,
    state: &mut State,
    spec: &AttachSpec,
    namespace: &Result<Namespace>,
) -> Result<(EndpointRecord, Chosen)> {
    let network = spec.network.as_deref().unwrap_or(DEFAULT).to_owned();
    state.network(&network)?;
    if state.endpoint_on(&spec.name, &network).is_some() {
        return Err(Error::new(
            Code::AlreadyExists,
            format!(
                "endpoint {:?} on network {network:?} exists already",
                spec.name
            ),
        ));
    }
    let namespace = namespace.as_ref().map_err(Clone::clone)?;
    // A name is one container's, on however many networks.
    let elsewhere = state.endpoints_named(&spec.name, None);
    if let Some(other) = elsewhere.iter().find(|r| r.namespace != namespace.id()) {
        return Err(Error::new(
            Code::AlreadyExists,
            format!(
                "endpoint {:?} exists already for another container, on network {:?} in {}",
                spec.name, other.network, other.netns
            ),
        ));
    }
    let (ipv4, ipv6) = choose_addresses(inner, state, &network, &spec.ips)?;
    let mac = match &spec.mac {
        Some(text) => mac::parse(text)?,
        None => mac::make(ipv4)?,
    };
    let index = state.next_index(inner.settings().max_endpoints, |i| {
        inner.reaper.is_pending(i)
    })?;
    let mtu = view::mtu(&state.uplinks, &state.network(&network)?.record);
    let host_ifname = free_host_ifname(state)?;
    let record_of_network = &state.network(&network)?.record;
    let has_wish = |v6: bool| spec.ips.iter().any(|ip| ip.is_ipv6() == v6);
    let mut record = EndpointRecord {
        index,
        serial: state.last_serial + 1,
        state: EndpointState::Attaching,
        name: spec.name.clone(),
        engine: spec.engine.as_ref().map(|e| EngineRecord {
            kind: e.kind,
            container_id: e.container_id.clone(),
            caller: e.caller.clone(),
        }),
        network_index: record_of_network.index,
        gateway: gateway_of(record_of_network, ipv4).and_then(v4),
        gateway6: gateway_of(record_of_network, ipv6).and_then(v6),
        netns: namespace.path().display().to_string(),
        namespace: namespace.id(),
        ifname: String::new(),
        host_ifname,
        host_ifindex: 0,
        mac,
        ipv4: ipv4.and_then(|net| match net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        }),
        ipv6: ipv6.and_then(|net| match net {
            IpNet::V6(net) => Some(net),
            IpNet::V4(_) => None,
        }),
        automatic4: !has_wish(false),
        automatic6: !has_wish(true),
        mtu,
        default4: false,
        default6: false,
        rules: false,
        aliases: spec.aliases.clone(),
        links: spec.links.clone(),
        labels: spec.labels.clone(),
        ports: Vec::new(),
        draining: Vec::new(),
        created_at: now(),
        network,
    };
    let chosen = choose_ports(inner, state, spec, &record)?;
    record.ports = chosen.ports.clone();
    Ok((record, chosen))
}

/// Detaches what an engine's container had in a namespace of before, whose end we were not
/// told: the daemon was away, and something holds the namespace.
fn replace(
    inner: &Inner,
    state: &mut State,
    spec: &AttachSpec,
    namespace: &Result<Namespace>,
) -> Result<()> {
    let (Some(engine), Ok(namespace)) = (&spec.engine, namespace) else {
        return Ok(());
    };
    let before = DetachSpec {
        engine: engine.kind,
        container_id: Some(engine.container_id.clone()),
        ifname: spec.ifname.clone(),
        network: Some(spec.network.as_deref().unwrap_or(DEFAULT).to_owned()),
        caller: engine.caller.clone(),
        except: Vec::new(),
    };
    let mut found = of_engine(state, &before);
    found.retain(|r| r.namespace != namespace.id());
    take_all_away(inner, state, found).map(drop)
}

/// Clears away who may be in the way of a request with that outcome and whose
/// namespace is gone; whether there was anybody.
fn clear_dead(inner: &Inner, state: &mut State, spec: &AttachSpec, code: Code) -> Result<bool> {
    let in_the_way = |r: &EndpointRecord| match code {
        Code::AlreadyExists => r.name == spec.name,
        Code::AddressInUse => r.addresses().any(|(a, _)| spec.ips.contains(&a.addr())),
        _ => false,
    };
    match code {
        Code::PortInUse => clear_dead_publishers(inner, state),
        _ => clear_dead_of(inner, state, in_the_way),
    }
}

/// The same for whoever has published a port.
pub fn clear_dead_publishers(inner: &Inner, state: &mut State) -> Result<bool> {
    clear_dead_of(inner, state, |r| !r.ports.is_empty())
}

fn clear_dead_of(
    inner: &Inner,
    state: &mut State,
    suspect: impl Fn(&EndpointRecord) -> bool,
) -> Result<bool> {
    let mut dead = BTreeSet::new();
    for record in state.endpoints.values().filter(|r| suspect(r)) {
        let (name, ifindex) = (&record.host_ifname, record.host_ifindex);
        if !state.host.other_end_lives(ifindex, name)? {
            dead.insert(record.index);
        }
    }
    gone(inner, state, &dead)?;
    Ok(!dead.is_empty())
}

pub fn detach(
    inner: &Inner,
    state: &mut State,
    name: &str,
    network: Option<&str>,
) -> Result<Vec<EndpointInfo>> {
    let found = state.endpoints_named(name, network);
    let found = found.into_iter().cloned().collect();
    take_all_away(inner, state, found)
}

/// Detaches what an engine has attached. One that fails keeps none of the others.
pub fn detach_of_engine(
    inner: &Inner,
    state: &mut State,
    spec: &DetachSpec,
) -> Result<Vec<EndpointInfo>> {
    let found = of_engine(state, spec);
    take_all_away(inner, state, found)
}

/// The endpoints that are meant.
fn of_engine(state: &State, spec: &DetachSpec) -> Vec<EndpointRecord> {
    let except: HashSet<(&str, &str)> = spec
        .except
        .iter()
        .map(|a| (a.container_id.as_str(), a.ifname.as_str()))
        .collect();
    let same = |said: &Option<String>, ours: &str| said.as_ref().is_none_or(|s| s == ours);
    let is_meant = |r: &EndpointRecord| {
        r.engine.as_ref().is_some_and(|engine| {
            engine.kind == spec.engine
                && same(&spec.container_id, &engine.container_id)
                && same_caller(&spec.caller, &engine.caller)
                && !except.contains(&(engine.container_id.as_str(), r.ifname.as_str()))
        }) && same(&spec.ifname, &r.ifname)
            && same(&spec.network, &r.network)
    };
    let all = state.endpoints.values();
    all.filter(|r| is_meant(r)).map(|r| (**r).clone()).collect()
}

fn take_all_away(
    inner: &Inner,
    state: &mut State,
    found: Vec<EndpointRecord>,
) -> Result<Vec<EndpointInfo>> {
    let leaving: BTreeSet<u32> = found.iter().map(|r| r.index).collect();
    let mut detached = Vec::new();
    for record in found {
        detached.push(view::endpoint(inner, &record));
        take_away(inner, state, record, &leaving, Device::There)?;
    }
    Ok(detached)
}

/// The devices of these endpoints have vanished, and mostly their namespaces with
/// them. One that cannot be cleared away keeps none of the others.
pub fn gone(inner: &Inner, state: &mut State, indexes: &BTreeSet<u32>) -> Result<()> {
    let mut failed = None;
    for index in indexes {
        let Some(record) = state.endpoints.get(index) else {
            continue;
        };
        let record = EndpointRecord::clone(record);
        tracing::info!(
            endpoint = record.name,
            network = record.network,
            "its device is gone: detached"
        );
        if let Err(error) = take_away(inner, state, record, indexes, Device::Gone) {
            tracing::warn!(%error, index, "not detached");
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Whether an endpoint that leaves still has its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    There,
    Gone,
}

#[tracing::instrument(level = "debug", skip_all, fields(endpoint = record.name, network = record.network))]
fn take_away(
    inner: &Inner,
    state: &mut State,
    mut record: EndpointRecord,
    leaving: &BTreeSet<u32>,
    device: Device,
) -> Result<()> {
    record.state = EndpointState::Detaching;
    inner.store.put_endpoint(&record)?;
    let heirs = state.heirs(&record, leaving);
    let endpoint = state.planned(&record);
    let ports = unpublishing(state, &endpoint);
    let mut apply = inner.apply(&mut state.host);
    if device == Device::Gone && heirs.is_empty() {
        apply.trust_paths();
    }
    for error in apply.run_to_end(&plan::detach(&endpoint, ports, heirs)) {
        // What stays has no way to the endpoint once its device is gone, and is
        // swept at the next start.
        tracing::warn!(%error, endpoint = record.name, "not detached cleanly");
    }
    let handed = apply.handed().clone();
    inherit(inner, state, &handed)?;
    // Ports and routes may be another's from now on: should the daemon end before
    // the device is gone, only that is left to be done.
    record.forget_all_but_device();
    inner.store.put_endpoint(&record)?;
    state.remove_endpoint(record.index);
    inner.reaper.remove(state.planned(&record));
    if let Err(error) = reserved::sync(inner, state) {
        tracing::warn!(%error, "reserved ports not taken back");
    }
    tracing::info!(
        endpoint = record.name,
        network = record.network,
        "endpoint detached"
    );
    Ok(())
}

/// Notes who has the default routes now.
pub fn inherit(inner: &Inner, state: &mut State, heirs: &plan::Heirs) -> Result<()> {
    for (heir, is_v6) in [(&heirs.ipv4, false), (&heirs.ipv6, true)] {
        let index = heir.as_ref().map(|h| h.record.index);
        let Some(heir) = index.and_then(|i| state.endpoints.get(&i)) else {
            continue;
        };
        let mut heir = EndpointRecord::clone(heir);
        match is_v6 {
            false => heir.default4 = true,
            true => heir.default6 = true,
        }
        inner.store.put_endpoint(&heir)?;
        state.put_endpoint(heir);
    }
    Ok(())
}

fn check_spec(spec: &AttachSpec) -> Result<()> {
    check_name("endpoint", &spec.name)?;
    for alias in &spec.aliases {
        check_name("alias", alias)?;
    }
    for link in &spec.links {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        check_name("link", name)?;
        check_name("link", alias)?;
    }
    if let Some(engine) = &spec.engine {
        check_container_id(&engine.container_id)?;
    }
    if let Some(ifname) = &spec.ifname {
        let bad = ifname.is_empty()
            || ifname.len() > 15
            || ifname == "."
            || ifname == ".."
            || ifname.contains(|c: char| "/:%".contains(c) || c.is_whitespace() || c.is_control());
        if bad {
            return Err(Error::invalid(format!(
                "interface name {ifname:?}: a name has 1 to 15 bytes and no '/', ':', '%' or space"
            )));
        }
        // Beside the devices' own, these are directories of settings for all.
        if ["all", "default"].contains(&ifname.as_str()) {
            return Err(Error::invalid(format!(
                "interface name {ifname:?} is the kernel's word for all devices"
            )));
        }
    }
    for is_v6 in [false, true] {
        let of_family = spec.ips.iter().filter(|ip| ip.is_ipv6() == is_v6);
        let of_family: Vec<String> = of_family.map(ToString::to_string).collect();
        if of_family.len() > 1 {
            return Err(Error::invalid(format!(
                "endpoint {:?}: more than one address of a family: {}",
                spec.name,
                of_family.join(", ")
            )));
        }
    }
    Ok(())
}

/// What engines allow, and what the CNI and OCI specifications do, with a bound.
fn check_container_id(id: &str) -> Result<()> {
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_+.-".contains(&b));
    match first && rest && id.len() <= 255 {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "container id {id:?}: an id begins with a letter or digit and has at most 255 letters, digits, '_', '+', '.' and '-'"
        ))),
    }
}

fn open_namespace(netns: &NetnsRef) -> Result<Namespace> {
    let (path, shown) = match netns {
        NetnsRef::Opened(open) => {
            return not_our_own(open_of(open)?, &format!("namespace {:?}", open.path));
        }
        NetnsRef::Pid(pid) if *pid <= 0 => {
            return Err(Error::invalid(format!("pid {pid} is not a process")));
        }
        NetnsRef::Pid(pid) => (
            PathBuf::from(format!("/proc/{pid}/ns/net")),
            format!("namespace of process {pid}"),
        ),
        NetnsRef::Netns(name) if name.is_empty() => {
            return Err(Error::invalid(
                "namespace \"\" is neither a path nor a name",
            ));
        }
        NetnsRef::Netns(name) if name.contains('/') => {
            (PathBuf::from(name), format!("namespace {name:?}"))
        }
        NetnsRef::Netns(name) => (
            Path::new("/run/netns").join(name),
            format!("namespace {name:?}"),
        ),
    };
    let namespace = Namespace::open(&path).map_err(|e| match Error::from(e) {
        e if e.code == Code::NotFound => Error::new(
            Code::NotFound,
            format!("{shown} not found: there is no {}", path.display()),
        ),
        // A process may end, a mount go, between the two looks.
        e => e,
    })?;
    not_our_own(namespace, &shown)
}

/// The namespace that another process holds open, and no other one: by its descriptor, or
/// where we see other processes than it does, by its path.
pub fn open_of(open: &OpenNetns) -> Result<Namespace> {
    let path = Path::new(&open.path);
    let is_it = |n: &Namespace| n.id().inode == open.inode;
    let held = Namespace::open_of(path, open.pid, open.fd).ok();
    let found = held
        .filter(is_it)
        .or_else(|| Namespace::open(path).ok().filter(is_it));
    found.ok_or_else(|| {
        Error::new(
            Code::NotFound,
            format!(
                "namespace {:?} not found: the daemon finds it neither there nor as descriptor {} of process {}",
                open.path, open.fd, open.pid
            ),
        )
    })
}

fn not_our_own(namespace: Namespace, shown: &str) -> Result<Namespace> {
    match namespace.id() == Namespace::own()?.id() {
        true => Err(Error::invalid(format!(
            "{shown} is the daemon's own: nothing can be attached to it"
        ))),
        false => Ok(namespace),
    }
}

/// Addresses of both families, with their subnets' prefixes.
fn choose_addresses(
    inner: &Inner,
    state: &mut State,
    network: &str,
    wanted: &[IpAddr],
) -> Result<(Option<IpNet>, Option<IpNet>)> {
    for ip in wanted {
        let ipam = state
            .networks
            .get_mut(network)
            .and_then(|n| n.ipam_of(ip.is_ipv6()));
        let refused = match ipam {
            Some(ipam) => ipam.check(*ip).err(),
            None => Some(Refused::NotInSubnet),
        };
        if let Some(refused) = refused {
            return Err(address_refused(state, network, *ip, &refused));
        }
    }
    let mut choose = |is_v6: bool| -> Result<Option<IpNet>> {
        let Some(net) = state.networks.get_mut(network) else {
            return Ok(None);
        };
        if is_v6 && !inner.ipv6 {
            return Ok(None);
        }
        let Some(ipam) = net.ipam_of(is_v6) else {
            return Ok(None);
        };
        let subnet = ipam.subnet();
        if is_v6 && let Some(why) = state.sysctls.ipv6_disabled() {
            return Err(Error::new(
                Code::Conflict,
                format!(
                    "network {network:?} has IPv6, which was switched off on this host while the daemon runs ({why}): switch it on, or start the daemon anew"
                ),
            ));
        }
        let wish = wanted.iter().find(|ip| ip.is_ipv6() == is_v6).copied();
        let address = wish.or_else(|| ipam.next());
        let address = address.ok_or_else(|| {
            let place = ipam.place();
            Error::new(
                Code::PoolExhausted,
                format!("no free address in {place} of network {network:?}"),
            )
        })?;
        IpNet::new(address, subnet.prefix_len())
            .map(Some)
            .map_err(Error::internal)
    };
    Ok((choose(false)?, choose(true)?))
}

fn address_refused(state: &State, network: &str, ip: IpAddr, refused: &Refused) -> Error {
    let (code, why) = match refused {
        Refused::NotInSubnet => (
            Code::AddressNotInSubnet,
            format!("is in no subnet of network {network:?}"),
        ),
        Refused::Reserved => (
            Code::AddressNotInSubnet,
            format!("is the network or broadcast address of a subnet of network {network:?}"),
        ),
        Refused::Gateway => (
            Code::AddressInUse,
            format!("is the gateway of network {network:?}"),
        ),
        Refused::InUse(owner) => {
            let name = state.endpoints.get(owner).map_or("?", |e| e.name.as_str());
            (
                Code::AddressInUse,
                format!("is in use by endpoint {name:?} on network {network:?}"),
            )
        }
    };
    Error::new(code, format!("address {ip} {why}"))
}

fn choose_ports(
    inner: &Inner,
    state: &State,
    spec: &AttachSpec,
    record: &EndpointRecord,
) -> Result<Chosen> {
    if spec.publish.is_empty() && !spec.publish_all {
        return Ok(Chosen::none(state));
    }
    let sharing = Sharing::from(spec.share);
    let mut chooser = Chooser::new(state, inner.settings().publish_ip, record, sharing)?;
    if spec.engine.as_ref().is_some_and(|e| e.holds_ports) {
        chooser.leave_to_engine();
    }
    for text in &spec.publish {
        chooser.choose(text)?;
    }
    if spec.publish_all {
        chooser.choose_exposed(&spec.expose)?;
    }
    Ok(chooser.finish())
}

fn choose_ifname(spec: &AttachSpec, found: &ContainerFound, path: &Path) -> Result<String> {
    match &spec.ifname {
        None => Ok(found.free_ifname()),
        Some(name) if found.devices.contains(name) => Err(Error::new(
            Code::InterfaceExists,
            format!("interface {name:?} exists already in {}", path.display()),
        )),
        Some(name) => Ok(name.clone()),
    }
}

/// A name for the host's end that no device has: an attach that fails removes
/// the device of its name.
fn free_host_ifname(state: &mut State) -> Result<String> {
    loop {
        let name = plan::host_ifname(u32::from_ne_bytes(process::random()?));
        if state.host.link(&name)?.is_none() {
            return Ok(name);
        }
    }
}

fn gateway_of(network: &crate::store::NetworkRecord, address: Option<IpNet>) -> Option<IpAddr> {
    let is_v6 = address?.addr().is_ipv6();
    network.subnet_of(is_v6).map(|s| s.gateway)
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<std::net::Ipv6Addr> {
    match address {
        IpAddr::V6(a) => Some(a),
        IpAddr::V4(_) => None,
    }
}
