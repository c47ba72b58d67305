//! `cargo xtask ci`: what `test` does, with form and lints before it and the
//! oldest kernel behind it. A test that is skipped without being on the list of
//! [`skips`] fails it, where the machine can run them all.

use crate::{
    preflight::{self, Machine},
    privilege::is_root,
    setup::{self, Consent},
    skips,
    step::Step,
    summary::Summary,
    test::{self, cargo},
    vm,
};
use anyhow::Result;
use ebpf_build::Places;

pub fn run(places: &Places, consent: Consent) -> Result<Summary> {
    Step::new(&places.root, "fmt")?.run(
        cargo(places).args(["fmt", "--all", "--check"]),
        "run `cargo fmt --all`",
    )?;
    // The lints compile the programs too.
    setup::run(places, consent)?;
    Step::new(&places.root, "clippy")?.run(
        cargo(places)
            .args(["clippy", "--workspace", "--all-targets", "--"])
            .args(["-D", "warnings"]),
        "mend what it says; `rustup component add clippy` if it is missing",
    )?;
    let tests = test::run(places, consent, &[])?;
    let oldest = vm::run(places, consent, "6.1")?;
    let all = tests + oldest;
    // Tests of parts of the product run as the calling user.
    if is_root() && preflight::check()? == Machine::Whole {
        return Ok(skips::hold(all));
    }
    eprintln!("note: skipped tests are no failure here: not root, or the machine lacks something");
    Ok(all)
}
