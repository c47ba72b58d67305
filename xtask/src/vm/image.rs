//! The machine's file system.

use super::{
    cpio::Archive,
    files::libraries,
    modules::{Module, Modules},
};
use crate::{
    privilege::which,
    setup::{self, Machine},
};
use anyhow::{Context, Result, bail};
use ebpf_build::Places;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

/// What the checks use beside what the kernel has built in.
const MODULES: [&str; 8] = [
    "veth",
    "vxlan",
    "cls_bpf",
    "sch_ingress",
    "act_bpf",
    "af_packet",
    "dummy",
    "tun",
];

/// Programs of this machine that busybox has no full substitute for.
const PROGRAMS: [&str; 5] = ["bash", "ip", "tc", "ping", "nsenter"];

/// Where this machine has the systemd that the second half of the checks runs under.
const SYSTEMD: &str = "/lib/systemd/systemd";
/// What it starts services by, from version 255 on.
const EXECUTOR: &str = "/lib/systemd/systemd-executor";

/// Writes the archive with the product, busybox, modules and the scripts.
pub fn write(places: &Places, machine: &Machine, binary: &Path, image: &Path) -> Result<()> {
    let slim = image.with_file_name("netbpf");
    strip(binary, &slim)?;
    let modules = Modules::scan(&machine.modules, &machine.busybox)?.in_order(&MODULES)?;
    let mut files = BTreeMap::from([
        ("init".to_owned(), places.root.join("xtask/vm/init.sh")),
        ("bin/busybox".to_owned(), machine.busybox.clone()),
        ("bin/netbpf".to_owned(), slim),
    ]);
    for program in PROGRAMS {
        let path = which(program).with_context(|| format!("{program} is not installed"))?;
        files.insert(format!("bin/{program}"), path);
    }
    // Of the engines, which `cargo xtask test` unpacks: nodes agree in it.
    let etcd = setup::etcd(places);
    if etcd.exists() {
        files.insert("bin/etcd".to_owned(), etcd);
    }
    if Path::new(SYSTEMD).exists() {
        for program in [SYSTEMD, EXECUTOR].map(Path::new) {
            if program.exists() {
                files.insert(relative(program), program.into());
            }
        }
        let systemctl = which("systemctl").context("systemctl is not installed")?;
        files.insert("bin/systemctl".to_owned(), systemctl);
    }
    let mut shared = BTreeSet::new();
    for program in files.values().filter(|path| is_program(path)) {
        shared.extend(libraries(program)?);
    }
    for library in shared {
        files.insert(relative(&library), library);
    }
    for script in ["check.sh", "systemd.sh"] {
        files.insert(script.to_owned(), places.root.join("xtask/vm").join(script));
    }
    files.extend(units(places, image)?);
    let links = applets(machine)?;
    write_archive(image, &files, &modules, &links)
        .with_context(|| format!("cannot write {}", image.display()))
}

/// What systemd reads: the product's units, those of the checks, and the group.
fn units(places: &Places, image: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let read = |path: PathBuf| {
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let template = read(places.root.join("packaging/systemd/netbpf.service.in"))?;
    let made = [
        ("netbpf.service", template.replace("@BINDIR@", "/bin")),
        ("group", "root:x:0:\nnetbpf:x:900:\n".to_owned()),
    ];
    for (name, text) in &made {
        let path = image.with_file_name(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let ours = places.root.join("xtask/vm/units");
    let system = "etc/systemd/system";
    let mut files = BTreeMap::from([
        ("etc/group".to_owned(), image.with_file_name("group")),
        (
            format!("{system}/netbpf.service"),
            image.with_file_name("netbpf.service"),
        ),
        (
            format!("{system}/netbpf.socket"),
            places.root.join("packaging/systemd/netbpf.socket"),
        ),
    ]);
    for directory in ["", "netbpf.service.d"] {
        let directory = ours.join(directory);
        for entry in fs::read_dir(&directory).context("cannot list the machine's units")? {
            let path = entry?.path();
            if path.is_file() {
                let name = path.strip_prefix(&ours)?.to_string_lossy().into_owned();
                files.insert(format!("{system}/{name}"), path);
            }
        }
    }
    Ok(files)
}

fn write_archive(
    image: &Path,
    files: &BTreeMap<String, PathBuf>,
    modules: &[Module],
    links: &[String],
) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(image)?));
    let mut directories: BTreeSet<String> = ["dev", "proc", "sys", "run", "tmp", "var", "modules"]
        .map(str::to_owned)
        .into();
    for path in files.keys() {
        let parents = Path::new(path).ancestors().skip(1);
        directories.extend(
            parents
                .map(|parent| parent.to_string_lossy().into_owned())
                .filter(|parent| !parent.is_empty()),
        );
    }
    for directory in &directories {
        archive.directory(directory)?;
    }
    // Init's own output, before it has mounted /dev.
    archive.character_device("dev/console", (5, 1))?;
    archive.character_device("dev/null", (1, 3))?;
    for (path, source) in files {
        let content =
            fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        archive.file(path, &content)?;
    }
    // `modules/00-veth.ko` and so on: loaded in this order.
    for (index, module) in modules.iter().enumerate() {
        archive.file(
            &format!("modules/{index:02}-{}", module.name),
            &module.content,
        )?;
    }
    for name in links {
        if !files.contains_key(&format!("bin/{name}")) {
            archive.link(&format!("bin/{name}"), "busybox")?;
        }
    }
    archive.finish()?;
    Ok(())
}

/// Names that busybox answers to.
fn applets(machine: &Machine) -> Result<Vec<String>> {
    let output = Command::new(&machine.busybox)
        .arg("--list")
        .output()
        .context("cannot run busybox")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}

/// Debug information is most of a debug build, and the image lies in memory.
fn strip(binary: &Path, slim: &Path) -> Result<()> {
    let status = Command::new("strip")
        .arg("-o")
        .arg(slim)
        .arg(binary)
        .status()
        .context("cannot run strip (package binutils)")?;
    if !status.success() {
        bail!("strip failed on {}", binary.display());
    }
    Ok(())
}

fn is_program(path: &Path) -> bool {
    path.extension().is_none() && !path.ends_with("busybox")
}

fn relative(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}
