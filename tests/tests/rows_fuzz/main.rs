//! Mutated packets at the real programs, by the kernel's test-run, while flows of every
//! kind are alive: no wrong checksum ever leaves, nothing forged passes, and every drop is
//! counted. What is thrown follows from `NETBPF_FUZZ_SEED` alone, but for the MACs and the
//! outside ports; `NETBPF_FUZZ_SECONDS` throws for so long. The surroundings are drawn at
//! [`netbpf_tests::rows::Rig`].

mod frame;
mod judge;
mod mutate;
mod range;
mod seeds;

use std::time::{Duration, Instant};

use netbpf_tests::{
    packets::describe,
    rows::{Action, OPTIONS, RigOptions, with_rig_of},
};

use crate::{
    mutate::{Dice, minimise},
    range::{LANES, Range},
};

/// Packets that are thrown where nobody says for how long.
const RUNS: u64 = 20_000;

/// After so many the flows are as at the start again.
const ROUND: u64 = 2_000;

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text}: no number")),
    )
}

#[test]
fn no_wrong_checksum_leaves_and_nothing_forged_passes() {
    let seed = number_in("NETBPF_FUZZ_SEED").unwrap_or(1);
    let time = number_in("NETBPF_FUZZ_SECONDS").map(Duration::from_secs);
    let told = RigOptions {
        max_flows: 16_384,
        ..OPTIONS
    };
    with_rig_of("fuzz", told, |rig| {
        let range = Range::new(rig);
        let (mut dice, start) = (Dice(seed), Instant::now());
        let (mut run, mut verdicts) = (0_u64, [0_u64; 4]);
        while time.map_or(run < RUNS, |time| start.elapsed() < time) {
            if run % ROUND == 0 {
                range.begin();
            }
            run += 1;
            let lane = *dice.of(&LANES);
            let mut from = dice.of(&range.seeds);
            // Mostly one that somebody there may have sent.
            while !dice.one_in(6) && from.0 != lane.of_whose_kind() {
                from = dice.of(&range.seeds);
            }
            let packet = range.mutate(&mut dice, &from.1);
            let Some(outcome) = range.throw(lane, &packet) else {
                verdicts[3] += 1;
                continue;
            };
            verdicts[Action::from_code(outcome.code).map_or(3, |action| action as usize)] += 1;
            if let Err(why) = range.judge(lane, &packet, &outcome) {
                let least = minimise(&range, lane, &from.1, &packet);
                let again = range.throw(lane, &least).map(|again| {
                    let why = range.judge(lane, &least, &again).err();
                    (why.unwrap_or_else(|| "not again".into()), again.out)
                });
                let (least_why, least_out) = again.unwrap_or_default();
                panic!(
                    "NETBPF_FUZZ_SEED={seed}, run {run}, {lane:?} through {}: {why}\n\
                     -- in\n{}-- code {}, {} drops counted, out\n{}\
                     -- at least: {least_why}\n{}-- out\n{}-- of the seed\n{}",
                    range.lane(lane).0.name,
                    describe(&packet),
                    outcome.code as i32,
                    outcome.counted,
                    describe(&outcome.out),
                    describe(&least),
                    describe(&least_out),
                    describe(&from.1),
                );
            }
        }
        let [passed, dropped, led, refused] = verdicts;
        println!(
            "seed {seed}: {run} packets in {:?}, {passed} passed, {dropped} dropped, {led} led \
             on, {refused} the kernel took no part in",
            start.elapsed()
        );
        assert!(led * 20 > run, "hardly anything gets anywhere");
    });
}
