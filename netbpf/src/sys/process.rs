//! This process and the machine it runs on.

use std::fs;

use nix::{
    sys::{
        signal::{SigSet, Signal},
        utsname::uname,
    },
    time::{ClockId, clock_gettime},
};

use super::{Result, SysError};

/// Changes with every boot.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(|e| SysError::io(format!("read {path}"), e))?;
    Ok(text.trim().to_owned())
}

/// Whether this process has other mounts than who has started it, which go with it; where
/// that cannot be told, not.
pub fn has_own_mounts() -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let parent = nix::unistd::getppid().to_string();
    matches!((of("self"), of(&parent)), (Some(own), Some(parents)) if own != parents)
}

/// `CLOCK_MONOTONIC`, which the programs tell the time by.
pub fn monotonic() -> Result<std::time::Duration> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC);
    let time = time.map_err(|e| SysError::io("read the clock", e))?;
    Ok(time.into())
}

/// `CLOCK_BOOTTIME` in milliseconds: goes on while the machine sleeps, and knows no
/// change of the hour.
pub fn boottime_ms() -> Result<u64> {
    let time =
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|e| SysError::io("read the clock", e))?;
    Ok(time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000)
}

/// Release of the running kernel.
pub fn kernel() -> String {
    uname().map_or_else(
        |_| "unknown".into(),
        |u| u.release().to_string_lossy().into_owned(),
    )
}

/// Whether the kernel keeps everything secret from everybody (lockdown(7)): no program
/// can read anything then.
pub fn is_confidential() -> bool {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    text.contains("[confidentiality]")
}

/// Whether programs are interpreted instead of compiled; only the first network namespace
/// is told.
pub fn has_no_jit() -> bool {
    let text = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
    text.trim() == "0"
}

/// Name of the program that started this one, as the kernel has it (at most 15 bytes).
pub fn parent_name() -> Option<String> {
    let parent = nix::unistd::getppid();
    let name = fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

pub fn hostname() -> String {
    uname().map_or_else(
        |_| "localhost".into(),
        |u| u.nodename().to_string_lossy().into_owned(),
    )
}

/// Random bytes of the kernel.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    use std::io::Read;
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(|e| SysError::io("read /dev/urandom", e))?;
    Ok(bytes)
}

/// Lets the signals that steer a daemon reach it, also where who started it had them
/// blocked: a mask is inherited. To be called before there are threads.
pub fn hear_signals() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    if let Err(error) = signals.thread_unblock() {
        tracing::warn!(%error, "signals may be blocked");
    }
}

/// Lets the allocator give back what is free. By default glibc has an arena for each of many
/// threads, which come and go with the work here, and what is free in one is of no use to the
/// others: they held twice what was in them. To be called before there are threads.
pub fn spare_memory() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [
        (libc::M_ARENA_MAX, 1),
        // Its defaults, which no longer grow then with what was asked for once.
        (libc::M_TRIM_THRESHOLD, 128 << 10),
        (libc::M_MMAP_THRESHOLD, 128 << 10),
    ] {
        // SAFETY: mallopt takes integers and is called by the only thread; where it refuses,
        // all stays as it was.
        _ = unsafe { libc::mallopt(what, value) };
    }
}

/// Gives back what the allocator keeps and nobody needs.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and locks what it looks at.
    let _something_given = unsafe { libc::malloc_trim(0) };
}
