//! Which packages bring the libraries that a binary is linked to, and from which
//! version on: the highest that its symbols ask for.

use anyhow::{Context, Result, bail};
use object::{
    Endianness,
    elf::{DT_NEEDED, FileHeader64},
    read::elf::{Dyn, FileHeader},
};
use std::{collections::BTreeMap, fmt};

/// Debian's package of a library; None for one that we never linked to before, which
/// is to be decided about rather than left out.
fn package(library: &str) -> Option<&'static str> {
    match library {
        "libgcc_s.so.1" => Some("libgcc-s1"),
        "libc.so.6" | "libm.so.6" => Some("libc6"),
        loader if loader.starts_with("ld-linux") => Some("libc6"),
        _ => None,
    }
}

/// `2.34`, in the order of versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Version(Vec<u32>);

impl Version {
    /// Of a symbol: `GLIBC_2.34`, `GCC_4.2.0`.
    fn of(symbol: &str) -> Option<Version> {
        if symbol == "GLIBC_ABI_DT_RELR" {
            // Not a function but the loader's: since glibc 2.36.
            return Some(Version(vec![2, 36]));
        }
        let (_, number) = symbol.split_once('_')?;
        let parts: Result<Vec<u32>, _> = number.split('.').map(str::parse).collect();
        parts.ok().map(Version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

/// Relations for `Depends`, one per package.
pub fn depends(elf: &[u8]) -> Result<Vec<String>> {
    relations(&needs(elf).context("the binary cannot be read")?)
}

fn relations(needs: &[Need]) -> Result<Vec<String>> {
    let mut packages: BTreeMap<&str, Version> = BTreeMap::new();
    for need in needs {
        let Some(package) = package(&need.library) else {
            bail!("no package is known for {}", need.library);
        };
        let least = packages.entry(package).or_default();
        for symbol in &need.versions {
            let Some(version) = Version::of(symbol) else {
                bail!("{} has no version for {symbol}", need.library);
            };
            *least = version.max(least.clone());
        }
    }
    let relation = |(package, least): (&str, Version)| match least.0.is_empty() {
        true => package.to_owned(),
        false => format!("{package} (>= {least})"),
    };
    Ok(packages.into_iter().map(relation).collect())
}

/// A library, and versions of symbols that are wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Need {
    library: String,
    versions: Vec<String>,
}

fn needs(elf: &[u8]) -> Result<Vec<Need>> {
    let header = FileHeader64::<Endianness>::parse(elf)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, elf)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut needs = Vec::new();
    if let Some((entries, link)) = sections.dynamic(endian, elf)? {
        let strings = sections.strings(endian, elf, link)?;
        for entry in entries {
            if entry.tag(endian) == DT_NEEDED {
                needs.push(Need {
                    library: text(entry.string(endian, strings)?),
                    versions: Vec::new(),
                });
            }
        }
    }
    if let Some((mut libraries, link)) = sections.gnu_verneed(endian, elf)? {
        let strings = sections.strings(endian, elf, link)?;
        while let Some((library, mut symbols)) = libraries.next()? {
            let mut versions = Vec::new();
            while let Some(symbol) = symbols.next()? {
                versions.push(text(symbol.name(endian, strings)?));
            }
            needs.push(Need {
                library: text(library.file(endian, strings)?),
                versions,
            });
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(library: &str, versions: &[&str]) -> Need {
        Need {
            library: library.into(),
            versions: versions.iter().map(|v| (*v).into()).collect(),
        }
    }

    #[test]
    fn the_highest_version_of_any_symbol_counts() {
        let needs = [
            need("libgcc_s.so.1", &["GCC_3.0", "GCC_4.2.0", "GCC_3.3"]),
            need("libm.so.6", &["GLIBC_2.29"]),
            need("libc.so.6", &["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.9"]),
            need("ld-linux-x86-64.so.2", &[]),
        ];
        let expected = ["libc6 (>= 2.34)", "libgcc-s1 (>= 4.2.0)"];
        assert_eq!(relations(&needs).unwrap(), expected);
        let relr = [need("libc.so.6", &["GLIBC_2.34", "GLIBC_ABI_DT_RELR"])];
        assert_eq!(relations(&relr).unwrap(), ["libc6 (>= 2.36)"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for needs in [
            need("libssl.so.3", &[]),
            need("libc.so.6", &["GLIBC_PRIVATE"]),
        ] {
            relations(&[needs]).unwrap_err();
        }
    }

    /// Ours is linked as every Rust program is.
    #[test]
    fn libraries_are_read_from_the_binary() {
        let ourselves = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let depends = depends(&ourselves).unwrap();
        assert!(depends[0].starts_with("libc6 (>= 2."), "{depends:?}");
    }
}
