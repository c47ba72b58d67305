//! Where tests have the daemon die: before and after whatever changes kernel or store.
//!
//! `NETBPF_FAULT` names a file. While it is there it holds how many points are to be passed
//! still; at the one behind them the process ends as by `kill -9`, and says where in a file
//! beside it (`.at`). Builds for users have none of it.

#[cfg(debug_assertions)]
pub use armed::point;

/// Passes a point.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: &str, _: impl FnOnce() -> String) {}

#[cfg(debug_assertions)]
mod armed {
    use std::{
        fs::{self, File},
        io::Write,
        path::PathBuf,
        sync::{LazyLock, Mutex, PoisonError},
    };

    use nix::sys::signal::{Signal, raise};

    /// One thread at a time.
    static FILE: LazyLock<Option<Mutex<PathBuf>>> = LazyLock::new(|| {
        let path = std::env::var_os("NETBPF_FAULT")?;
        Some(Mutex::new(path.into()))
    });

    /// Passes a point, or dies there: `when` as to `what`.
    pub fn point(when: &str, what: impl FnOnce() -> String) {
        let Some(file) = &*FILE else { return };
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let left = fs::read_to_string(&*file).ok();
        let Some(left) = left.and_then(|text| text.trim().parse::<u64>().ok()) else {
            return;
        };
        match left.checked_sub(1) {
            Some(left) => {
                // Not made anew where it was taken away meanwhile.
                let opened = File::options().write(true).truncate(true).open(&*file);
                _ = opened.and_then(|mut file| file.write_all(left.to_string().as_bytes()));
            }
            None => {
                let at = format!("{when} {}\n", what());
                _ = fs::write(file.with_extension("at"), at);
                _ = fs::remove_file(&*file);
                _ = raise(Signal::SIGKILL);
            }
        }
    }
}
