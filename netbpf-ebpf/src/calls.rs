//! Steps that are functions of their own for the verifier: it goes through each
//! once, whatever paths lead there, so that the number of instructions it
//! verifies is a sum and not a product. They take the context and numbers alone;
//! what else they need stands in the per-CPU working space.

use aya_ebpf::bindings::__sk_buff;
use netbpf_common::{drop::DropReason, packet::tcp, verdict::Coded};

use crate::{
    ctx::Skb,
    emit,
    family::{Family, V4, V6, scratch},
    programs::{HEADERS, parse_into},
    stage::{
        Step, arp, displaced, evict, flow, fragment, icmp_error, masquerade, nd, overlay,
        pool::{self, Wanted},
        port::{self, Client},
        refuse,
        renew::give_up,
        route,
    },
};

/// A step's outcome as one number; `Err` is a drop.
#[inline(always)]
fn code(step: Step) -> u64 {
    match step {
        Ok(coded) => coded.to_bits(),
        Err(reason) => Coded::drop(reason).to_bits(),
    }
}

#[inline(always)]
fn reason(number: u32) -> DropReason {
    DropReason::from_number(number as u8).unwrap_or(DropReason::Helper)
}

macro_rules! of_family {
    (
        $family:ty, $parse:ident, $parse_quote:ident, $follow:ident, $route:ident, $masquerade:ident, $port:ident, $refuse:ident, $advance:ident,
        $try_outside:ident, $try_source:ident, $quoted:ident, $fragment:ident,
        $remember:ident, $record:ident, $clear:ident, $search:ident,
        $enter_tunnel:ident, $leave_tunnel:ident, $ask_way:ident, $learn_mtu:ident, $is_free:ident,
        $place:ident
    ) => {
        /// Parses the packet; a `Parsed`.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $parse(skb: *mut __sk_buff, l3: u32, arrival: u32) -> u32 {
            let skb = &Skb::from_raw(skb);
            match scratch::<$family>() {
                Ok((p, _)) => {
                    parse_into::<$family>(skb, p, l3 as usize & 0xf, arrival as u16) as u32
                }
                Err(_) => 0,
            }
        }

        /// Parses the packet that an ICMP error quotes; not 0 where it can be.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $parse_quote(skb: *mut __sk_buff) -> u32 {
            let skb = &Skb::from_raw(skb);
            match scratch::<$family>() {
                Ok((p, room)) => u32::from(icmp_error::parse::<$family>(skb, p, room).is_some()),
                Err(_) => 0,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $follow(skb: *mut __sk_buff, sender: u32) -> u64 {
            let skb = &Skb::from_raw(skb);
            code(
                scratch::<$family>()
                    .and_then(|(p, room)| flow::follow::<$family>(skb, p, room, sender)),
            )
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $route(skb: *mut __sk_buff) -> u64 {
            let skb = &Skb::from_raw(skb);
            code(scratch::<$family>().and_then(|(_, room)| route::ask::<$family>(skb, room)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $masquerade(skb: *mut __sk_buff) -> u64 {
            let skb = &Skb::from_raw(skb);
            match scratch::<$family>() {
                Ok((p, room)) => {
                    // As in `port`.
                    let verdict = code(masquerade::begin::<$family>(skb, p, room));
                    give_up::<$family>(p, room);
                    verdict
                }
                Err(reason) => code(Err(reason)),
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $port(skb: *mut __sk_buff, client: u32) -> u64 {
            let skb = &Skb::from_raw(skb);
            match scratch::<$family>() {
                Ok((p, room)) => {
                    let client = Client::from_number(client);
                    // As a number, before it is kept over calls: half of it may be nothing.
                    let verdict = code(port::begin::<$family>(skb, p, room, client));
                    give_up::<$family>(p, room);
                    verdict
                }
                Err(reason) => code(Err(reason)),
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $refuse(skb: *mut __sk_buff, number: u32) -> u64 {
            let skb = &Skb::from_raw(skb);
            let reason = reason(number);
            code(
                scratch::<$family>()
                    .and_then(|(p, room)| refuse::answer::<$family>(skb, p, room, reason)),
            )
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $advance(seen: u32, opens: u32, scale: u32) -> u64 {
            code(scratch::<$family>().and_then(|(p, room)| {
                flow::advance::<$family>(p, room, seen as u8, opens != 0, scale as u8)
            }))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $quoted(skb: *mut __sk_buff, sender: u32) -> u64 {
            let skb = &Skb::from_raw(skb);
            code(scratch::<$family>().and_then(|(p, room)| {
                room.past = 0;
                icmp_error::follow::<$family>(skb, p, room, sender)
            }))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $fragment(skb: *mut __sk_buff, sender: u32) -> u64 {
            let skb = &Skb::from_raw(skb);
            code(scratch::<$family>().and_then(|(p, room)| {
                room.past = 0;
                fragment::follow::<$family>(skb, p, room, sender)
            }))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $remember(skb: *mut __sk_buff) -> u64 {
            let skb = &Skb::from_raw(skb);
            code(
                scratch::<$family>()
                    .and_then(|(p, room)| fragment::remember::<$family>(skb, p, room)),
            )
        }

        /// Tries an outside port.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $try_outside(skb: *mut __sk_buff, candidate: u32, idle: u32) -> u32 {
            let skb = &Skb::from_raw(skb);
            match scratch::<$family>() {
                Ok((p, room)) => {
                    masquerade::try_port::<$family>(skb, p, room, candidate as u16, idle != 0)
                }
                Err(_) => 0,
            }
        }

        /// Looks for an outside port.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $search(skb: *mut __sk_buff, wanted: u32) -> u32 {
            let skb = &Skb::from_raw(skb);
            match scratch::<$family>() {
                Ok((p, room)) => {
                    masquerade::search::<$family>(skb, p, room, Wanted::from_number(wanted))
                }
                Err(_) => 0,
            }
        }

        /// Makes way for a masqueraded flow.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $clear() -> u32 {
            match scratch::<$family>() {
                Ok((p, room)) => masquerade::clear::<$family>(p, room).into(),
                Err(_) => 0,
            }
        }

        /// Goes on by a place of those that may be evicted.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $place(used: u32, take: u32) -> u32 {
            match scratch::<$family>() {
                Ok((_, room)) => evict::place::<$family>(room, used != 0, take != 0),
                Err(_) => 0,
            }
        }

        /// Records a masqueraded flow under an outside port.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $record(skb: *mut __sk_buff, port: u32, ask: u32) -> u32 {
            let skb = &Skb::from_raw(skb);
            match scratch::<$family>() {
                Ok((p, room)) => {
                    let ask = masquerade::Ask::from_number(ask);
                    masquerade::record::<$family>(skb, p, room, port as u16, ask)
                }
                Err(_) => 0,
            }
        }

        /// Puts a packet of the family into VXLAN.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $enter_tunnel(skb: *mut __sk_buff) -> u64 {
            let skb = &Skb::from_raw(skb);
            code(scratch::<$family>().and_then(|(p, room)| overlay::enter::<$family>(skb, p, room)))
        }

        /// Takes a packet out of VXLAN over the family.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $leave_tunnel(skb: *mut __sk_buff) -> u64 {
            let skb = &Skb::from_raw(skb);
            code(scratch::<$family>().and_then(|(p, room)| overlay::leave::<$family>(skb, p, room)))
        }

        /// Asks for the way to a node that is reached by the family.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $ask_way(skb: *mut __sk_buff, node: u32) -> u64 {
            let skb = &Skb::from_raw(skb);
            code(
                scratch::<$family>()
                    .and_then(|(_, room)| overlay::ask_way::<$family>(skb, room, node)),
            )
        }

        /// Notes what a router on the way to a node lets through.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $learn_mtu(skb: *mut __sk_buff) -> u32 {
            let skb = &Skb::from_raw(skb);
            match scratch::<$family>() {
                Ok((p, room)) => overlay::learn_mtu::<$family>(skb, p, room).into(),
                Err(_) => 0,
            }
        }

        /// Is the source of what the host sends no container's outside port?
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $is_free(skb: *mut __sk_buff, l3: u32) -> u32 {
            let skb = &Skb::from_raw(skb);
            displaced::is_from_free::<$family>(skb, l3 as usize & 0xf).into()
        }

        /// Tries a source port towards a container.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $try_source(skb: *mut __sk_buff, candidate: u32, own: u32) -> u32 {
            let skb = &Skb::from_raw(skb);
            match scratch::<$family>() {
                Ok((p, room)) => {
                    port::try_source::<$family>(skb, p, room, candidate as u16, own != 0)
                }
                Err(_) => 0,
            }
        }
    };
}

of_family!(
    V4,
    parse_v4,
    parse_quote_v4,
    follow_v4,
    route_v4,
    masquerade_v4,
    port_v4,
    refuse_v4,
    advance_v4,
    try_outside_v4,
    try_source_v4,
    quoted_v4,
    fragment_v4,
    remember_v4,
    record_v4,
    clear_v4,
    search_v4,
    enter_tunnel_v4,
    leave_tunnel_v4,
    ask_way_v4,
    learn_mtu_v4,
    is_free_v4,
    place_v4
);
of_family!(
    V6,
    parse_v6,
    parse_quote_v6,
    follow_v6,
    route_v6,
    masquerade_v6,
    port_v6,
    refuse_v6,
    advance_v6,
    try_outside_v6,
    try_source_v6,
    quoted_v6,
    fragment_v6,
    remember_v6,
    record_v6,
    clear_v6,
    search_v6,
    enter_tunnel_v6,
    leave_tunnel_v6,
    ask_way_v6,
    learn_mtu_v6,
    is_free_v6,
    place_v6
);

/// An outside port; see [`pool::next`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn next_port(wanted: u32, number: u32, protocol: u32, start: u32) -> u32 {
    let wanted = Wanted::from_number(wanted);
    pool::next(wanted, number, protocol as u8, start as u16).into()
}

/// Neighbour discovery from a container.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_nd(skb: *mut __sk_buff) -> u64 {
    let skb = &Skb::from_raw(skb);
    skb.pull(HEADERS);
    code(scratch::<V6>().and_then(|(p, _)| nd::answer(skb, p)))
}

/// ARP from a container.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_arp(skb: *mut __sk_buff) -> u64 {
    let skb = &Skb::from_raw(skb);
    skb.pull(HEADERS);
    code(arp::answer(skb))
}

/// Counts a drop.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count_drop(reason: u32, endpoint: u32) -> i32 {
    emit::count_drop(reason, endpoint)
}

/// Tells of a dropped packet, whose network header is at `l3`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_dropped(skb: *mut __sk_buff, l3: u32, reason: u32, endpoint: u32) -> i32 {
    emit::tell_dropped(&Skb::from_raw(skb), l3 as usize & 0xf, reason, endpoint);
    0
}

/// Tells of a flow that was ended by the packet in the working space, where
/// [`flow::advance`] has left the keys of its halves.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_closed(skb: *mut __sk_buff, family: u32) -> i32 {
    let skb = &Skb::from_raw(skb);
    if family == u32::from(V4::VERSION) {
        closed::<V4>(skb);
    } else {
        closed::<V6>(skb);
    }
    0
}

#[inline(always)]
fn closed<F: Family>(skb: &Skb) {
    if let Ok((p, room)) = scratch::<F>()
        && let Some(half) = flow::find::<F>(&room.forward_key)
    {
        let keys = [&room.forward_key, &room.reverse_key];
        emit::closed::<F>(skb, p.t.flags, keys, half);
    }
}

/// The window scale of a SYN whose header is at `l4`; the largest there is where it cannot
/// be read, so that no reset is taken for a forged one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn window_scale(skb: *mut __sk_buff, l4: u32) -> u32 {
    let scale = tcp::window_scale(&Skb::from_raw(skb), (l4 & 0x3fff) as usize);
    u32::from(scale.unwrap_or(tcp::MOST_SCALE))
}

/// Makes a SYN whose header is at `l4` say no larger segments than these.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn clamp_segments(skb: *mut __sk_buff, l4: u32, most: u32) -> u64 {
    let skb = &Skb::from_raw(skb);
    code(overlay::clamp(skb, (l4 & 0x3fff) as usize, most as u16))
}

/// Tells of a new flow, whose packet and original half are in the working space.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_began(skb: *mut __sk_buff, family: u32) -> i32 {
    let skb = &Skb::from_raw(skb);
    if family == u32::from(V4::VERSION) {
        if let Ok((p, room)) = scratch::<V4>() {
            emit::began::<V4>(skb, p, &room.forward);
        }
    } else if let Ok((p, room)) = scratch::<V6>() {
        emit::began::<V6>(skb, p, &room.forward);
    }
    0
}
