//! apt as a source of files: packages are looked up, downloaded and unpacked
//! without being installed, which needs no root.

use anyhow::{Context, Result, bail};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::privilege::{is_root, which};

/// A package in the version that apt would choose.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub name: String,
    pub version: String,
}

/// Packages could not be downloaded: no network, or lists that name what is no
/// longer there.
#[derive(Debug, Clone, Copy)]
pub struct Download;

impl fmt::Display for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the packages cannot be downloaded (is there a network?)")
    }
}

impl std::error::Error for Download {}

/// Whether this system has apt at all.
pub fn is_here() -> bool {
    ["apt-get", "apt-cache", "dpkg-deb"]
        .iter()
        .all(|tool| which(tool).is_some())
}

/// Whether apt has package lists: a fresh container image has none.
pub fn has_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

/// The package as apt would choose it now; None when there is none.
pub fn candidate(name: &str) -> Option<Package> {
    let output = run("apt-cache", &["policy", name]).ok()?;
    Some(Package {
        name: name.to_owned(),
        version: parse_candidate(&output)?,
    })
}

fn parse_candidate(policy: &str) -> Option<String> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
}

/// Names of the packages that a package depends on directly.
pub fn dependencies(package: &Package) -> Result<Vec<String>> {
    let wanted = format!("{}={}", package.name, package.version);
    let output = run("apt-cache", &["show", &wanted])?;
    Ok(parse_dependencies(&output))
}

fn parse_dependencies(show: &str) -> Vec<String> {
    show.lines()
        .find_map(|line| line.strip_prefix("Depends: "))
        .unwrap_or_default()
        .split([',', '|'])
        .filter_map(|part| part.split_whitespace().next())
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect()
}

/// The packages and all they depend on, without what the system has already.
pub fn closure(names: &[&str]) -> Result<Vec<Package>> {
    let mut arguments = vec!["-s", "install", "--no-install-recommends"];
    arguments.extend(names);
    let output = run("apt-get", &arguments)?;
    Ok(output.lines().filter_map(parse_install).collect())
}

/// `Inst seabios (1.16.2-1 Debian:12 [all])`, or with `[1.15]` in front of the new version.
fn parse_install(line: &str) -> Option<Package> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(' ')?;
    let version = rest.split_once('(')?.1.split_whitespace().next()?;
    Some(Package {
        name: name.to_owned(),
        version: version.to_owned(),
    })
}

/// Names of packages that match a regular expression.
pub fn search(pattern: &str) -> Result<Vec<String>> {
    let output = run("apt-cache", &["search", "--names-only", pattern])?;
    Ok(output
        .lines()
        .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
        .collect())
}

/// Bytes to download.
pub fn download_size(packages: &[Package]) -> Result<u64> {
    let mut arguments = vec!["--print-uris".to_owned(), "download".to_owned()];
    arguments.extend(packages.iter().map(pinned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = run("apt-get", &arguments)?;
    Ok(output
        .lines()
        .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
        .sum())
}

/// Downloads and unpacks into `root`; what was downloaded is removed again.
pub fn unpack(packages: &[Package], root: &Path, scratch: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
    // Of this process: the directory may be shared with another setup.
    let scratch = scratch.join(format!("download.{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let done = download(packages, &scratch).and_then(|files| {
        for file in files {
            run_in(
                Path::new("/"),
                Command::new("dpkg-deb").arg("-x").arg(&file).arg(root),
            )?;
        }
        Ok(())
    });
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    done
}

fn download(packages: &[Package], directory: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("apt-get");
    command.arg("download").args(packages.iter().map(pinned));
    if is_root() {
        // apt's own user may not read this directory; it would say so at length.
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    run_in(directory, &mut command).map_err(|e| e.context(Download))?;
    let files = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    Ok(files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "deb"))
        .collect())
}

fn pinned(package: &Package) -> String {
    format!("{}={}", package.name, package.version)
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    run_in(Path::new("/"), Command::new(program).args(arguments))
}

fn run_in(directory: &Path, command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .current_dir(directory)
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_is_read_from_policy() {
        let some = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(
            parse_candidate(some).as_deref(),
            Some("1.96.0+dfsg1-1~deb12u2")
        );
        assert_eq!(parse_candidate("x:\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn dependencies_without_versions_and_architectures() {
        let show =
            "Package: x\nDepends: libc6 (>= 2.34), libllvm22, gcc | clang, python3:any\nSize: 1\n";
        assert_eq!(
            parse_dependencies(show),
            ["libc6", "libllvm22", "gcc", "clang", "python3"]
        );
    }

    #[test]
    fn simulated_installs_are_read() {
        let new = parse_install("Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])");
        let upgrade = parse_install("Inst kmod [29-1] (30+20221128-1 Debian:12 [amd64])");
        assert_eq!(new.map(|p| p.version).as_deref(), Some("1.16.2-1"));
        assert_eq!(upgrade.map(|p| p.version).as_deref(), Some("30+20221128-1"));
        assert_eq!(
            parse_install("Conf seabios (1.16.2-1 Debian:12 [all])"),
            None
        );
        assert_eq!(parse_install("Remv qemu-utils [1:10]"), None);
    }
}
