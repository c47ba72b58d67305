//! `cargo xtask install`, `uninstall`, `deb`: everything is built as the calling user;
//! only the copying of `install` is done as root, by this program itself.

mod deb;
mod layout;
mod place;
mod run;

pub use deb::{Packaging, deb};

use crate::{
    preflight,
    privilege::{as_root, is_root},
    setup::{self, Consent},
    test::{self, Profile},
};
use anyhow::{Context, Result, bail};
use ebpf_build::Places;
use layout::{Item, Layout};
use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where to.
#[derive(clap::Args, Clone)]
pub struct Destination {
    /// Directory that bin, lib and share are below
    #[arg(long, default_value = "/usr/local")]
    prefix: PathBuf,
    /// Directory that stands for the root, for packagers
    #[arg(long, default_value = "/")]
    destdir: PathBuf,
}

impl Destination {
    fn check(&self) -> Result<()> {
        for (flag, path) in [("--prefix", &self.prefix), ("--destdir", &self.destdir)] {
            if !path.is_absolute() {
                bail!("{flag} {}: an absolute path is needed", path.display());
            }
        }
        Ok(())
    }

    /// Whether the machine itself is meant.
    fn is_here(&self) -> bool {
        self.destdir == Path::new("/")
    }
}

/// Builds the product, then installs it.
pub fn install(places: &Places, consent: Consent, to: &Destination) -> Result<()> {
    to.check()?;
    if to.is_here() {
        preflight::check()?;
    }
    setup::run(places, consent)?;
    let binary = test::build_netbpf(places, Profile::Release)?;
    generate(&binary, &generated(places))?;
    if to.is_here() && !is_root() {
        again_as_root("place", to, &binary)
    } else {
        place(places, to, &binary)
    }
}

/// The copying part of `install`.
pub fn place(places: &Places, to: &Destination, binary: &Path) -> Result<()> {
    to.check()?;
    let layout = Layout::local(&to.prefix);
    let items = items(places, &layout, binary);
    place::install(&items, &to.destdir, &layout.bindir(), &layout.record())?;
    eprintln!("installed below {}", to.prefix.display());
    if to.is_here() {
        systemctl(&["daemon-reload"]);
        eprintln!(
            "start it now and with the machine:  sudo systemctl enable --now netbpf.socket \
             netbpf.service\nuse it without sudo:  sudo adduser $USER netbpf"
        );
    }
    Ok(())
}

/// Takes away what `install` made. The state stays; what runs is stopped.
pub fn uninstall(places: &Places, to: &Destination) -> Result<()> {
    to.check()?;
    if to.is_here() && !is_root() {
        return again_as_root("uninstall", to, Path::new(""));
    }
    if to.is_here() {
        systemctl(&["disable", "--now", "netbpf.socket", "netbpf.service"]);
    }
    let layout = Layout::local(&to.prefix);
    let items = items(places, &layout, Path::new(""));
    place::uninstall(&items, &to.destdir, &layout.record())?;
    if to.is_here() {
        systemctl(&["daemon-reload"]);
        eprintln!("/var/lib/netbpf stays; what still forwards packets goes by a reboot");
    }
    Ok(())
}

fn items(places: &Places, layout: &Layout, binary: &Path) -> Vec<Item> {
    layout.items(binary, &generated(places), &places.root)
}

fn generated(places: &Places) -> PathBuf {
    places.root.join("target/package")
}

/// The manual and the completions, by the product itself.
fn generate(binary: &Path, directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    run::output(Command::new(binary).arg("generate").arg(directory))?;
    Ok(())
}

fn again_as_root(command: &str, to: &Destination, binary: &Path) -> Result<()> {
    let this = env::current_exe().context("where is xtask?")?;
    let mut root = as_root(&this, &[]);
    root.arg(command);
    root.arg("--prefix").arg(&to.prefix);
    root.arg("--destdir").arg(&to.destdir);
    if !binary.as_os_str().is_empty() {
        root.args([OsStr::new("--binary"), binary.as_os_str()]);
    }
    let status = root.status().context("cannot run sudo")?;
    if !status.success() {
        bail!("{command} as root failed ({status})");
    }
    Ok(())
}

/// Tells systemd, where it runs.
fn systemctl(arguments: &[&str]) {
    if Path::new("/run/systemd/system").is_dir() {
        // Units that were never enabled are nothing to stop for.
        _ = Command::new("systemctl").args(arguments).status();
    }
}
