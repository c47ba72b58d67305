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

/// What of a segment's flags counts: a RST or FIN that the other end would not take
/// (RFC 9293, section 3.10.7.4; RFC 5961, section 3) changes no flow, whoever sent it.
///
/// `own` is what its sender expects; `other` what the other end does, `None` before that
/// one has said so.
#[inline(always)]
pub const fn counts(seen: u8, t: &Transport, own: &Expects, other: Option<&Expects>) -> u8 {
    if seen & (SEEN_RST | SEEN_FIN) == 0 {
        return seen;
    }
    let fits = match other {
        // From the next one on; as far behind it for what is sent again.
        Some(other) => {
            let behind = if seen & SEEN_RST != 0 { 0 } else { RESENT };
            let from = other.ack.wrapping_sub(behind);
            t.seq.wrapping_sub(from) <= other.reach() + behind
        }
        // The answer to a SYN: by what it acknowledges, data of the SYN too.
        None => t.flags & tcp::ACK != 0 && t.ack.wrapping_sub(own.ack) <= RESENT,
    };
    if fits {
        seen
    } else {
        seen & !(SEEN_RST | SEEN_FIN)
    }
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

    #[test]
    fn a_reset_counts_within_the_window_only() {
        let segment = |flags, seq, ack| Transport {
            flags,
            seq,
            ack,
            ..crate::packet::tuple::NO_TRANSPORT
        };
        let reset = |seq| {
            let t = segment(tcp::RST, seq, 0);
            let other = Expects {
                ack: u32::MAX - 100,
                window: 512,
                scale: 7,
                reserved: 0,
            };
            let seen = counts(seen_tcp(t.flags), &t, &other, Some(&other));
            assert_eq!(seen & SEEN_ANY, SEEN_ANY);
            seen & SEEN_RST != 0
        };
        let next = u32::MAX - 100;
        // 512 << 7, over the end of the numbers.
        let last = next.wrapping_add(65_536 + 1);
        assert!(reset(next) && reset(last) && reset(0));
        assert!(!reset(next - 1) && !reset(last.wrapping_add(1)) && !reset(next / 2));
    }

    #[test]
    fn a_fin_may_be_sent_again_and_a_refusal_answers_the_syn() {
        let fin = |seq| {
            let t = Transport {
                flags: tcp::FIN | tcp::ACK,
                seq,
                ..crate::packet::tuple::NO_TRANSPORT
            };
            let other = Expects {
                ack: 1_000_000,
                window: 100,
                scale: 0,
                reserved: 0,
            };
            counts(seen_tcp(t.flags), &t, &other, Some(&other)) & SEEN_FIN != 0
        };
        assert!(fin(1_000_000) && fin(1_000_101) && fin(1_000_000 - 65_536));
        assert!(!fin(1_000_102) && !fin(1_000_000 - 65_537) && !fin(0));

        let refusal = |flags, ack| {
            let t = Transport {
                flags,
                ack,
                ..crate::packet::tuple::NO_TRANSPORT
            };
            counts(seen_tcp(flags), &t, &Expects::after_syn(u32::MAX), None) & SEEN_RST != 0
        };
        assert!(refusal(tcp::RST | tcp::ACK, 0));
        // The SYN had data.
        assert!(refusal(tcp::RST | tcp::ACK, 1400));
        assert!(!refusal(tcp::RST | tcp::ACK, u32::MAX));
        assert!(!refusal(tcp::RST, 0));
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
