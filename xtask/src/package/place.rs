//! Puts the files of an installation in their places and writes down what was made;
//! takes exactly that away again.

use super::{
    layout::{CONFIGURATION, Item, Source},
    run,
};
use crate::privilege::is_root;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// A line of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Made {
    File(PathBuf),
    Directory(PathBuf),
    Group(String),
}

impl Made {
    fn parse(line: &str) -> Option<Made> {
        let (kind, name) = line.split_once(' ')?;
        Some(match kind {
            "file" => Made::File(name.into()),
            "directory" => Made::Directory(name.into()),
            "group" => Made::Group(name.into()),
            _ => return None,
        })
    }

    fn line(&self) -> String {
        match self {
            Made::File(path) => format!("file {}\n", path.display()),
            Made::Directory(path) => format!("directory {}\n", path.display()),
            Made::Group(name) => format!("group {name}\n"),
        }
    }
}

/// Installs below `destdir`; `bindir` is filled into templates. Files that an
/// installation of before has made are replaced, the configuration is kept.
pub fn install(items: &[Item], destdir: &Path, bindir: &Path, record: &Path) -> Result<()> {
    let record = under(destdir, record);
    let mut made = read(&record);
    let done = make(items, destdir, bindir, &mut made);
    // Also what a failure has left half-made, so that uninstall finds it.
    make_parents(&record, &mut made)?;
    push(&mut made, Made::File(record.clone()));
    let lines: String = made.iter().map(Made::line).collect();
    fs::write(&record, lines).with_context(|| format!("cannot write {}", record.display()))?;
    done
}

fn make(items: &[Item], destdir: &Path, bindir: &Path, made: &mut Vec<Made>) -> Result<()> {
    for item in items {
        let to = under(destdir, &item.to);
        if item.to == Path::new(CONFIGURATION) && to.exists() {
            eprintln!("kept {}", to.display());
            continue;
        }
        write(item, &to, bindir, made).with_context(|| format!("cannot make {}", to.display()))?;
    }
    if destdir == Path::new("/") {
        group(made)?;
    }
    Ok(())
}

/// Puts the files below `destdir`, which becomes a package: nothing is written down.
pub fn stage(items: &[Item], destdir: &Path, bindir: &Path) -> Result<()> {
    make(items, destdir, bindir, &mut Vec::new())
}

/// Removes what the record names: files, directories that are empty then, the group.
pub fn uninstall(items: &[Item], destdir: &Path, record: &Path) -> Result<()> {
    let record = under(destdir, record);
    let made = read(&record);
    if made.is_empty() {
        bail!(
            "nothing is installed here: there is no {}",
            record.display()
        );
    }
    let configuration = under(destdir, Path::new(CONFIGURATION));
    for entry in made.iter().rev() {
        match entry {
            Made::File(path) if *path == configuration && changed(items, path) => {
                eprintln!("kept {}, which was changed", path.display());
            }
            Made::File(path) => remove(fs::remove_file(path), path)?,
            Made::Directory(path) => {
                // What others have put there stays, and so does the directory.
                _ = fs::remove_dir(path);
            }
            Made::Group(name) => {
                let done = Command::new("groupdel").arg(name).status();
                let done = done.with_context(|| format!("cannot remove the group {name}"))?;
                if !done.success() {
                    eprintln!("kept the group {name} ({done})");
                }
            }
        }
    }
    Ok(())
}

pub fn under(destdir: &Path, path: &Path) -> PathBuf {
    destdir.join(path.strip_prefix("/").unwrap_or(path))
}

fn read(record: &Path) -> Vec<Made> {
    let text = fs::read_to_string(record).unwrap_or_default();
    text.lines().filter_map(Made::parse).collect()
}

fn push(made: &mut Vec<Made>, entry: Made) {
    if !made.contains(&entry) {
        made.push(entry);
    }
}

fn write(item: &Item, to: &Path, bindir: &Path, made: &mut Vec<Made>) -> Result<()> {
    make_parents(to, made)?;
    // Beside it and renamed: a binary that runs cannot be written.
    let mut fresh = to.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match &item.from {
        Source::Link(target) => {
            // Of an installation that was broken off.
            _ = fs::remove_file(&fresh);
            symlink(target, &fresh)?;
        }
        source => {
            fs::write(&fresh, content(source, bindir)?)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(item.mode))?;
        }
    }
    fs::rename(&fresh, to)?;
    push(made, Made::File(to.into()));
    Ok(())
}

fn content(source: &Source, bindir: &Path) -> Result<Vec<u8>> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    match source {
        Source::File(path) => read(path),
        Source::Template(path) => {
            let text = String::from_utf8(read(path)?)?;
            Ok(text
                .replace("@BINDIR@", &bindir.display().to_string())
                .into_bytes())
        }
        Source::Packed(path) => {
            run::output(Command::new("gzip").args(["-9", "-n", "-c"]).arg(path))
        }
        Source::Link(target) => bail!("a link to {} has no content", target.display()),
    }
}

/// Makes the directories above a file that are not there yet, outermost first.
fn make_parents(file: &Path, made: &mut Vec<Made>) -> Result<()> {
    let missing: Vec<&Path> = file
        .ancestors()
        .skip(1)
        .take_while(|dir| !dir.exists())
        .collect();
    for directory in missing.into_iter().rev() {
        fs::create_dir(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        push(made, Made::Directory(directory.into()));
    }
    Ok(())
}

fn group(made: &mut Vec<Made>) -> Result<()> {
    const NAME: &str = "netbpf";
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let exists = groups
        .lines()
        .any(|line| line.split(':').next() == Some(NAME));
    if exists || !is_root() {
        return Ok(());
    }
    let done = Command::new("groupadd")
        .args(["--system", NAME])
        .status()
        .context("cannot run groupadd")?;
    if !done.success() {
        bail!("the group {NAME} cannot be made ({done})");
    }
    push(made, Made::Group(NAME.into()));
    Ok(())
}

fn changed(items: &[Item], path: &Path) -> bool {
    let ours = items
        .iter()
        .find(|item| item.to == Path::new(CONFIGURATION));
    let Some(Source::File(ours)) = ours.map(|item| &item.from) else {
        return true;
    };
    fs::read(ours).ok() != fs::read(path).ok()
}

fn remove(done: std::io::Result<()>, path: &Path) -> Result<()> {
    match done {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::layout::Layout;

    /// Every path below a directory.
    fn tree(root: &Path) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for entry in fs::read_dir(root).unwrap().flatten() {
            all.push(entry.path());
            if entry.path().is_dir() {
                all.extend(tree(&entry.path()));
            }
        }
        all.sort();
        all
    }

    struct Trial {
        dir: tempfile::TempDir,
        items: Vec<Item>,
        layout: Layout,
    }

    impl Trial {
        fn new() -> Trial {
            let dir = tempfile::tempdir().unwrap();
            let made = dir.path().join("made");
            for name in [
                "man/netbpf.1",
                "completions/netbpf.bash",
                "completions/_netbpf",
                "completions/netbpf.fish",
            ] {
                let path = made.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, name).unwrap();
            }
            let binary = dir.path().join("netbpf");
            fs::write(&binary, "binary").unwrap();
            let layout = Layout::local(Path::new("/usr/local"));
            let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
            let items = layout.items(&binary, &made, &sources);
            fs::create_dir_all(dir.path().join("root/usr/local/bin")).unwrap();
            Trial { dir, items, layout }
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("root")
        }

        fn install(&self) {
            let bindir = self.layout.bindir();
            install(&self.items, &self.root(), &bindir, &self.layout.record()).unwrap();
        }

        fn uninstall(&self) -> Result<()> {
            uninstall(&self.items, &self.root(), &self.layout.record())
        }
    }

    #[test]
    fn a_failed_install_can_be_taken_away() {
        let mut trial = Trial::new();
        let before = tree(&trial.root());
        let missing = PathBuf::from("/nowhere");
        trial.items.last_mut().unwrap().from = Source::File(missing);
        let bindir = trial.layout.bindir();
        let record = trial.layout.record();
        install(&trial.items, &trial.root(), &bindir, &record).unwrap_err();
        assert_ne!(tree(&trial.root()), before);
        trial.uninstall().unwrap();
        assert_eq!(tree(&trial.root()), before);
    }

    #[test]
    fn uninstall_removes_exactly_what_install_made() {
        let trial = Trial::new();
        let theirs = trial.root().join("usr/local/bin/theirs");
        fs::write(&theirs, "theirs").unwrap();
        let before = tree(&trial.root());
        trial.install();
        // Over itself, as an update does.
        trial.install();
        let unit = trial
            .root()
            .join("usr/local/lib/systemd/system/netbpf.service");
        let unit = fs::read_to_string(unit).unwrap();
        assert!(
            unit.contains("ExecStart=/usr/local/bin/netbpf daemon"),
            "{unit}"
        );
        assert!(
            !unit.contains('@') || unit.contains("@system-service"),
            "{unit}"
        );
        let binary = trial.root().join("usr/local/bin/netbpf");
        let mode = fs::metadata(binary).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let plugin = fs::read_link(trial.root().join("opt/cni/bin/netbpf-cni"));
        assert_eq!(plugin.unwrap(), Path::new("/usr/local/bin/netbpf"));
        trial.uninstall().unwrap();
        assert_eq!(tree(&trial.root()), before);
        trial
            .uninstall()
            .expect_err("nothing is installed any more");
    }

    #[test]
    fn a_configuration_that_was_changed_stays() {
        let trial = Trial::new();
        trial.install();
        let file = trial.root().join("etc/netbpf/netbpf.toml");
        fs::write(&file, "xdp = true\n").unwrap();
        trial.install();
        assert_eq!(fs::read_to_string(&file).unwrap(), "xdp = true\n");
        trial.uninstall().unwrap();
        assert!(file.exists());
    }
}
