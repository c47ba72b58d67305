//! `cargo xtask deb`: a package for Debian 12 or newer, with the same files as
//! `install`, each where Debian has it. Built without root and without debhelper; the
//! scripts in `packaging/deb` do what debhelper's snippets do.

mod control;
mod libraries;

use super::{
    generate,
    layout::{Item, Layout, Source},
    place::{stage, under},
    run,
};
use crate::{
    privilege::which,
    setup::{self, Consent},
    test::{self, Profile},
};
use anyhow::{Context, Result, bail};
use ebpf_build::Places;
use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

/// How the package is made, for tests of it.
#[derive(clap::Args)]
pub struct Packaging {
    /// Of a build of before
    #[arg(long, hide = true)]
    binary: Option<PathBuf>,
    /// Where the package and what it is made of lie
    #[arg(long, hide = true)]
    output: Option<PathBuf>,
}

/// The scripts that dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Builds the product, then the package.
pub fn deb(places: &Places, consent: Consent, how: &Packaging) -> Result<()> {
    for (tool, package) in [
        ("dpkg-deb", "dpkg"),
        ("gzip", "gzip"),
        ("strip", "binutils"),
    ] {
        if which(tool).is_none() {
            bail!(
                "{tool} is missing: install the package {package}; Fedora, Arch and others \
                 have it under the same name. `cargo xtask install` does without it"
            );
        }
    }
    let binary = match &how.binary {
        Some(binary) => binary.clone(),
        None => {
            setup::run(places, consent)?;
            test::build_netbpf(places, Profile::Release)?
        }
    };
    let output = match &how.output {
        Some(output) => output.clone(),
        None => places.root.join("target/deb"),
    };
    let package = build(&places.root, &binary, &output)?;
    eprintln!(
        "built {package}\ninstall it:  sudo apt install {package}",
        package = package.display()
    );
    Ok(())
}

/// Who made what, and when.
struct Identity {
    version: String,
    maintainer: String,
    /// Seconds; no file of the package is newer.
    epoch: u64,
    /// The same as Debian's changelogs have it.
    date: String,
}

impl Identity {
    fn gather(sources: &Path) -> Result<Identity> {
        let epoch = epoch(sources)?;
        let mut date = Command::new("date");
        date.args(["-u", "-R", "-d", &format!("@{epoch}")]);
        Ok(Identity {
            version: control::version(env!("CARGO_PKG_VERSION")),
            maintainer: maintainer(sources),
            epoch,
            date: run::line(date.env("LC_ALL", "C"))?,
        })
    }
}

/// As Debian's own tools take it, else as git has it.
fn maintainer(sources: &Path) -> String {
    let value = |variable: &str, key: &str| {
        let git = || run::line(git(sources).args(["config", key])).ok();
        let set = env::var(variable).ok().or_else(git);
        set.filter(|text| !text.is_empty())
    };
    match (
        value("DEBFULLNAME", "user.name"),
        value("DEBEMAIL", "user.email"),
    ) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        _ => "The authors of netbpf <netbpf@localhost>".to_owned(),
    }
}

/// The same sources make the same package.
fn epoch(sources: &Path) -> Result<u64> {
    if let Ok(text) = env::var("SOURCE_DATE_EPOCH") {
        return text.parse().context("SOURCE_DATE_EPOCH is no number");
    }
    let commit = run::line(git(sources).args(["log", "-1", "--format=%ct"]));
    if let Some(seconds) = commit.ok().and_then(|text| text.parse().ok()) {
        return Ok(seconds);
    }
    let changed = fs::metadata(sources.join("CHANGELOG.md"))?.modified()?;
    Ok(changed.duration_since(UNIX_EPOCH)?.as_secs())
}

fn git(sources: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(sources);
    git
}

/// Makes the package in `output` and says where it is.
fn build(sources: &Path, binary: &Path, output: &Path) -> Result<PathBuf> {
    // Of a name that nobody else has: it is removed as a whole, wherever it is.
    let work = output.join("netbpf-package");
    clear(output, &work)?;
    let root = work.join("root");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let identity = Identity::gather(sources)?;
    let layout = Layout::debian();
    let generated = work.join("generated");
    generate(binary, &generated)?;
    let stripped = work.join("netbpf");
    strip(binary, &stripped)?;
    let items = items(&layout, &stripped, &generated, sources, &identity)?;
    stage(&items, &root, &layout.bindir())?;

    let architecture = run::line(Command::new("dpkg").arg("--print-architecture"))?;
    let facts = control::Facts {
        identity: &identity,
        architecture: &architecture,
        libraries: libraries::depends(&fs::read(&stripped)?)?,
        size: size(&items, &root)?,
    };
    let texts = [
        ("control", control::control(&facts)),
        ("conffiles", control::conffiles()),
        ("md5sums", sums(&items, &root)?),
    ];
    describe(&root.join("DEBIAN"), sources, &texts)?;

    let package = output.join(format!("netbpf_{}_{architecture}.deb", identity.version));
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.args(["--root-owner-group", "--build"]);
    dpkg.args([&root, &package]);
    run::output(dpkg.env("SOURCE_DATE_EPOCH", identity.epoch.to_string()))?;
    Ok(package)
}

/// Removes what was made before, so that `netbpf_*.deb` is one package.
fn clear(output: &Path, work: &Path) -> Result<()> {
    if work.exists() {
        fs::remove_dir_all(work).with_context(|| format!("cannot remove {}", work.display()))?;
    }
    for entry in fs::read_dir(output).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("netbpf_") && name.ends_with(".deb") {
            fs::remove_file(entry.path()).with_context(|| format!("cannot remove {name}"))?;
        }
    }
    Ok(())
}

/// What `install` puts there, and what Debian wants beside it.
fn items(
    layout: &Layout,
    binary: &Path,
    generated: &Path,
    sources: &Path,
    identity: &Identity,
) -> Result<Vec<Item>> {
    let text = fs::read_to_string(sources.join("CHANGELOG.md"))?;
    let changelog = generated.join("changelog");
    fs::write(&changelog, control::changelog(identity, &text))?;
    let mut items = layout.items(binary, generated, sources);
    for (from, name) in [
        (Source::Packed(changelog), "changelog.gz"),
        (
            Source::File(sources.join("packaging/deb/copyright")),
            "copyright",
        ),
    ] {
        items.push(Item {
            from,
            to: layout.documents().join(name),
            mode: 0o644,
        });
    }
    Ok(items)
}

/// As dh_strip does: the programs in it are data and stay.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.args(["--strip-unneeded", "--remove-section=.comment", "-o"]);
    run::output(strip.args([to, from]))?;
    Ok(())
}

/// KiB, each file rounded up, as `Installed-Size` is counted.
fn size(items: &[Item], root: &Path) -> Result<u64> {
    let sizes = items.iter().map(|item| {
        let path = under(root, &item.to);
        Ok(fs::symlink_metadata(path)?.len().div_ceil(1024))
    });
    sizes.sum()
}

/// Of all files but links and those that an administrator may change.
fn sums(items: &[Item], root: &Path) -> Result<String> {
    let conffiles = control::conffiles();
    let mut names: Vec<&Path> = items
        .iter()
        .filter(|item| !matches!(item.from, Source::Link(_)))
        .filter(|item| !conffiles.lines().any(|line| Path::new(line) == item.to))
        .map(|item| item.to.strip_prefix("/").unwrap_or(&item.to))
        .collect();
    names.sort();
    let mut md5sum = Command::new("md5sum");
    let sums = run::output(md5sum.args(names).current_dir(root))?;
    Ok(String::from_utf8(sums)?)
}

/// Writes what dpkg reads itself.
fn describe(directory: &Path, sources: &Path, texts: &[(&str, String)]) -> Result<()> {
    fs::create_dir(directory)?;
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set(directory, 0o755)?;
    for (name, text) in texts {
        let path = directory.join(name);
        fs::write(&path, text)?;
        set(&path, 0o644)?;
    }
    for name in SCRIPTS {
        let path = directory.join(name);
        let from = sources.join("packaging/deb").join(name);
        fs::copy(&from, &path).with_context(|| format!("cannot copy {}", from.display()))?;
        set(&path, 0o755)?;
    }
    Ok(())
}
