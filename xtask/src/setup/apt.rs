//! apt as a source of files: packages are looked up, downloaded and unpacked
//! without being installed, which needs no root. They are those of the system's own
//! lists ([`SYSTEM`]) or of lists of another suite (`suite.rs`).

use anyhow::{Context, Result, bail};
use std::{
    ffi::OsString,
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

/// Package lists, and which packages count as installed.
#[derive(Debug, Clone)]
pub struct Lists {
    /// Of every program of apt's.
    options: Vec<OsString>,
}

/// The system's own.
pub const SYSTEM: Lists = Lists {
    options: Vec::new(),
};

impl Lists {
    /// Lists kept in this directory, of the suites that its file names as
    /// `sources.list.d` would. No package counts as installed.
    pub fn apart(directory: &Path, sources: &Path) -> Self {
        let lists = directory.join("lists");
        let cache = directory.join("cache");
        let places: [(&str, &Path); 5] = [
            ("Dir::Etc::sourcelist", sources),
            ("Dir::Etc::sourceparts", Path::new("-")),
            ("Dir::State::lists", &lists),
            ("Dir::State::status", Path::new("/dev/null")),
            ("Dir::Cache", &cache),
        ];
        let options = places.into_iter().flat_map(|(name, path)| {
            let mut option = OsString::from(format!("{name}="));
            option.push(path);
            ["-o".into(), option]
        });
        Self {
            options: options.collect(),
        }
    }

    /// Fetches them anew. For lists apart it needs no root.
    pub fn update(&self) -> Result<()> {
        let mut command = self.command("apt-get");
        // Without it a list that cannot be fetched is a warning.
        command.args(["update", "--error-on=any"]);
        run_in(Path::new("/"), as_ourselves(&mut command)).map(drop)
    }

    /// The package as apt would choose it now; None when there is none.
    pub fn candidate(&self, name: &str) -> Option<Package> {
        let output = self.run("apt-cache", &["policy", name]).ok()?;
        Some(Package {
            name: name.to_owned(),
            version: parse_candidate(&output)?,
        })
    }

    /// Names of the packages that a package depends on directly.
    pub fn dependencies(&self, package: &Package) -> Result<Vec<String>> {
        let output = self.run("apt-cache", &["show", &pinned(package)])?;
        Ok(parse_dependencies(&output))
    }

    /// The packages and all they depend on, without what is installed already.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Package>> {
        let mut arguments = vec!["-s", "install", "--no-install-recommends"];
        arguments.extend(names);
        let output = self.run("apt-get", &arguments)?;
        Ok(output.lines().filter_map(parse_install).collect())
    }

    /// Names of packages that match a regular expression.
    pub fn search(&self, pattern: &str) -> Result<Vec<String>> {
        let output = self.run("apt-cache", &["search", "--names-only", pattern])?;
        Ok(output
            .lines()
            .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
            .collect())
    }

    /// Bytes to download.
    pub fn download_size(&self, packages: &[Package]) -> Result<u64> {
        let mut arguments = vec!["--print-uris".to_owned(), "download".to_owned()];
        arguments.extend(packages.iter().map(pinned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = self.run("apt-get", &arguments)?;
        Ok(output
            .lines()
            .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
            .sum())
    }

    /// Downloads and unpacks into `root`; what was downloaded is removed again.
    pub fn unpack(&self, packages: &[Package], root: &Path, scratch: &Path) -> Result<()> {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        // Of this process: the directory may be shared with another setup.
        let scratch = scratch.join(format!("download.{}", std::process::id()));
        fs::create_dir_all(&scratch)
            .with_context(|| format!("cannot make {}", scratch.display()))?;
        let done = self.download(packages, &scratch).and_then(|files| {
            for file in files {
                run_in(
                    Path::new("/"),
                    Command::new("dpkg-deb").arg("-x").arg(&file).arg(root),
                )?;
            }
            Ok(())
        });
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
        done
    }

    fn download(&self, packages: &[Package], directory: &Path) -> Result<Vec<PathBuf>> {
        let mut command = self.command("apt-get");
        command.arg("download").args(packages.iter().map(pinned));
        run_in(directory, as_ourselves(&mut command)).map_err(|e| e.context(Download))?;
        let files = fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        Ok(files
            .into_iter()
            .filter(|path| path.extension().is_some_and(|e| e == "deb"))
            .collect())
    }

    /// What a program of apt's prints.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run_in(Path::new("/"), self.command(program).args(arguments))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }
}

/// apt's own user may not read our directories; it would say so at length.
fn as_ourselves(command: &mut Command) -> &mut Command {
    if is_root() {
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    command
}

fn parse_candidate(policy: &str) -> Option<String> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
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

fn pinned(package: &Package) -> String {
    format!("{}={}", package.name, package.version)
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
