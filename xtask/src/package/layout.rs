//! What an installation consists of, and where each file goes.

use std::path::{Path, PathBuf};

/// Where files of each kind belong.
pub struct Layout {
    prefix: PathBuf,
    units: PathBuf,
    zsh: PathBuf,
    manual: Manual,
    cni: Cni,
}

/// Where container runtimes look for CNI plug-ins.
struct Cni {
    directory: &'static str,
    /// From there to the binary, where both move together.
    binary: Option<&'static str>,
}

/// How pages of the manual lie there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manual {
    Plain,
    Packed,
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
    /// By gzip, the same at each time.
    Packed(PathBuf),
    /// A symbolic link to there.
    Link(PathBuf),
}

/// What is to be copied and changed, below `packaging/`.
const EXAMPLES: [&str; 6] = [
    "grafana.json",
    "cni/10-netbpf.conflist",
    "containerd/containerd-1.toml",
    "containerd/containerd-2.toml",
    "oci/config.json",
    "podman/netbpf.conf",
];

/// What an administrator may have changed.
pub const CONFIGURATION: &str = "/etc/netbpf/netbpf.toml";

impl Layout {
    /// As software of one's own is installed.
    pub fn local(prefix: &Path) -> Layout {
        Layout {
            prefix: prefix.into(),
            units: prefix.join("lib/systemd/system"),
            zsh: prefix.join("share/zsh/site-functions"),
            manual: Manual::Plain,
            cni: Cni {
                directory: "/opt/cni/bin",
                binary: None,
            },
        }
    }

    /// As a package of Debian has it. Units are below `/usr`: Debian 12 looks there
    /// too, and later ones want nothing in `/lib`.
    pub fn debian() -> Layout {
        Layout {
            prefix: "/usr".into(),
            units: "/usr/lib/systemd/system".into(),
            zsh: "/usr/share/zsh/vendor-completions".into(),
            manual: Manual::Packed,
            cni: Cni {
                directory: "/usr/lib/cni",
                binary: Some("../../bin/netbpf"),
            },
        }
    }

    pub fn bindir(&self) -> PathBuf {
        self.prefix.join("bin")
    }

    pub fn documents(&self) -> PathBuf {
        self.prefix.join("share/doc/netbpf")
    }

    /// Where `install` writes down what it made.
    pub fn record(&self) -> PathBuf {
        self.prefix.join("lib/netbpf/installed.txt")
    }

    /// All files: the binary, what is made of it in `generated`, and what lies in the
    /// sources.
    pub fn items(&self, binary: &Path, generated: &Path, sources: &Path) -> Vec<Item> {
        let packaging = sources.join("packaging");
        let mut items = vec![
            Item {
                mode: 0o755,
                ..file(binary, self.bindir().join("netbpf"))
            },
            Item {
                from: Source::Template(packaging.join("systemd/netbpf.service.in")),
                to: self.units.join("netbpf.service"),
                mode: 0o644,
            },
            file(
                packaging.join("systemd/netbpf.socket"),
                self.units.join("netbpf.socket"),
            ),
            file(
                packaging.join("netbpf.sysusers"),
                self.prefix.join("lib/sysusers.d/netbpf.conf"),
            ),
            file(packaging.join("netbpf.toml"), CONFIGURATION),
        ];
        let binary = self.cni.binary.map(PathBuf::from);
        items.push(Item {
            from: Source::Link(binary.unwrap_or_else(|| self.bindir().join("netbpf"))),
            to: Path::new(self.cni.directory).join("netbpf-cni"),
            mode: 0o777,
        });
        items.extend(self.completions(&generated.join("completions")));
        items.extend(self.pages(&generated.join("man")));
        items.extend(self.texts(sources));
        items
    }

    fn completions(&self, generated: &Path) -> [Item; 3] {
        let share = self.prefix.join("share");
        [
            file(
                generated.join("netbpf.bash"),
                share.join("bash-completion/completions/netbpf"),
            ),
            file(generated.join("_netbpf"), self.zsh.join("_netbpf")),
            file(
                generated.join("netbpf.fish"),
                share.join("fish/vendor_completions.d/netbpf.fish"),
            ),
        ]
    }

    fn pages(&self, generated: &Path) -> Vec<Item> {
        let to = self.prefix.join("share/man/man1");
        let page = |from: PathBuf| {
            let name = from.file_name().unwrap_or_default().to_os_string();
            match self.manual {
                Manual::Plain => file(from, to.join(name)),
                Manual::Packed => {
                    let mut packed = name;
                    packed.push(".gz");
                    Item {
                        from: Source::Packed(from),
                        to: to.join(packed),
                        mode: 0o644,
                    }
                }
            }
        };
        files(generated).into_iter().map(page).collect()
    }

    /// What is to be read, in the directories that it refers to itself by.
    fn texts(&self, sources: &Path) -> Vec<Item> {
        let to = self.documents();
        let mut items: Vec<Item> = ["README.md", "ARCHITECTURE.md", "SECURITY.md"]
            .into_iter()
            .map(|name| file(sources.join(name), to.join(name)))
            .collect();
        for directory in ["docs", "docs/decisions", "docs/schemas"] {
            for from in files(&sources.join(directory)) {
                let name = from.file_name().unwrap_or_default().to_os_string();
                items.push(file(from, to.join(directory).join(name)));
            }
        }
        for example in EXAMPLES {
            let from = sources.join("packaging").join(example);
            items.push(file(from, to.join("examples").join(example)));
        }
        items
    }
}

fn file(from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Item {
    Item {
        from: Source::File(from.into()),
        to: to.into(),
        mode: 0o644,
    }
}

/// The files in a directory, in order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}
