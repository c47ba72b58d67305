//! `cargo xtask vm 6.1|6.12|newest`: the product on another kernel, in a virtual machine of
//! its own: QEMU without KVM, a kernel and modules of Debian's, and an initramfs
//! with busybox, the netbpf binary and [`init.sh`](../../vm/init.sh), which does
//! the checks and says on the serial console what came out. Where this machine has systemd,
//! it becomes the first process then, and [`systemd.sh`](../../vm/systemd.sh) checks the
//! product in the sandbox of its own unit.

mod boot;
mod cpio;
mod files;
mod image;
mod modules;
mod report;

use crate::{
    setup::{self, Consent},
    step::Step,
    summary::Summary,
    test::{self, Profile},
};
use anyhow::{Context, Result, bail};
use ebpf_build::Places;
use std::{fs, time::Duration};

/// Emulated, it takes some two minutes; the rest is for slow machines.
const TIME_OUT: Duration = Duration::from_secs(480);

/// Boots a kernel of this series and counts its checks.
pub fn run(places: &Places, consent: Consent, series: &str) -> Result<Summary> {
    let kernel = setup::series(series)?;
    setup::run(places, consent)?;
    let machine = setup::machine(places, kernel, consent)?;
    let binary = test::build_netbpf(places, Profile::Debug)?;
    let step = Step::new(&places.root, &format!("vm {series}"))?;
    let directory = places.root.join("target/vm");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let image = directory.join(format!("initramfs-{series}.cpio"));
    image::write(places, &machine, &binary, &image)?;
    eprintln!(
        "booting Linux {} ({})",
        machine.release,
        machine.kernel.display()
    );
    let console = boot::run(&machine, &image, step.log(), TIME_OUT)?;
    let report = report::parse(&console);
    for check in &report.checks {
        eprintln!("vm {series}: {check}");
    }
    let summary = report.summary();
    if !report.done {
        eprintln!("{}", report::tail(&console));
        bail!(step.failure(
            "the machine did not come to its end; its console's last lines stand above",
            ""
        ));
    }
    if summary.failed > 0 {
        eprintln!("{console}");
        eprintln!(
            "{}",
            step.failure(&format!("{} checks failed", summary.failed), "")
        );
    }
    Ok(summary)
}
