//! Kernel modules, and in which order they are loaded. Debian's package has no
//! `modules.dep` until it is installed; each module names what it depends on. Newer
//! kernels have theirs compressed.

use anyhow::{Context, Result, bail};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A kernel's modules.
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    /// Which unpacks them as `xz -dc`.
    busybox: PathBuf,
}

/// A module as the kernel takes it.
pub struct Module {
    /// `veth.ko`
    pub name: String,
    pub content: Vec<u8>,
}

impl Modules {
    /// Of `/lib/modules/RELEASE`.
    pub fn scan(root: &Path, busybox: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        scan_into(&root.join("kernel"), &mut files)
            .with_context(|| format!("cannot read modules in {}", root.display()))?;
        let builtin = root.join("modules.builtin");
        let builtin = fs::read_to_string(&builtin)
            .with_context(|| format!("cannot read {}", builtin.display()))?
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self {
            files,
            builtin,
            busybox: busybox.to_owned(),
        })
    }

    /// These modules and all they depend on, in the order in which
    /// they can be loaded. What is built in needs no file.
    pub fn in_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.add(name, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<()> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("the kernel has no module {name}");
        };
        let content = self.read(path)?;
        for dependency in dependencies(&content) {
            self.add(&dependency, seen, order)?;
        }
        order.push(Module {
            name: format!("{name}.ko"),
            content,
        });
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let context = || format!("cannot read {}", path.display());
        if path.extension().is_none_or(|extension| extension != "xz") {
            return fs::read(path).with_context(context);
        }
        let unpacked = Command::new(&self.busybox)
            .args(["xzcat", "--"])
            .arg(path)
            .output()
            .with_context(context)?;
        if !unpacked.status.success() {
            bail!(
                "{}: {}",
                context(),
                String::from_utf8_lossy(&unpacked.stderr).trim()
            );
        }
        Ok(unpacked.stdout)
    }
}

fn scan_into(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            scan_into(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `kernel/net/sched/act_bpf.ko` -> `act_bpf`; dash and underscore are the same.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name
        .strip_suffix(".xz")
        .unwrap_or(name)
        .strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// From the module's `.modinfo`, a list of `key=value` ended by zero bytes.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[start + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_dependencies() {
        assert_eq!(
            module_name(Path::new("kernel/net/cls-bpf.ko")).as_deref(),
            Some("cls_bpf")
        );
        assert_eq!(
            module_name(Path::new("kernel/drivers/net/veth.ko.xz")).as_deref(),
            Some("veth")
        );
        assert_eq!(module_name(Path::new("kernel/net/Kconfig")), None);
        let info = b"x\0license=GPL\0depends=bridge,stp\0retpoline=Y\0";
        assert_eq!(dependencies(info), ["bridge", "stp"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"no module").is_empty());
    }

    #[test]
    fn dependencies_come_first() {
        let root = tempfile::tempdir().expect("a directory");
        let kernel = root.path().join("kernel");
        fs::create_dir(&kernel).expect("a directory");
        for (name, info) in [
            ("a.ko", "\0depends=b,c\0"),
            ("b.ko", "\0depends=c,d\0"),
            ("c.ko", "\0depends=\0"),
        ] {
            fs::write(kernel.join(name), info).expect("a file");
        }
        fs::write(root.path().join("modules.builtin"), "kernel/d.ko\n").expect("a file");
        let modules = Modules::scan(root.path(), Path::new("busybox")).expect("modules");
        let order = modules.in_order(&["a"]).expect("an order");
        let names: Vec<_> = order.into_iter().map(|module| module.name).collect();
        assert_eq!(names, ["c.ko", "b.ko", "a.ko"]);
        assert!(modules.in_order(&["absent"]).is_err());
    }
}
