//! `cargo xtask ci`: what `test` does, with form and lints before it and the
//! oldest kernel behind it.

use crate::{
    setup::{self, Consent},
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
    let machine = vm::run(places, consent, "6.1")?;
    Ok(tests + machine)
}
