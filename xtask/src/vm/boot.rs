//! Runs QEMU with the serial console in a file.

use crate::setup::Machine;
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

/// Boots the machine, waits until it powers off or the time is out, and returns
/// what it wrote to its console.
pub fn run(machine: &Machine, image: &Path, log: &Path, time_out: Duration) -> Result<String> {
    let console = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let errors = console
        .try_clone()
        .context("cannot share the console's log")?;
    let mut child = machine
        .qemu()
        // KVM hangs on some hosted machines; emulation works everywhere.
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "1",
            "-m",
            "768",
        ])
        .args([
            "-nographic",
            "-nodefaults",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(&machine.kernel)
        .arg("-initrd")
        .arg(image)
        .args(["-append", "console=ttyS0 panic=-1 quiet mitigations=off"])
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(errors)
        .spawn()
        .context("cannot run QEMU")?;
    let deadline = Instant::now() + time_out;
    while child.try_wait().context("cannot wait for QEMU")?.is_none() {
        if Instant::now() > deadline {
            child.kill().context("cannot end QEMU")?;
            child.wait().context("cannot wait for QEMU")?;
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let console = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(String::from_utf8_lossy(&console).into_owned())
}
