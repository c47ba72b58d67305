//! Programs where they should hang, and those of others before them.

use std::path::PathBuf;

use super::findings::{Findings, PUT_BACK, count};
use crate::{
    datapath::Hung,
    model::{Check, Finding},
};

/// What hangs where it should, and is pinned.
pub fn hung(places: &[Hung], missing_pins: &[PathBuf]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Program);
    for Hung {
        place,
        program,
        pin,
        is_pinned,
        running,
    } in places
    {
        if !running.iter().any(|r| r.ours) {
            found.error(
                place,
                format!(
                    "{program} does not hang there any more: its packets or sockets are not served"
                ),
                PUT_BACK,
            );
        } else if !is_pinned {
            found.error(
                place,
                format!("the pin {} of {program} is gone", pin.display()),
                PUT_BACK,
            );
        }
    }
    for pin in missing_pins {
        found.error(
            format!("pin {}", pin.display()),
            "it is gone: the next daemon does not find what is there",
            PUT_BACK,
        );
    }
    let message = format!("{} as they should be", count(places.len(), "attachment"));
    found.or_ok("programs", message)
}

/// What of others runs before ours, and what takes packets by XDP: device and program.
pub fn foreign(places: &[Hung], xdp: &[(String, String)]) -> Vec<Finding> {
    let mut found = Findings::of(Check::ForeignProgram);
    for place in places {
        let before = place.running.iter().take_while(|r| !r.ours);
        // Where ours does not hang none is before it.
        let before = before.filter(|_| place.running.iter().any(|r| r.ours));
        for other in before {
            found.warning(
                &place.place,
                format!(
                    "{} ({}) runs before {}, which sees only what that lets pass",
                    other.name, other.kind, place.program
                ),
                "let it come after ours, or see to it that it passes what is for containers on",
            );
        }
    }
    for (device, program) in xdp {
        found.warning(
            format!("device {device}"),
            format!("{program} (xdp) runs there, and ours see only what that lets pass"),
            "see to it that it passes what is for containers on: ip link show dev DEVICE",
        );
    }
    found.or_ok("programs", "none of others comes before ours")
}

#[cfg(test)]
mod tests {
    use super::{super::findings::tests::short, *};
    use crate::{
        datapath::Running,
        model::Severity::{Error, Ok, Warning},
    };

    fn running(name: &str, ours: bool) -> Running {
        Running {
            kind: "tcx",
            name: name.into(),
            ours,
        }
    }

    fn up0(running: &[Running]) -> Hung {
        Hung {
            place: "up0 ingress".into(),
            program: "from_uplink",
            pin: "/b/links/2_ingress_tcx".into(),
            is_pinned: true,
            running: running.into(),
        }
    }

    #[test]
    fn a_program_that_hangs_first() {
        let places = [up0(&[running("from_uplink", true), running("x", false)])];
        assert_eq!(short(&hung(&places, &[])), [(Ok, "programs")]);
        assert_eq!(short(&foreign(&places, &[])), [(Ok, "programs")]);
    }

    #[test]
    fn another_one_before_it() {
        let places = [up0(&[running("x", false), running("from_uplink", true)])];
        let found = foreign(&places, &[("up1".into(), "y".into())]);
        let expected = [(Warning, "up0 ingress"), (Warning, "device up1")];
        assert_eq!(short(&found), expected);
        assert!(found[0].message.contains("x (tcx)"), "{found:?}");
    }

    #[test]
    fn one_that_was_taken_off() {
        let places = [up0(&[running("from_uplink", false)])];
        let found = hung(&places, &[]);
        assert_eq!(short(&found), [(Error, "up0 ingress")]);
        assert_eq!(short(&foreign(&places, &[])), [(Ok, "programs")]);
    }

    #[test]
    fn pins_that_are_gone() {
        let mut place = up0(&[running("from_uplink", true)]);
        place.is_pinned = false;
        let found = hung(&[place], &["/b/ports".into()]);
        let expected = [(Error, "up0 ingress"), (Error, "pin /b/ports")];
        assert_eq!(short(&found), expected);
    }
}
