//! What holds of every packet and of what a program made of it.

use netbpf::datapath::GATEWAY_MAC;
use netbpf_tests::{
    lab::names::HOST,
    packets::{Rest, rests},
    rows::{Action, Member},
};

use crate::{
    frame::{
        Answer, ETHERNET, Ends, answer, both, ends, is_inside, is_link_local, is_local,
        is_loopback, is_nd, is_nobodys,
    },
    range::{Lane, Outcome, Range},
};

/// Fails where it is false, with what was meant to hold.
macro_rules! hold {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

impl Range<'_> {
    /// What is wrong with an outcome.
    pub fn judge(&self, lane: Lane, packet: &[u8], outcome: &Outcome) -> Result<(), String> {
        let out = &outcome.out[..];
        let Some(action) = Action::from_code(outcome.code) else {
            return Err(format!("code {}", outcome.code));
        };
        let answered = match action {
            Action::Redirect => answer(packet, out),
            Action::Pass | Action::Drop => None,
        };
        let refused = action == Action::Drop || answered == Some(Answer::Refusal);
        hold!(
            outcome.counted == u64::from(refused),
            "{} drops counted",
            outcome.counted
        );
        if action == Action::Drop {
            return Ok(());
        }
        match answered {
            Some(_) => self.judge_answer(packet, out)?,
            None => judge_sums(packet, out)?,
        }
        if action == Action::Pass && out == packet {
            return self.judge_untouched(lane, packet);
        }
        match lane {
            Lane::Container(number) if answered.is_some() => {
                let own = self.member(number);
                hold!(packet[6..12] == own.mac(), "another's MAC answered");
                hold!(out[..6] == own.mac(), "the answer is not the sender's");
                if let Some(asked) = ends(packet).filter(|_| answered == Some(Answer::Refusal)) {
                    hold!(
                        asked.from == own.ip(asked.family),
                        "another's address answered"
                    );
                }
                Ok(())
            }
            Lane::Container(number) => self.judge_sent(self.member(number), packet, out, action),
            Lane::Uplink => self.judge_came(packet, out, action, answered),
            Lane::Host => {
                hold!(action == Action::Pass, "led elsewhere");
                hold!(packet[..ETHERNET] == out[..ETHERNET], "MACs");
                let [from, to] = both(packet, out)?;
                hold!(from == to, "another network header: {from:?}, {to:?}");
                Ok(())
            }
            Lane::Local => {
                if answered.is_some() {
                    return Ok(());
                }
                let [sent, got] = both(packet, out)?;
                // By a flow of the host's own to the outside, which does not come by here.
                if action == Action::Pass {
                    hold!(sent == got, "another network header: {sent:?}, {got:?}");
                    return Ok(());
                }
                self.member_of(out, got)?;
                hold!(!is_nobodys(got.from), "from {}", got.from);
                Ok(())
            }
            Lane::Left | Lane::ToContainer { .. } | Lane::Early => Err("changed".into()),
        }
    }

    /// Right by itself, and for whom the packet came from.
    fn judge_answer(&self, packet: &[u8], out: &[u8]) -> Result<(), String> {
        let found = rests(out, ETHERNET);
        if let Some(asked) = ends(packet) {
            let wrong: Vec<&Rest> = found.iter().filter(|r| r.whole && r.rest != 0).collect();
            hold!(wrong.is_empty(), "checksums of the answer: {wrong:?}");
            hold!(
                found.iter().any(|r| r.whole && r.what != "ip"),
                "no checksum to be seen"
            );
            let told = ends(out).ok_or("no answer")?;
            hold!(told.to == asked.from, "answered to {}", told.to);
        }
        hold!(out[..6] == packet[6..12], "answered to another MAC");
        Ok(())
    }

    /// What the stack gets, as it came.
    fn judge_untouched(&self, lane: Lane, packet: &[u8]) -> Result<(), String> {
        match lane {
            Lane::Container(number) => {
                let own = self.member(number);
                hold!(packet[6..12] == own.mac(), "another's MAC passes");
                let sent = ends(packet).ok_or("what is no packet passes")?;
                hold!(sent.from == own.ip(sent.family), "from {}", sent.from);
                hold!(is_local(sent.to), "to {} passes", sent.to);
            }
            Lane::Uplink => {
                let (code, out) = self.the_long_way(packet);
                let passes = Action::from_code(code) == Some(Action::Pass) && out == packet;
                hold!(
                    passes,
                    "passes the short way, {:?} the long one",
                    code as i32
                );
                let Some(came) = ends(packet) else {
                    return Ok(());
                };
                // For others, or not to be routed by anybody.
                let for_us = packet[0] & 1 != 0 || packet[..6] == self.rig.uplink.mac;
                let aside = is_nobodys(came.from) || is_link_local(came.from) || is_nd(packet);
                // Others may have made it of what the container has asked the host.
                let aside = aside || !is_local(came.from) && self.is_answer(packet, false);
                hold!(
                    !for_us || aside || !is_inside(came.to),
                    "to {} passes",
                    came.to
                );
            }
            Lane::ToContainer { forwarded: true } => {
                hold!(self.is_answer(packet, true), "forwarded");
            }
            _ => (),
        }
        Ok(())
    }

    /// The member that a frame is for.
    fn member_of(&self, out: &[u8], got: Ends) -> Result<&Member, String> {
        let members = [&self.rig.web, &self.rig.app, &self.rig.other];
        let Some(&to) = members.iter().find(|to| out[..6] == to.mac()) else {
            return Err("for no container's MAC".into());
        };
        hold!(out[6..12] == GATEWAY_MAC, "not from the gateway's MAC");
        hold!(
            got.to == to.ip(got.family),
            "to {} by another's MAC",
            got.to
        );
        Ok(to)
    }

    /// What a container sent, and where it went.
    fn judge_sent(
        &self,
        own: &Member,
        packet: &[u8],
        out: &[u8],
        action: Action,
    ) -> Result<(), String> {
        hold!(action == Action::Redirect, "changed for the host");
        hold!(packet[6..12] == own.mac(), "another's MAC");
        let [sent, got] = both(packet, out)?;
        hold!(sent.from == own.ip(sent.family), "from {}", sent.from);
        if out[..ETHERNET] != packet[..ETHERNET] {
            let to = self.member_of(out, got)?;
            let spent = sent.hops.checked_sub(got.hops);
            hold!(
                matches!(spent, Some(0..=2)),
                "hops {} to {}",
                sent.hops,
                got.hops
            );
            hold!(
                got.from == sent.from || is_local(got.from),
                "as {}",
                got.from
            );
            let by_host = is_local(sent.to) || is_local(got.from);
            let as_neighbours = own.entry.network == to.entry.network && sent.to == got.to;
            hold!(by_host || as_neighbours, "to {} as {}", got.to, got.from);
            return Ok(());
        }
        hold!(
            got.hops == sent.hops.wrapping_sub(1) && got.hops != 0,
            "hops {}",
            got.hops
        );
        if is_local(got.to) || is_loopback(got.to) {
            // The answer to what the host asked for.
            hold!(is_local(sent.to), "to the host's {}", got.to);
            hold!(
                is_local(got.from) || is_loopback(got.from),
                "as {}",
                got.from
            );
            return Ok(());
        }
        hold!(
            Ok(got.from) == HOST[got.family.of([0, 1])].parse(),
            "leaves as {}",
            got.from
        );
        hold!(got.to == sent.to, "leaves to {}", got.to);
        let astray = is_inside(got.to) || is_nobodys(got.to) || is_link_local(got.to);
        hold!(!astray, "leaves to {}", got.to);
        Ok(())
    }

    /// What came by the uplink, and was led on, or translated for the host.
    fn judge_came(
        &self,
        packet: &[u8],
        out: &[u8],
        action: Action,
        answered: Option<Answer>,
    ) -> Result<(), String> {
        let [came, got] = both(packet, out)?;
        if answered.is_some() {
            hold!(answered == Some(Answer::Refusal), "a neighbour's answer");
            return Ok(());
        }
        hold!(got.from == came.from, "as {}", got.from);
        hold!(
            Ok(came.to) == HOST[came.family.of([0, 1])].parse(),
            "for {}",
            came.to
        );
        if action == Action::Pass {
            hold!(packet[..ETHERNET] == out[..ETHERNET], "MACs");
            hold!(got == came, "another network header: {came:?}, {got:?}");
            return Ok(());
        }
        self.member_of(out, got)?;
        hold!(
            got.hops == came.hops.wrapping_sub(1) && got.hops != 0,
            "hops {}",
            got.hops
        );
        let forged = is_inside(came.from)
            || is_nobodys(came.from)
            || is_link_local(came.from)
            || is_local(came.from);
        hold!(!forged, "from {}", came.from);
        Ok(())
    }
}

/// What is translated, is so by the difference: right stays right, wrong stays wrong.
fn judge_sums(packet: &[u8], out: &[u8]) -> Result<(), String> {
    let sums = |frame: &[u8]| -> Vec<(&str, u16)> {
        let found = ends(frame).map_or_else(Vec::new, |_| rests(frame, ETHERNET));
        found.iter().map(|rest| (rest.what, rest.rest)).collect()
    };
    let (before, after) = (sums(packet), sums(out));
    hold!(before == after, "checksums {before:x?} became {after:x?}");
    Ok(())
}
