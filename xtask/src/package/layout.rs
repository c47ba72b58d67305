//! What an installation consists of, and where each file goes.

use std::path::{Path, PathBuf};

/// Where files of each kind belong.
pub struct Layout {
    prefix: PathBuf,
    units: PathBuf,
    zsh: PathBuf,
}

/// One file of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub from: Source,
    /// From the root.
    pub to: PathBuf,
    pub mode: u32,
}

/// Where its content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    /// With `@BINDIR@` filled in.
    Template(PathBuf),
}

/// What an administrator may have changed.
pub const CONFIGURATION: &str = "/etc/netbpf/netbpf.toml";

impl Layout {
    /// As software of one's own is installed.
    pub fn local(prefix: &Path) -> Layout {
        Layout {
            prefix: prefix.into(),
            units: prefix.join("lib/systemd/system"),
            zsh: prefix.join("share/zsh/site-functions"),
        }
    }

    pub fn bindir(&self) -> PathBuf {
        self.prefix.join("bin")
    }

    /// Where `install` writes down what it made.
    pub fn record(&self) -> PathBuf {
        self.prefix.join("lib/netbpf/installed.txt")
    }

    /// All files: the binary, what is made of it in `generated`, and `packaging/`.
    pub fn items(&self, binary: &Path, generated: &Path, packaging: &Path) -> Vec<Item> {
        let share = self.prefix.join("share");
        let file = |from: PathBuf, to: PathBuf, mode| Item {
            from: Source::File(from),
            to,
            mode,
        };
        let mut items = vec![
            file(binary.into(), self.bindir().join("netbpf"), 0o755),
            Item {
                from: Source::Template(packaging.join("systemd/netbpf.service.in")),
                to: self.units.join("netbpf.service"),
                mode: 0o644,
            },
            file(
                packaging.join("systemd/netbpf.socket"),
                self.units.join("netbpf.socket"),
                0o644,
            ),
            file(
                packaging.join("netbpf.sysusers"),
                self.prefix.join("lib/sysusers.d/netbpf.conf"),
                0o644,
            ),
            file(packaging.join("netbpf.toml"), CONFIGURATION.into(), 0o644),
        ];
        let completions = generated.join("completions");
        for (name, to) in [
            (
                "netbpf.bash",
                share.join("bash-completion/completions/netbpf"),
            ),
            ("_netbpf", self.zsh.join("_netbpf")),
            (
                "netbpf.fish",
                share.join("fish/vendor_completions.d/netbpf.fish"),
            ),
        ] {
            items.push(file(completions.join(name), to, 0o644));
        }
        for page in pages(&generated.join("man")) {
            let to = share
                .join("man/man1")
                .join(page.file_name().unwrap_or_default());
            items.push(file(page, to, 0o644));
        }
        items
    }
}

fn pages(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut pages: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    pages.sort();
    pages
}
