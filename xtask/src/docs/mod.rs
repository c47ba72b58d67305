//! `cargo xtask docs`: the pages that are made from the types. Written by hand
//! are their texts: the documentation of the types themselves.
//!
//! Pages about what the programs in the kernel share with the daemon are made from
//! the sources; the OpenAPI document and the JSON schemas by the product itself,
//! which is built for that.

mod drops;
mod events;
mod made;
mod maps;
mod source;
#[cfg(test)]
mod tests;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use ebpf_build::Places;

/// A page below the root of the project.
struct Page {
    path: String,
    text: String,
}

/// What to do with the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Write,
    /// Fails when a page is not what would be written.
    Check,
}

/// Writes the pages, or checks them.
pub fn run(places: &Places, mode: Mode) -> Result<()> {
    let mut pages = pages(&places.root)?;
    pages.extend(made::pages(places)?);
    bring(&places.root, pages, mode)
}

fn bring(root: &Path, pages: Vec<Page>, mode: Mode) -> Result<()> {
    let mut outdated = Vec::new();
    for page in pages {
        let path = root.join(&page.path);
        let is_current = fs::read_to_string(&path).is_ok_and(|text| text == page.text);
        match mode {
            Mode::Write if !is_current => {
                if let Some(directory) = path.parent() {
                    fs::create_dir_all(directory)?;
                }
                fs::write(&path, &page.text)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                println!("{} written", page.path);
            }
            Mode::Check if !is_current => outdated.push(page.path),
            Mode::Write | Mode::Check => println!("{} is up to date", page.path),
        }
    }
    if !outdated.is_empty() {
        bail!(
            "out of date: {}; run `cargo xtask docs`",
            outdated.join(", ")
        );
    }
    Ok(())
}

fn pages(root: &Path) -> Result<Vec<Page>> {
    let common = root.join("netbpf-common/src");
    Ok(vec![
        Page {
            path: "docs/maps.md".into(),
            text: maps::page(&common, &root.join("netbpf-ebpf/src"))?,
        },
        Page {
            path: "docs/drops.md".into(),
            text: drops::page(),
        },
        Page {
            path: "docs/events.md".into(),
            text: events::page(&common)?,
        },
    ])
}

/// The first lines of a page.
fn head(title: &str, from: &str) -> String {
    format!("# {title}\n\n<!-- Made by `cargo xtask docs` from {from}. Change it there. -->\n")
}
