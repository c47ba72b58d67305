//! Access to the contexts of cgroup programs: a program's call on a socket, and the
//! socket itself.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr, sockaddr},
    helpers::{
        bpf_bind, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval, bpf_sk_storage_get,
    },
    programs::{SockAddrContext, SockContext},
};
use netbpf_common::addr::{Addr, mapped, unmapped};

use crate::maps::HOST_MARKS;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// `struct sockaddr_in`.
#[repr(C)]
#[derive(Default)]
struct SockaddrIn {
    family: u16,
    port_be: u16,
    addr: u32,
    zero: [u32; 2],
}

/// `struct sockaddr_in6`.
#[repr(C)]
#[derive(Default)]
struct SockaddrIn6 {
    family: u16,
    port_be: u16,
    flowinfo: u32,
    addr: Addr,
    scope: u32,
}

/// What a cgroup program says of a call.
pub const GO_ON: i32 = 1;
const REFUSE: i32 = 0;

/// A call on a socket, of an IPv4 hook or of an IPv6 one (`V6`). Addresses are in
/// 16-byte form, ports in the machine's byte order.
pub struct Call<const V6: bool> {
    ctx: *mut bpf_sock_addr,
}

/// Reads four words of the context one by one: the verifier translates each access.
macro_rules! words {
    ($($field:tt)+) => {{
        // SAFETY: fields of the context, or of a socket that outlives the call.
        let words = unsafe {
            [
                core::ptr::read_volatile(&raw const $($field)+[0]),
                core::ptr::read_volatile(&raw const $($field)+[1]),
                core::ptr::read_volatile(&raw const $($field)+[2]),
                core::ptr::read_volatile(&raw const $($field)+[3]),
            ]
        };
        // SAFETY: same size, any bytes are valid.
        unsafe { core::mem::transmute::<[u32; 4], Addr>(words) }
    }};
}

macro_rules! set_words {
    ($addr:expr, $($field:tt)+) => {{
        // SAFETY: same size, any bytes are valid.
        let words = unsafe { core::mem::transmute::<Addr, [u32; 4]>(*$addr) };
        // SAFETY: fields of the context that the hook may write.
        unsafe {
            core::ptr::write_volatile(&raw mut $($field)+[0], words[0]);
            core::ptr::write_volatile(&raw mut $($field)+[1], words[1]);
            core::ptr::write_volatile(&raw mut $($field)+[2], words[2]);
            core::ptr::write_volatile(&raw mut $($field)+[3], words[3]);
        }
    }};
}

#[inline(always)]
fn v4_word(addr: &Addr) -> u32 {
    u32::from_ne_bytes([addr[12], addr[13], addr[14], addr[15]])
}

impl<const V6: bool> Call<V6> {
    #[inline(always)]
    pub fn new(ctx: &SockAddrContext) -> Self {
        Call { ctx: ctx.sock_addr }
    }

    /// The address and port that the call is about.
    #[inline(always)]
    pub fn addr(&self) -> (Addr, u16) {
        // SAFETY: reading the context.
        let port = u16::from_be(unsafe { (*self.ctx).user_port } as u16);
        let addr = if V6 {
            words!((*self.ctx).user_ip6)
        } else {
            // SAFETY: as above.
            mapped(unsafe { (*self.ctx).user_ip4 }.to_ne_bytes())
        };
        (addr, port)
    }

    /// Makes the call one about this address and port, of the same family.
    #[inline(always)]
    pub fn set_addr(&self, addr: &Addr, port: u16) {
        if V6 {
            set_words!(addr, (*self.ctx).user_ip6);
        } else {
            // SAFETY: a field of the context that the hook may write.
            unsafe { (*self.ctx).user_ip4 = v4_word(addr) };
        }
        // SAFETY: as above.
        unsafe { (*self.ctx).user_port = port.to_be().into() };
    }

    /// Source of an unconnected datagram; unspecified where the kernel will choose.
    #[inline(always)]
    pub fn source(&self) -> Addr {
        if V6 {
            words!((*self.ctx).msg_src_ip6)
        } else {
            // SAFETY: reading the context.
            mapped(unsafe { (*self.ctx).msg_src_ip4 }.to_ne_bytes())
        }
    }

    #[inline(always)]
    pub fn set_source(&self, addr: &Addr) {
        if V6 {
            set_words!(addr, (*self.ctx).msg_src_ip6);
        } else {
            // SAFETY: a field of the context that the hook may write.
            unsafe { (*self.ctx).msg_src_ip4 = v4_word(addr) };
        }
    }

    /// The address and port that the socket is bound to; 0 where it is to none.
    #[inline(always)]
    pub fn bound(&self) -> (Addr, u16) {
        // SAFETY: reading the context; the socket outlives the call.
        let sk = unsafe { (*self.ctx).__bindgen_anon_1.sk };
        if sk.is_null() {
            return ([0; 16], 0);
        }
        let addr = if V6 {
            words!((*sk).src_ip6)
        } else {
            // SAFETY: as above.
            mapped(unsafe { (*sk).src_ip4 }.to_ne_bytes())
        };
        // SAFETY: as above.
        (addr, unsafe { (*sk).src_port } as u16)
    }

    /// The socket has a peer.
    #[inline(always)]
    pub fn is_connected(&self) -> bool {
        /// `net/tcp_states.h`; of sockets for datagrams as well.
        const TCP_ESTABLISHED: u32 = 1;
        // SAFETY: reading the context; the socket outlives the call.
        unsafe {
            let sk = (*self.ctx).__bindgen_anon_1.sk;
            !sk.is_null() && (*sk).state == TCP_ESTABLISHED
        }
    }

    /// `SO_MARK` of the socket.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: reading the context; the socket outlives the call.
        unsafe {
            let sk = (*self.ctx).__bindgen_anon_1.sk;
            if sk.is_null() { 0 } else { (*sk).mark }
        }
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        // SAFETY: reading the context.
        unsafe { (*self.ctx).protocol as u8 }
    }

    /// Cookie of the network namespace of the socket (`SO_NETNS_COOKIE`).
    #[inline(always)]
    pub fn netns_cookie(&self) -> u64 {
        // SAFETY: `ctx` is the context of the program.
        unsafe { bpf_get_netns_cookie(self.ctx.cast()) }
    }

    /// Cookie of the socket (`SO_COOKIE`).
    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_get_socket_cookie(self.ctx.cast()) }
    }

    /// Notes that something is known of the socket.
    #[inline(always)]
    pub fn note(&self) -> bool {
        // SAFETY: reading the context.
        let sk = unsafe { (*self.ctx).__bindgen_anon_1.sk };
        note(sk.cast(), BPF_SK_STORAGE_GET_F_CREATE.into())
    }

    /// Is something known of the socket?
    #[inline(always)]
    pub fn is_noted(&self) -> bool {
        // SAFETY: reading the context.
        let sk = unsafe { (*self.ctx).__bindgen_anon_1.sk };
        note(sk.cast(), 0)
    }

    /// Binds the socket to an address, leaving the port to `connect`; whether the
    /// kernel did.
    #[inline(always)]
    pub fn bind(&self, addr: &Addr) -> bool {
        if V6 {
            let mut name = SockaddrIn6 {
                family: AF_INET6,
                addr: *addr,
                ..SockaddrIn6::default()
            };
            self.bind_to((&raw mut name).cast(), size_of::<SockaddrIn6>())
        } else {
            let mut name = SockaddrIn {
                family: AF_INET,
                addr: v4_word(addr),
                ..SockaddrIn::default()
            };
            self.bind_to((&raw mut name).cast(), size_of::<SockaddrIn>())
        }
    }

    #[inline(always)]
    fn bind_to(&self, name: *mut sockaddr, len: usize) -> bool {
        // SAFETY: `name` is a whole address of `len` bytes.
        unsafe { bpf_bind(self.ctx, name, len as i32) == 0 }
    }

    /// Refuses the call with an error number.
    #[inline(always)]
    pub fn refuse(&self, errno: i32) -> i32 {
        // SAFETY: takes a number only.
        unsafe { bpf_set_retval(-errno) };
        REFUSE
    }
}

/// A socket that ends: its cookie, if something is known of it.
#[inline(always)]
pub fn ending(ctx: &SockContext) -> Option<u64> {
    // SAFETY: the context is the socket.
    note(ctx.sock.cast(), 0).then(|| unsafe { bpf_get_socket_cookie(ctx.as_ptr()) })
}

#[inline(always)]
fn note(sk: *mut c_void, flags: u64) -> bool {
    let map = (&raw const HOST_MARKS).cast_mut().cast();
    // SAFETY: the map is one of socket storage, `sk` the context's socket.
    !unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), flags) }.is_null()
}

/// 4 or 6.
#[inline(always)]
pub fn family_of(addr: &Addr) -> u8 {
    if unmapped(*addr).is_some() { 4 } else { 6 }
}
