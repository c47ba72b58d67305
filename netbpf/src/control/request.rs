//! What of an attach needs no state: whether it makes sense, and the namespace that it
//! is about, opened wherever its path leads.

use std::path::{Path, PathBuf};

use super::{attaching::Ticket, errors::check_name, reaper::Reaper};
use crate::{
    error::{Code, Error, Result},
    model::{AttachSpec, EndpointInfo, NetnsRef, OpenNetns},
    sys::netns::Namespace,
};

/// An attach that was asked for, with what of it needs no state.
pub struct Request {
    pub spec: AttachSpec,
    /// Whether it is there is told after whether the network is.
    pub namespace: Result<Namespace>,
    pub ticket: Option<Ticket>,
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
