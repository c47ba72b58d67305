//! The states of a flow, from what each of its halves has seen, and how long it
//! lives in each (RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-1).

use crate::packet::tcp;

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

/// The state of a flow, named as in `netbpf flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// TCP before the handshake is complete; other protocols before an answer.
    Opening,
    Established,
    /// One side has sent its FIN.
    HalfClosed,
    /// Both have.
    Closed,
    /// Ended by a reset.
    Reset,
}

impl State {
    pub const ALL: [State; 5] = [
        State::Opening,
        State::Established,
        State::HalfClosed,
        State::Closed,
        State::Reset,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Established => "established",
            State::HalfClosed => "half_closed",
            State::Closed => "closed",
            State::Reset => "reset",
        }
    }

    /// A SYN on it begins a new flow.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        matches!(self, State::Closed | State::Reset)
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
        State::Closed
    } else if (original | reply) & SEEN_FIN != 0 {
        State::HalfClosed
    } else if original & SEEN_ACK != 0 && reply & SEEN_ANY != 0 {
        State::Established
    } else {
        State::Opening
    }
}

/// Seconds that a flow lives after its last packet.
pub const fn timeout_seconds(protocol: u8, state: State) -> u32 {
    use crate::packet::*;
    match (protocol, state) {
        (IPPROTO_TCP, State::Established) => 7440,
        (IPPROTO_TCP, _) => 240,
        (IPPROTO_UDP, State::Established) => 300,
        (IPPROTO_UDP, _) => 120,
        (IPPROTO_SCTP, _) => 300,
        _ => 60,
    }
}

/// The same in ticks, rounded up.
#[inline(always)]
pub const fn timeout_ticks(protocol: u8, state: State) -> u32 {
    timeout_seconds(protocol, state) * (crate::time::TICKS_PER_SECOND + 1)
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
            State::Closed
        );
        assert_eq!(state(IPPROTO_TCP, open, open | SEEN_RST), State::Reset);
    }

    #[test]
    fn udp_lives_longer_once_answered() {
        let opening = state(IPPROTO_UDP, SEEN_ANY, 0);
        let answered = state(IPPROTO_UDP, SEEN_ANY, SEEN_ANY);
        assert_eq!(timeout_seconds(IPPROTO_UDP, opening), 120);
        assert_eq!(timeout_seconds(IPPROTO_UDP, answered), 300);
    }
}
