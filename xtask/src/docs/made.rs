//! What the product says of itself: the OpenAPI document, the schemas and the metrics.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use ebpf_build::Places;

use super::Page;
use crate::test::{Profile, build_netbpf};

pub fn pages(places: &Places) -> Result<Vec<Page>> {
    let binary = build_netbpf(places, Profile::Debug)?;
    let directory = places.root.join("target/generated");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    let made = Command::new(&binary)
        .arg("generate")
        .arg(&directory)
        .output();
    let made = made.with_context(|| format!("cannot run {}", binary.display()))?;
    if !made.status.success() {
        bail!(
            "{} generate: {}",
            binary.display(),
            String::from_utf8_lossy(&made.stderr)
        );
    }
    let mut pages = vec![
        page(&directory, "openapi.json")?,
        page(&directory, "metrics.md")?,
    ];
    let schemas = directory.join("schemas");
    let entries =
        fs::read_dir(&schemas).with_context(|| format!("cannot list {}", schemas.display()))?;
    for entry in entries {
        let name = entry?.file_name();
        pages.push(page(&directory, &format!("schemas/{}", name.display()))?);
    }
    pages.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pages)
}

fn page(directory: &Path, name: &str) -> Result<Page> {
    let path = directory.join(name);
    Ok(Page {
        path: format!("docs/{name}"),
        text: fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?,
    })
}
