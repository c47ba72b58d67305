//! Endpoints: attached.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Inner,
    attaching::Ticket,
    detach::{clear_dead, of_engine, take_all_away},
    ipam::Refused,
    mac,
    network::DEFAULT,
    now, overlay,
    plan::{self, ContainerFound},
    ports::{Chooser, Chosen, Sharing},
    publish,
    request::{Attached, Request},
    reserved,
    state::State,
    uplinks, view,
};
use crate::{
    error::{Code, Error, Result},
    model::{AttachSpec, DetachSpec},
    store::{EndpointRecord, EndpointState, EngineRecord},
    sys::{netns::Namespace, process},
};

/// The steps that publish all ports of an endpoint.
fn publishing(state: &State, endpoint: &Arc<plan::Endpoint>) -> Vec<plan::Step> {
    let ports = &endpoint.record.ports;
    ports
        .iter()
        .map(|port| state.publishing(endpoint, port))
        .collect()
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
    let (record, chosen) = agree(inner, state, spec, namespace)?;
    let Request {
        spec, namespace, ..
    } = request;
    let done =
        namespace.and_then(|namespace| build(inner, state, &spec, namespace, record.clone()));
    let record = done.inspect_err(|_| overlay::unclaim(inner, state, &record))?;
    chosen.note(state);
    let is_overlay = overlay::is_overlay(state, &record.network);
    state.put_endpoint(record.clone());
    if is_overlay && let Err(error) = overlay::sync(inner, state) {
        // The endpoint's own tables are written; what is missing are ways to others.
        tracing::warn!(%error, "the tables of the overlay");
    }
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
    publish::tell(&record, &record.ports, "published");
    Ok(Attached::Done(Box::new(view::endpoint(inner, &record))))
}

/// Settles what the endpoint is to be, and agrees on it with other nodes.
fn agree(
    inner: &Inner,
    state: &mut State,
    spec: &AttachSpec,
    namespace: &Result<Namespace>,
) -> Result<(EndpointRecord, Chosen)> {
    let mut avoid = Vec::new();
    loop {
        let (record, chosen) = match settle(inner, state, spec, namespace, &avoid) {
            // Who is in the way may have died just now, and not be missed yet.
            Err(error) if clear_dead(inner, state, spec, error.code)? => {
                settle(inner, state, spec, namespace, &avoid)?
            }
            settled => settled?,
        };
        match overlay::claim(inner, state, &record)? {
            None => return Ok((record, chosen)),
            Some(taken) if avoid.len() < overlay::MOST_TRIES => avoid.push(taken),
            Some(taken) => {
                return Err(Error::new(
                    Code::Conflict,
                    format!("address {taken} and others were taken by other nodes again and again"),
                ));
            }
        }
    }
}

/// Makes the endpoint, or leaves nothing of it.
fn build(
    inner: &Inner,
    state: &mut State,
    spec: &AttachSpec,
    namespace: Namespace,
    mut record: EndpointRecord,
) -> Result<EndpointRecord> {
    let index = record.index;

    let internal = state.network_of(&record)?.record.internal;
    let mut looking = inner.apply(&mut state.host);
    let found = looking.look_into(namespace)?;
    let opened = looking.into_open();
    record.ifname = choose_ifname(spec, &found, Path::new(&record.netns))?;
    plan::settle_routes(&mut record, internal, &found);

    inner.store.put_endpoint(&record)?;
    let flags = state.networks[&record.network].flags();
    let endpoint = Arc::new(plan::Endpoint {
        record: Arc::new(record),
        flags,
    });
    let steps = plan::attach(&endpoint, publishing(state, &endpoint));
    let mut apply = inner.apply(&mut state.host);
    apply.keep_open(opened);
    let done = apply.run(&steps);
    let device = apply.device(index).cloned();
    let mut record = EndpointRecord::clone(&endpoint.record);
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
    Ok(record)
}

/// What the endpoint is to be, as far as the container's namespace has no say in
/// it, and where the next search for a port begins. Changes nothing.
fn settle(
    inner: &Inner,
    state: &mut State,
    spec: &AttachSpec,
    namespace: &Result<Namespace>,
    avoid: &[IpAddr],
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
    let (ipv4, ipv6) = choose_addresses(inner, state, &network, &spec.ips, avoid)?;
    let mac = match &spec.mac {
        Some(text) => mac::parse(text)?,
        None => mac::make(ipv4)?,
    };
    let index = state.next_index(inner.settings().max_endpoints, |i| {
        inner.reaper.is_pending(i)
    })?;
    let mtu = view::mtu(
        &state.uplinks,
        inner.vtep(),
        &state.network(&network)?.record,
    );
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

/// Addresses of both families, with their subnets' prefixes.
fn choose_addresses(
    inner: &Inner,
    state: &mut State,
    network: &str,
    wanted: &[IpAddr],
    avoid: &[IpAddr],
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
    let is_overlay = overlay::is_overlay(state, network);
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
        let exhausted = |place: String| {
            Error::new(
                Code::PoolExhausted,
                format!("no free address in {place} of network {network:?}"),
            )
        };
        let address = match wish {
            Some(address) => address,
            None if is_overlay => overlay::next_address(inner, state, network, is_v6, avoid)?,
            None => ipam.next().ok_or_else(|| exhausted(ipam.place()))?,
        };
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
