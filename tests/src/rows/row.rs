//! A row and how it is judged.

use std::collections::BTreeMap;

use netbpf_common::drop::DropReason;

use super::Rig;
use crate::packets::{assert_checksums, describe};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// What a program tells the kernel to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `TC_ACT_OK` or `TC_ACT_UNSPEC`: the stack takes it.
    Pass,
    /// `TC_ACT_SHOT`.
    Drop,
    /// `TC_ACT_REDIRECT`: to a container, out, or back as an answer.
    Redirect,
}

impl Action {
    /// `None`: no code that a program of ours may return.
    pub fn from_code(code: u32) -> Option<Action> {
        match code as i32 {
            0 | -1 => Some(Action::Pass),
            2 => Some(Action::Drop),
            7 => Some(Action::Redirect),
            _ => None,
        }
    }
}

/// What the packet is afterwards.
pub enum Out<'a> {
    /// As it came.
    Same,
    /// Exactly this.
    Frame(Vec<u8>),
    /// This from the IP header on; the Ethernet header is left to the neighbour.
    Packet(Vec<u8>),
    /// Whatever this accepts; checksums are looked at before.
    Such(&'a dyn Fn(&[u8])),
    /// Not looked at.
    Any,
}

/// One packet and what shall become of it.
pub struct Row<'a> {
    pub name: String,
    /// One of `netbpf_common::names::PROGRAMS`.
    pub program: &'a str,
    /// Device that it comes by.
    pub ifindex: u32,
    pub packet: Vec<u8>,
    /// Makes maps what they shall be, besides those of the rig.
    pub before: &'a dyn Fn(&Rig),
    pub verdict: Action,
    pub out: Out<'a>,
    /// Drop counters that move, and by how much.
    pub drops: &'a [(DropReason, u64)],
}

impl<'a> Row<'a> {
    /// A row without further maps that changes no packet and counts nothing.
    pub fn new(
        name: impl Into<String>,
        program: &'a str,
        ifindex: u32,
        packet: Vec<u8>,
        verdict: Action,
    ) -> Row<'a> {
        Row {
            name: name.into(),
            program,
            ifindex,
            packet,
            before: &|_| (),
            verdict,
            out: Out::Same,
            drops: &[],
        }
    }

    pub fn before(self, before: &'a dyn Fn(&Rig)) -> Row<'a> {
        Row { before, ..self }
    }

    pub fn out(self, out: Out<'a>) -> Row<'a> {
        Row { out, ..self }
    }

    pub fn drops(self, drops: &'a [(DropReason, u64)]) -> Row<'a> {
        Row { drops, ..self }
    }

    /// Runs it; fails with packet, verdict and counters when it is not as said.
    #[track_caller]
    pub fn check(self, rig: &Rig) {
        (self.before)(rig);
        let before = rig.drop_counts();
        let (code, frame) = rig.run(self.program, self.ifindex, &self.packet);
        let counted = difference(&before, &rig.drop_counts());
        let story = || {
            format!(
                "row \"{}\" through {}\n-- in\n{}-- code {code}, counted {counted:?}, out\n{}",
                self.name,
                self.program,
                describe(&self.packet),
                describe(&frame)
            )
        };
        assert_eq!(
            Action::from_code(code),
            Some(self.verdict),
            "the verdict of {}",
            story()
        );
        let expected: BTreeMap<&str, u64> = self
            .drops
            .iter()
            .map(|&(reason, count)| (reason.label(), count))
            .collect();
        assert_eq!(counted, expected, "the counters of {}", story());
        match &self.out {
            Out::Any => (),
            Out::Same => assert!(frame == self.packet, "changed: {}", story()),
            Out::Frame(wanted) => assert!(
                frame == *wanted,
                "{}-- wanted\n{}",
                story(),
                describe(wanted)
            ),
            Out::Packet(wanted) => assert!(
                frame[ETHERNET..] == wanted[ETHERNET..],
                "{}-- wanted\n{}",
                story(),
                describe(wanted)
            ),
            Out::Such(check) => {
                assert_checksums(&frame);
                check(&frame);
            }
        }
    }
}

fn difference<'a>(
    before: &BTreeMap<&'a str, u64>,
    after: &BTreeMap<&'a str, u64>,
) -> BTreeMap<&'a str, u64> {
    let moved = after.iter().map(|(&reason, &count)| {
        let earlier = before.get(reason).copied().unwrap_or(0);
        (reason, count - earlier)
    });
    moved.filter(|&(_, count)| count > 0).collect()
}
