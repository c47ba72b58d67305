//! Cgroup hooks on the sockets of the host's own processes: a published port is
//! translated once, when a socket connects or a datagram is sent, and nothing is left
//! to do per packet. What cannot be done here without the program noticing is left to
//! `host_local`.
//!
//! The container sees the address that the host was asked at; of a loopback address
//! the kernel makes the network's gateway address, the source of its route to the
//! container. And a published port is nobody else's: `bind` refuses it.

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr},
    maps::lpm_trie::Key,
    programs::{SockAddrContext, SockContext},
};
use netbpf_common::{
    addr::{ANY, Addr, mapped, unmapped},
    maps::{
        AskedKey, Backend, BackendKey, HostConn, LocalKey, Peer, PeerKey, Port, PortData,
        config::UNHELD_MARK,
        endpoints::NETWORK_SHADOWED,
        host::{ASKED_TICKS, PEER_ANSWERS, PEER_ASKED},
        ports::PORT_UNHELD,
    },
    packet::{IPPROTO_TCP, IPPROTO_UDP, ipv4, ipv6},
    time::since,
};

use crate::{
    ctx::now,
    maps::{CONFIG, HOST_ASKED, HOST_CONNS, HOST_PEERS, LOCALS, VETHS},
    socket::{Call, GO_ON, ending, family_of},
    stage::port,
};

const EADDRINUSE: i32 = 98;

macro_rules! hooks {
    ($($hook:ident $name:ident $v6:literal $run:ident;)*) => {$(
        #[cgroup_sock_addr($hook)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            $run(&Call::<$v6>::new(&ctx))
        }
    )*};
}

hooks! {
    connect4 host_connect4 false connect;
    connect6 host_connect6 true connect;
    sendmsg4 host_sendmsg4 false send;
    sendmsg6 host_sendmsg6 true send;
    recvmsg4 host_recvmsg4 false name;
    recvmsg6 host_recvmsg6 true name;
    getpeername4 host_peername4 false name;
    getpeername6 host_peername6 true name;
    bind4 host_bind4 false bind;
    bind6 host_bind6 true bind;
}

/// The end of a socket takes what is known of it along.
#[cgroup_sock(sock_release)]
pub fn host_release(ctx: SockContext) -> i32 {
    if let Some(cookie) = ending(&ctx) {
        let _ = HOST_CONNS.remove(&cookie);
    }
    GO_ON
}

/// A published port that a call asks for.
struct Asked {
    /// As the program will be told; loopback where it left the address out.
    addr: Addr,
    port: u16,
    published: &'static Port,
}

/// The published port that a call of a process of this host is about.
#[inline(always)]
fn asked<const V6: bool>(call: &Call<V6>) -> Option<Asked> {
    let (addr, port) = call.addr();
    let (family, protocol) = (family_of(&addr), call.protocol());
    if !port::is_published(protocol, family, port) || !is_the_hosts(call) {
        return None;
    }
    let addr = named(addr);
    // Such an address means something else on every link, and is never translated.
    if is_link_local(&addr) {
        return None;
    }
    if !is_local(&addr) {
        return None;
    }
    let mut key = empty_port_key();
    let published = port::look_up(&mut key, family, addr, port, protocol)?;
    Some(Asked {
        addr,
        port,
        published,
    })
}

/// One of the host's own.
#[inline(always)]
fn is_local(addr: &Addr) -> bool {
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    is_loopback(addr) || unsafe { LOCALS.get(&LocalKey { addr: *addr }) }.is_some()
}

/// The address as the program will be told; loopback where it left it out.
#[inline(always)]
fn named(addr: Addr) -> Addr {
    match (is_unspecified(&addr), family_of(&addr)) {
        (false, _) => addr,
        (true, 4) => mapped([127, 0, 0, 1]),
        (true, _) => LOOPBACK6,
    }
}

#[inline(always)]
fn empty_port_key() -> Key<PortData> {
    let data = PortData {
        protocol: 0,
        family: 0,
        addr: ANY,
        port_be: [0; 2],
    };
    Key::new(0, data)
}

impl Asked {
    /// Who is to answer, and at which port.
    #[inline(always)]
    fn backend(&self) -> Option<(&'static Backend, u16)> {
        let mut key = BackendKey {
            share: 0,
            number: 0,
        };
        let to = port::backend(&mut key, self.published, &self.addr)?;
        // The host's route to its address leads to another: it goes by device, packet by
        // packet.
        if to.scope != 0 && is_shadowed(to.ifindex) {
            return None;
        }
        let port = to
            .container_port
            .wrapping_add(self.port.wrapping_sub(to.host_port));
        Some((to, port))
    }
}

/// The host has no route to the container behind that device.
#[inline(always)]
fn is_shadowed(ifindex: u32) -> bool {
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    unsafe { VETHS.get(&ifindex) }.is_none_or(|veth| veth.flags & NETWORK_SHADOWED != 0)
}

fn connect<const V6: bool>(call: &Call<V6>) -> i32 {
    // A socket for datagrams outlives whoever has the port: it hears that the port is
    // taken back, and goes on when it is published anew.
    if call.protocol() != IPPROTO_TCP {
        return GO_ON;
    }
    let Some(asked) = asked(call) else {
        return GO_ON;
    };
    let (bound, bound_port) = call.bound();
    if is_loopback(&bound) {
        // The kernel would refuse to send from there to a container.
        return GO_ON;
    }
    let bind = !is_loopback(&asked.addr) && is_unspecified(&bound);
    // One that was bound to a port cannot be bound again.
    if bind && bound_port != 0 {
        return GO_ON;
    }
    let Some((to, port)) = asked.backend() else {
        return GO_ON;
    };
    let cookie = call.cookie();
    let conn = HostConn {
        addr: asked.addr,
        backend: to.container_addr,
        port: asked.port,
        backend_port: port,
        slot: to.slot,
        generation: to.generation,
        created: now(),
        endpoint: to.endpoint,
        protocol: call.protocol(),
        family: family_of(&asked.addr),
        reserved: [0; 2],
    };
    // Where there is no room, it goes packet by packet.
    if !call.note() || HOST_CONNS.insert(&cookie, &conn, 0).is_err() {
        return GO_ON;
    }
    if bind && !call.bind(&asked.addr) {
        let _ = HOST_CONNS.remove(&cookie);
        return GO_ON;
    }
    call.set_addr(&to.container_addr, port);
    GO_ON
}

/// A datagram of a socket that is not connected.
fn send<const V6: bool>(call: &Call<V6>) -> i32 {
    if let Some(asked) = asked(call) {
        if !goes_by_packet(call)
            && let Some(to) = peer(call, &asked)
        {
            send_to(call, &asked.addr, &to);
        }
        return GO_ON;
    }
    if answer(call) {
        return GO_ON;
    }
    // Whom it has asked before goes on also while the port is drained, when nobody new
    // finds it.
    if !call.is_noted() || goes_by_packet(call) {
        return GO_ON;
    }
    let (addr, port) = call.addr();
    let addr = named(addr);
    if is_local(&addr)
        && let Some(to) = known(&asks(call, &addr, port))
    {
        send_to(call, &addr, &to);
    }
    GO_ON
}

/// An answer of a program that has all addresses to a container that asked at another one
/// than its gateway's: the kernel would choose the gateway's, where nobody was asked.
#[inline(always)]
fn answer<const V6: bool>(call: &Call<V6>) -> bool {
    if !is_unspecified(&call.source()) || call.protocol() != IPPROTO_UDP || !is_the_hosts(call) {
        return false;
    }
    let (addr, port) = call.addr();
    let (_, host_port) = call.bound();
    let key = AskedKey {
        addr,
        port,
        host_port,
    };
    // SAFETY: read once; an entry that another container gets meanwhile names an address
    // of the host all the same.
    let Some(asked) = (unsafe { HOST_ASKED.get(&key) }) else {
        return false;
    };
    let asked = *asked;
    let is_one = since(now(), asked.seen) < ASKED_TICKS
        && family_of(&asked.addr) == family_of(&addr)
        && is_local(&asked.addr);
    if is_one {
        call.set_source(&asked.addr);
    }
    is_one
}

/// A connected socket hears nobody but its peer. (The kernel asks also where the
/// program named nobody, for IPv6 sockets that talk IPv4.)
#[inline(always)]
fn goes_by_packet<const V6: bool>(call: &Call<V6>) -> bool {
    is_loopback(&call.source()) || call.is_connected()
}

#[inline(always)]
fn send_to<const V6: bool>(call: &Call<V6>, asked: &Addr, to: &(Addr, u16)) {
    if is_unspecified(&call.source()) && !is_loopback(asked) {
        call.set_source(asked);
    }
    call.set_addr(&to.0, to.1);
}

#[inline(always)]
fn asks<const V6: bool>(call: &Call<V6>, addr: &Addr, port: u16) -> PeerKey {
    PeerKey {
        cookie: call.cookie(),
        addr: *addr,
        port,
        reserved: 0,
        direction: PEER_ASKED,
    }
}

/// The backend that a socket has had for a port.
#[inline(always)]
fn known(key: &PeerKey) -> Option<(Addr, u16)> {
    // SAFETY: read once; an entry that another socket gets meanwhile says where a
    // datagram goes that its container does not expect.
    let peer = unsafe { HOST_PEERS.get(key) }?;
    port::is_current(peer.slot, peer.generation).then_some((peer.addr, peer.port))
}

/// The backend that a socket has had for a port, or has from now on.
#[inline(always)]
fn peer<const V6: bool>(call: &Call<V6>, asked: &Asked) -> Option<(Addr, u16)> {
    let mut key = asks(call, &asked.addr, asked.port);
    if let Some(to) = known(&key) {
        return Some(to);
    }
    let (to, port) = asked.backend()?;
    let mut peer = Peer {
        addr: to.container_addr,
        port,
        reserved: 0,
        slot: to.slot,
        generation: to.generation,
    };
    if !call.note() || HOST_PEERS.insert(&key, &peer, 0).is_err() {
        return None;
    }
    key.addr = to.container_addr;
    key.port = port;
    key.direction = PEER_ANSWERS;
    peer.addr = asked.addr;
    peer.port = asked.port;
    HOST_PEERS.insert(&key, &peer, 0).ok()?;
    Some((to.container_addr, port))
}

/// Whom the program hears: the address that it asked, for the container's.
fn name<const V6: bool>(call: &Call<V6>) -> i32 {
    if !call.is_noted() {
        return GO_ON;
    }
    let cookie = call.cookie();
    let (addr, port) = call.addr();
    // SAFETY: the entry is this socket's, whose calls come one at a time.
    if let Some(conn) = unsafe { HOST_CONNS.get(&cookie) }
        && conn.backend == addr
        && conn.backend_port == port
    {
        call.set_addr(&conn.addr, conn.port);
        return GO_ON;
    }
    let key = PeerKey {
        cookie,
        addr,
        port,
        reserved: 0,
        direction: PEER_ANSWERS,
    };
    // SAFETY: as in `peer`.
    if let Some(peer) = unsafe { HOST_PEERS.get(&key) } {
        call.set_addr(&peer.addr, peer.port);
    }
    GO_ON
}

/// Refuses ports that are published at the address, or at one of those that it
/// stands for.
fn bind<const V6: bool>(call: &Call<V6>) -> i32 {
    let (addr, port) = call.addr();
    let (family, protocol) = (family_of(&addr), call.protocol());
    // `::` has the IPv4 addresses, too, unless the program says otherwise, which
    // cannot be seen here.
    let held = port::is_held(protocol, family, port)
        || V6 && addr == ANY && port::is_held(protocol, 4, port);
    if !held || !is_the_hosts(call) || call.mark() == UNHELD_MARK {
        return GO_ON;
    }
    if is_unspecified(&addr) {
        return call.refuse(EADDRINUSE);
    }
    let mut key = empty_port_key();
    match port::look_up(&mut key, family, addr, port, protocol) {
        Some(found) if found.flags & PORT_UNHELD == 0 => call.refuse(EADDRINUSE),
        _ => GO_ON,
    }
}

/// The process is one of the host, not of a container in the same cgroup.
#[inline(always)]
fn is_the_hosts<const V6: bool>(call: &Call<V6>) -> bool {
    CONFIG
        .get(0)
        .is_some_and(|config| config.netns_cookie == call.netns_cookie())
}

const LOOPBACK6: Addr = {
    let mut addr = [0; 16];
    addr[15] = 1;
    addr
};

#[inline(always)]
fn is_unspecified(addr: &Addr) -> bool {
    *addr == ANY || *addr == mapped([0; 4])
}

#[inline(always)]
fn is_loopback(addr: &Addr) -> bool {
    *addr == LOOPBACK6 || family_of(addr) == 4 && addr[12] == ipv4::LOOPBACK_NET
}

#[inline(always)]
fn is_link_local(addr: &Addr) -> bool {
    match unmapped(*addr) {
        Some(v4) => ipv4::is_link_local(v4),
        None => ipv6::is_link_local(*addr),
    }
}
