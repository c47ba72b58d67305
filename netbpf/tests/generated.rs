//! The files under docs/ that are made of the program are what it makes.

use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn documents_are_up_to_date() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut wanted = BTreeSet::new();
    for file in netbpf::cli::generate::files() {
        // The manual and the completions are made when they are installed.
        if file.path.starts_with("man") || file.path.starts_with("completions") {
            continue;
        }
        let path = docs.join(&file.path);
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            there == file.text,
            "docs/{} is out of date: run `cargo xtask docs`",
            file.path.display()
        );
        wanted.insert(path);
    }
    for entry in fs::read_dir(docs.join("schemas")).unwrap() {
        let path = entry.unwrap().path();
        assert!(
            wanted.contains(&path),
            "{} is no schema any more",
            path.display()
        );
    }
}
