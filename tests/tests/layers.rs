//! The layers hold: who may use what, by looking at the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every source file below a directory of the workspace.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Lines of a file without comments, with their numbers.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file");
    let lines = text.lines().enumerate();
    lines
        .map(|(number, line)| {
            let code = line.split("//").next().unwrap_or_default();
            (number + 1, code.to_owned())
        })
        .collect()
}

/// Whether a line names the crate or path as such: `aya::`, `use aya;`.
fn names(line: &str, what: &str) -> bool {
    line.match_indices(what).any(|(start, _)| {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let before = line[..start].chars().next_back();
        let after = line[start + what.len()..].chars().next();
        let is_start = !before.is_some_and(|c| word(c) || c == ':');
        is_start && (what.ends_with("::") || !after.is_some_and(word))
    })
}

/// Uses of `what` in `netbpf/src` outside of `home`.
fn uses_outside(what: &[&str], home: &str) -> Vec<String> {
    let src = root().join("netbpf/src");
    let mut found = Vec::new();
    for file in sources(&src) {
        let relative = file.strip_prefix(&src).expect("below src").to_owned();
        if relative.starts_with(home) {
            continue;
        }
        for (number, line) in code(&file) {
            if what.iter().any(|what| names(&line, what)) {
                found.push(format!("{}:{number}: {}", relative.display(), line.trim()));
            }
        }
    }
    found
}

#[test]
fn only_datapath_uses_aya() {
    let found = uses_outside(&["aya::", "aya_obj::"], "datapath");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn only_sys_uses_netlink_and_nix() {
    let what = [
        "rtnetlink::",
        "netlink_packet_core::",
        "netlink_packet_route::",
        "netlink_packet_sock_diag::",
        "nix::",
    ];
    let found = uses_outside(&what, "sys");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn plan_does_no_input_or_output() {
    let plan = root().join("netbpf/src/control/plan.rs");
    let directory = root().join("netbpf/src/control/plan");
    let mut files: Vec<PathBuf> = [plan].into_iter().filter(|path| path.exists()).collect();
    if directory.exists() {
        files.extend(sources(&directory));
    }
    assert!(
        !files.is_empty(),
        "netbpf/src/control/plan.rs is gone: where is the plan made?"
    );
    let forbidden = [
        "std::fs",
        "fs::",
        "tokio::",
        "std::process",
        "std::io",
        "std::env",
        "std::time::SystemTime",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "File",
        "crate::sys",
        "sys::",
        "crate::store",
        "async",
        "await",
        "libc::",
    ];
    for file in files {
        for (number, line) in code(&file) {
            let found = forbidden.iter().find(|what| names(&line, what));
            assert!(
                found.is_none(),
                "{}:{number}: {found:?} in: {line}",
                file.display()
            );
        }
    }
}

#[test]
fn unsafe_stays_in_datapath_and_sys() {
    let src = root().join("netbpf/src");
    for file in sources(&src) {
        let relative = file.strip_prefix(&src).expect("below src").to_owned();
        if relative.starts_with("datapath") || relative.starts_with("sys") {
            continue;
        }
        for (number, line) in code(&file) {
            assert!(
                !names(&line, "unsafe"),
                "{}:{number}: {line}",
                relative.display()
            );
        }
    }
}

#[test]
fn shared_code_is_free_of_std() {
    for file in sources(&root().join("netbpf-common/src")) {
        let text = fs::read_to_string(&file).expect("a source file");
        // Tests at a file's end may use what they like.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let uses = code.lines().find(|line| names(line, "std::"));
        assert!(uses.is_none(), "{}: {uses:?}", file.display());
    }
}

#[test]
fn a_name_is_found_as_a_whole() {
    assert!(names("use aya::maps::HashMap;", "aya::"));
    assert!(names("    aya::Pod", "aya::"));
    assert!(!names("use himalaya::x;", "aya::"));
    assert!(!names("crate::sys::netlink::nix_like::x", "nix::"));
    assert!(names("let f: File = x;", "File"));
    assert!(!names("let f: FileName = x;", "File"));
}

#[test]
fn only_cluster_speaks_to_etcd_and_it_knows_nothing_of_the_node() {
    let found = uses_outside(&["etcd_client::"], "cluster");
    assert!(found.is_empty(), "{found:#?}");
    let others = [
        "control::",
        "datapath::",
        "sys::",
        "store::",
        "daemon::",
        "api::",
    ];
    for file in sources(&root().join("netbpf/src/cluster")) {
        for (number, line) in code(&file) {
            let used = line
                .trim_start()
                .trim_start_matches("use ")
                .trim_start_matches("crate::");
            let found = others.iter().find(|other| names(used, other));
            assert!(found.is_none(), "{}:{number}: {line}", file.display());
        }
    }
}
