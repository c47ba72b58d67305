//! The states of a flow, from what each of its halves has seen, and how long it
//! lives in each (RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-1).

use crate::{
    maps::flows::Expects,
    packet::{tcp, tuple::Transport},
};

/// TCP flags that a half has seen; ACK counts without SYN only.
pub const SEEN_SYN: u8 = 1 << 0;
pub const SEEN_ACK: u8 = 1 << 1;
pub const SEEN_FIN: u8 = 1 << 2;
pub const SEEN_RST: u8 = 1 << 3;
/// A packet of any protocol was seen.
pub const SEEN_ANY: u8 = 1 << 4;

/// What a TCP header adds to what its half has seen.
#[inline(always)]
pub const fn seen_tcp(flags: u8) -> u8 {
    let mut seen = SEEN_ANY;
    if flags & tcp::SYN != 0 {
        seen |= SEEN_SYN;
    } else if flags & tcp::ACK != 0 {
        seen |= SEEN_ACK;
    }
    if flags & tcp::FIN != 0 {
        seen |= SEEN_FIN;
    }
    if flags & tcp::RST != 0 {
        seen |= SEEN_RST;
    }
    seen
}

/// The most bytes of a segment that may have come before: what is sent again may be
/// more than what was missing.
const RESENT: u32 = 1 << 16;

/// The most data that a SYN has (RFC 7413).
const SYN_DATA: u32 = 1 << 14;

/// One end of a TCP connection: the half of the packets that it sends.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// It is behind an uplink: anybody may have forged its packets.
    pub outside: bool,
    /// It has begun the connection.
    pub original: bool,
    /// What it had sent before this packet.
    pub seen: u8,
    pub expects: Expects,
}

/// What of a segment counts for the state of its flow; it is forwarded in any case. The
/// outside opens no connection without knowing what the container answered, and ends none
/// by a reset or FIN that the container would not take (RFC 9293, section 3.10.7.4; RFC
/// 5961, section 3; RFC 7857, section 2.2).
#[inline(always)]
pub const fn counts(seen: u8, t: &Transport, from: &End, to: &End) -> u8 {
    if seen & SEEN_RST != 0 {
        let ends = match (from.outside, to.outside) {
            (true, _) if is_unknown(to) => refuses(t, from),
            // Its number may be that of the FIN before it.
            (true, _) => is_taken(t, from, to, (from.seen & SEEN_FIN != 0) as u32),
            // What a container sends is its own, but one that does not know of a
            // connection yet may be made to reset what it never sent.
            (false, true) => {
                is_open(from, to)
                    || t.flags & tcp::ACK != 0
                    || t.seq.wrapping_sub(to.expects.ack) <= SYN_DATA
            }
            (false, false) => true,
        };
        return if ends { seen } else { SEEN_ANY };
    }
    if !from.outside {
        return seen;
    }
    if seen & SEEN_ACK != 0 && from.original && from.seen & SEEN_ACK == 0 && !answers(t, from, to) {
        return seen & !(SEEN_ACK | SEEN_FIN);
    }
    if seen & SEEN_FIN != 0 && (is_unknown(to) || !is_taken(t, from, to, RESENT)) {
        return seen & !SEEN_FIN;
    }
    seen
}

/// It has sent a SYN and nothing yet that tells what it takes.
#[inline(always)]
const fn is_unknown(end: &End) -> bool {
    end.original && end.seen & SEEN_ACK == 0
}

/// The one that began the connection has acknowledged what the other end answered.
#[inline(always)]
const fn is_open(from: &End, to: &End) -> bool {
    !is_unknown(from) && !is_unknown(to)
}

/// The segment begins among the numbers that `to` takes, or so far behind them.
#[inline(always)]
const fn is_taken(t: &Transport, from: &End, to: &End, behind: u32) -> bool {
    let first = to.expects.ack.wrapping_sub(behind);
    t.seq.wrapping_sub(first) <= to.expects.reach(&from.expects) + behind
}

/// The answer to a SYN by who has no such port.
#[inline(always)]
const fn refuses(t: &Transport, from: &End) -> bool {
    t.flags & tcp::ACK != 0 && t.ack.wrapping_sub(from.expects.ack) <= SYN_DATA
}

/// The segment acknowledges the other end's answer to the SYN.
#[inline(always)]
const fn answers(t: &Transport, from: &End, to: &End) -> bool {
    to.seen & SEEN_SYN != 0 && t.ack.wrapping_sub(from.expects.ack) <= RESENT
}

/// The state of a flow, named as in `netbpf flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// TCP before the handshake is complete; other protocols before an answer.
    Opening,
    Established,
    /// One side has sent its FIN.
    HalfClosed,
    /// Both have.
    TimeWait,
    /// Ended by a reset.
    Reset,
}

impl State {
    pub const ALL: [State; 5] = [
        State::Opening,
        State::Established,
        State::HalfClosed,
        State::TimeWait,
        State::Reset,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Established => "established",
            State::HalfClosed => "half_closed",
            State::TimeWait => "time_wait",
            State::Reset => "reset",
        }
    }

    /// A SYN on it begins a new flow.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        matches!(self, State::TimeWait | State::Reset)
    }
}

/// The state that follows from what the original and the reply half have seen.
#[inline(always)]
pub const fn state(protocol: u8, original: u8, reply: u8) -> State {
    if protocol != crate::packet::IPPROTO_TCP {
        return if reply == 0 {
            State::Opening
        } else {
            State::Established
        };
    }
    if (original | reply) & SEEN_RST != 0 {
        State::Reset
    } else if original & reply & SEEN_FIN != 0 {
        State::TimeWait
    } else if (original | reply) & SEEN_FIN != 0 {
        State::HalfClosed
    } else if original & SEEN_ACK != 0 && reply & SEEN_ANY != 0 {
        State::Established
    } else {
        State::Opening
    }
}

/// Seconds that flows live after their last packet, by protocol and state.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Before the handshake is complete.
    pub tcp_opening: u32,
    pub tcp_established: u32,
    /// After a FIN or a reset.
    pub tcp_closing: u32,
    /// Before an answer.
    pub udp: u32,
    pub udp_answered: u32,
    pub icmp: u32,
    pub sctp: u32,
    /// Of any other protocol.
    pub other: u32,
}
crate::assert_layout!(Timeouts, 32);

/// A time-out by its name, for whoever sets and shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    pub name: &'static str,
    pub seconds: u32,
    /// Less is against the RFC.
    pub least: Option<(u32, &'static str)>,
}

impl Timeouts {
    pub const DEFAULT: Timeouts = Timeouts {
        tcp_opening: 240,
        tcp_established: 7440,
        tcp_closing: 240,
        udp: 120,
        udp_answered: 300,
        icmp: 60,
        sctp: 300,
        // As Linux's `nf_conntrack_generic_timeout`: tunnels are silent at times.
        other: 600,
    };

    /// The longest one, 30 days: time as flows store it wraps.
    pub const MOST: u32 = 30 * 24 * 3600;

    pub const NAMES: [&'static str; 8] = [
        "tcp-opening",
        "tcp-established",
        "tcp-closing",
        "udp",
        "udp-answered",
        "icmp",
        "sctp",
        "other",
    ];

    /// All of them, in the order of [`Timeouts::NAMES`].
    pub fn all(&self) -> [Timeout; 8] {
        let tcp = "RFC 5382, REQ-5";
        let udp = "RFC 4787, REQ-5";
        let rows = [
            (self.tcp_opening, Some((240, tcp))),
            (self.tcp_established, Some((7440, tcp))),
            (self.tcp_closing, Some((240, tcp))),
            (self.udp, Some((120, udp))),
            (self.udp_answered, Some((120, udp))),
            (self.icmp, Some((60, "RFC 5508, REQ-1"))),
            (self.sctp, None),
            (self.other, None),
        ];
        let mut index = 0;
        rows.map(|(seconds, least)| {
            index += 1;
            Timeout {
                name: Self::NAMES[index - 1],
                seconds,
                least,
            }
        })
    }

    /// The one of a name, to be set.
    pub fn named(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "tcp-opening" => &mut self.tcp_opening,
            "tcp-established" => &mut self.tcp_established,
            "tcp-closing" => &mut self.tcp_closing,
            "udp" => &mut self.udp,
            "udp-answered" => &mut self.udp_answered,
            "icmp" => &mut self.icmp,
            "sctp" => &mut self.sctp,
            "other" => &mut self.other,
            _ => return None,
        })
    }

    /// Seconds that a flow lives after its last packet.
    #[inline(always)]
    pub const fn seconds(&self, protocol: u8, state: State) -> u32 {
        use crate::packet::*;
        match (protocol, state) {
            (IPPROTO_TCP, State::Opening) => self.tcp_opening,
            (IPPROTO_TCP, State::Established) => self.tcp_established,
            (IPPROTO_TCP, _) => self.tcp_closing,
            (IPPROTO_UDP, State::Established) => self.udp_answered,
            (IPPROTO_UDP, _) => self.udp,
            (IPPROTO_SCTP, _) => self.sctp,
            (IPPROTO_ICMP | IPPROTO_ICMPV6, _) => self.icmp,
            _ => self.other,
        }
    }

    /// The same in ticks, rounded up.
    #[inline(always)]
    pub const fn ticks(&self, protocol: u8, state: State) -> u32 {
        self.seconds(protocol, state) * (crate::time::TICKS_PER_SECOND + 1)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{IPPROTO_TCP, IPPROTO_UDP};

    #[test]
    fn tcp_is_established_by_the_clients_ack_only() {
        let syn = seen_tcp(tcp::SYN);
        let syn_ack = seen_tcp(tcp::SYN | tcp::ACK);
        assert_eq!(state(IPPROTO_TCP, syn, 0), State::Opening);
        assert_eq!(state(IPPROTO_TCP, syn, syn_ack), State::Opening);
        let ack = syn | seen_tcp(tcp::ACK);
        assert_eq!(state(IPPROTO_TCP, ack, syn_ack), State::Established);
    }

    #[test]
    fn closing_takes_both_sides_and_a_reset_one() {
        let open = SEEN_ANY | SEEN_SYN | SEEN_ACK;
        assert_eq!(state(IPPROTO_TCP, open | SEEN_FIN, open), State::HalfClosed);
        assert_eq!(
            state(IPPROTO_TCP, open | SEEN_FIN, open | SEEN_FIN),
            State::TimeWait
        );
        assert_eq!(state(IPPROTO_TCP, open, open | SEEN_RST), State::Reset);
    }

    const OPEN: u8 = SEEN_ANY | SEEN_SYN | SEEN_ACK;

    fn segment(flags: u8, seq: u32, ack: u32) -> Transport {
        Transport {
            flags,
            seq,
            ack,
            ..crate::packet::tuple::NO_TRANSPORT
        }
    }

    fn expects(ack: u32, window: u16, scale: u8) -> Expects {
        Expects {
            ack,
            window,
            scale,
            reserved: 0,
        }
    }

    /// The outside has begun a connection to a container, which answered with number 500
    /// and takes 512 << 7 numbers from `next` on.
    fn published(next: u32) -> [End; 2] {
        let client = End {
            outside: true,
            original: true,
            seen: OPEN,
            expects: expects(501, 0, 7),
        };
        let container = End {
            outside: false,
            original: false,
            seen: OPEN,
            expects: expects(next, 511, 7),
        };
        [client, container]
    }

    fn sent(t: &Transport, [from, to]: [End; 2]) -> u8 {
        counts(seen_tcp(t.flags), t, &from, &to)
    }

    #[test]
    fn a_reset_from_outside_counts_within_the_window_only() {
        // Over the end of the numbers.
        let next = u32::MAX - 100;
        let ends = published(next);
        let resets = |seq, ends| sent(&segment(tcp::RST, seq, 0), ends) & SEEN_RST != 0;
        let last = next.wrapping_add(512 << 7);
        assert!(resets(next, ends) && resets(last, ends) && resets(0, ends));
        for seq in [next - 1, last.wrapping_add(1), next / 2] {
            assert!(!resets(seq, ends), "{seq}");
        }
        // As the FIN before it.
        let mut after_fin = ends;
        after_fin[0].seen |= SEEN_FIN;
        assert!(resets(next - 1, after_fin) && !resets(next - 2, after_fin));
        // Shifted only where both have said so.
        let mut unscaled = ends;
        unscaled[0].expects.scale = tcp::NO_SCALE;
        let last = next.wrapping_add(512);
        assert!(resets(last, unscaled) && !resets(last.wrapping_add(1), unscaled));
        // One that counts for nothing acknowledges nothing either.
        let forged = segment(tcp::RST | tcp::ACK, next / 2, 501);
        assert_eq!(sent(&forged, ends), SEEN_ANY);
    }

    #[test]
    fn a_fin_from_outside_may_be_sent_again() {
        let ends = published(1_000_000);
        let closes = |seq| {
            let t = segment(tcp::FIN | tcp::ACK, seq, 501);
            sent(&t, ends) & SEEN_FIN != 0
        };
        let last = 1_000_000 + (512 << 7);
        assert!(closes(1_000_000) && closes(last) && closes(1_000_000 - RESENT));
        assert!(!closes(last + 1) && !closes(1_000_000 - RESENT - 1) && !closes(0));
    }

    #[test]
    fn the_outside_opens_nothing_that_it_was_not_answered() {
        let mut ends = published(1);
        ends[0].seen = SEEN_ANY | SEEN_SYN;
        ends[1].seen = SEEN_ANY | SEEN_SYN;
        let opens = |ack, ends| sent(&segment(tcp::ACK, 1, ack), ends) & SEEN_ACK != 0;
        assert!(opens(501, ends) && opens(501 + RESENT, ends));
        assert!(!opens(500, ends) && !opens(502 + RESENT, ends) && !opens(0, ends));
        // Before there was an answer none is known.
        ends[1].seen = 0;
        assert!(!opens(501, ends));
        // Nor does a forged FIN close it.
        let t = segment(tcp::FIN | tcp::ACK, 1, 0);
        assert_eq!(sent(&t, ends), SEEN_ANY);
    }

    #[test]
    fn a_refusal_answers_the_syn() {
        // A container has begun it, with number 500.
        let [outside, inside] = published(0);
        let server = End {
            original: false,
            ..outside
        };
        let container = End {
            original: true,
            seen: SEEN_ANY | SEEN_SYN,
            expects: Expects::after_own_syn(7),
            ..inside
        };
        let resets = |flags, seq, ack, container| {
            let t = segment(flags, seq, ack);
            sent(&t, [server, container]) & SEEN_RST != 0
        };
        assert!(resets(tcp::RST | tcp::ACK, 0, 501, container));
        // The SYN had data; the number of the answer is nobody's business.
        assert!(resets(tcp::RST | tcp::ACK, 7, 501 + 1400, container));
        assert!(!resets(tcp::RST | tcp::ACK, 0, 500, container));
        assert!(!resets(tcp::RST | tcp::ACK, 0, 77_777_777, container));
        // What it takes is not known before it has said so.
        assert!(!resets(tcp::RST, 0, 501, container));
        // Later it is, and no SYN is to be answered.
        let open = End {
            seen: OPEN,
            expects: expects(1_000, 511, 7),
            ..container
        };
        assert!(!resets(tcp::RST | tcp::ACK, 0, 501, open));
        assert!(resets(tcp::RST | tcp::ACK, 1_000, 501, open));
    }

    #[test]
    fn resets_that_are_drawn_out_of_a_container_do_not_count() {
        let ends = published(1);
        let open = [ends[1], ends[0]];
        let mut opening = open;
        opening[1].seen = SEEN_ANY | SEEN_SYN;
        let resets = |flags, seq, ends| sent(&segment(flags, seq, 0), ends) & SEEN_RST != 0;
        // By what was forged as an acknowledgment of it.
        assert!(!resets(tcp::RST, 77_777_777, opening));
        // Its own, and a refusal.
        assert!(resets(tcp::RST, 501, opening));
        assert!(resets(tcp::RST | tcp::ACK, 0, opening));
        // Later on its stack says so in other ways.
        assert!(resets(tcp::RST, 77_777_777, open));
        // Two containers forge nothing of each other's.
        opening[1].outside = false;
        assert!(resets(tcp::RST, 77_777_777, opening));
    }

    #[test]
    fn what_was_overtaken_says_nothing_new() {
        let mut noted = Expects::after_own_syn(7);
        let ack = |ack, window| Transport {
            window,
            ..segment(tcp::ACK, 0, ack)
        };
        noted.note(&ack(0xffff_fff0, 10), true);
        noted.note(&ack(10, 20), false);
        noted.note(&ack(0xffff_fff8, 30), false);
        assert_eq!(noted, expects(10, 20, 7));
        // Unshifted in a SYN.
        noted.note(&ack(20, 65_160), false);
        noted.note_scale(7);
        assert_eq!(noted, expects(20, 510, 7));
    }

    #[test]
    fn each_protocol_and_state_has_its_time() {
        let mut times = Timeouts::DEFAULT;
        for (index, name) in Timeouts::NAMES.into_iter().enumerate() {
            *times.named(name).expect("a name") = index as u32 + 1;
        }
        let shown = times.all().map(|timeout| (timeout.name, timeout.seconds));
        for (index, (name, seconds)) in shown.into_iter().enumerate() {
            assert_eq!((name, seconds), (Timeouts::NAMES[index], index as u32 + 1));
        }
        assert_eq!(times.named("tcp"), None);
        use crate::packet::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP};
        for (protocol, state, wanted) in [
            (IPPROTO_TCP, State::Opening, times.tcp_opening),
            (IPPROTO_TCP, State::Established, times.tcp_established),
            (IPPROTO_TCP, State::HalfClosed, times.tcp_closing),
            (IPPROTO_TCP, State::TimeWait, times.tcp_closing),
            (IPPROTO_TCP, State::Reset, times.tcp_closing),
            (IPPROTO_UDP, State::Opening, times.udp),
            (IPPROTO_UDP, State::Established, times.udp_answered),
            (IPPROTO_ICMP, State::Opening, times.icmp),
            (IPPROTO_ICMPV6, State::Established, times.icmp),
            (IPPROTO_SCTP, State::Established, times.sctp),
            (47, State::Established, times.other),
        ] {
            assert_eq!(
                times.seconds(protocol, state),
                wanted,
                "{protocol} {state:?}"
            );
        }
    }

    #[test]
    fn defaults_keep_the_rfcs_and_the_longest_does_not_wrap() {
        for timeout in Timeouts::DEFAULT.all() {
            let least = timeout.least.map_or(0, |(least, _)| least);
            assert!(timeout.seconds >= least, "{timeout:?}");
        }
        let mut longest = Timeouts::DEFAULT;
        longest.udp = Timeouts::MOST;
        let ticks = longest.ticks(IPPROTO_UDP, State::Opening);
        assert_eq!(crate::time::since(ticks, 0), ticks);
        assert_eq!(ticks / Timeouts::MOST, crate::time::TICKS_PER_SECOND + 1);
    }
}
