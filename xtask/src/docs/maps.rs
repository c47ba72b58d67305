//! docs/maps.md, from the types of the maps and the statics of the programs.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use netbpf_common::{abi::ABI, names};

use super::source::{Alias, Applied, Map, Source, Structure};

pub fn page(common: &Path, programs: &Path) -> Result<String> {
    let sections = sections(&common.join("maps"))?;
    let mut aliases = Source::read(&common.join("addr.rs"))?.aliases();
    aliases.extend(Source::read(&common.join("time.rs"))?.aliases());
    let maps = declared(programs)?;

    let mut page = super::head("Maps", "netbpf-common/src/maps and netbpf-ebpf/src");
    page.push_str(&format!(
        "
{}

Every map is pinned under its name in the daemon's `--bpffs` directory, by default
`/sys/fs/bpf/netbpf`, and has BTF:

```bash
bpftool map dump pinned /sys/fs/bpf/netbpf/endpoints
```

How many entries a map takes follows from `--max-flows` and `--max-endpoints`;
`netbpf status` shows how full it is. This is version {ABI} of the layout; a daemon
that finds another one in `config` refuses to start.

| map | kind | key | value |
|---|---|---|---|
",
        Source::read(&common.join("maps/mod.rs"))?.about()
    ));
    for &name in names::MAPS {
        let of = maps
            .get(name)
            .with_context(|| format!("no program declares the map {name}"))?;
        row(&mut page, name, of, &sections, &aliases);
    }
    for note in Source::read(&common.join("names.rs"))?.constants() {
        if let Some(name) = names::MAPS
            .iter()
            .find(|name| note.value == format!("{name:?}"))
            && !note.about.is_empty()
        {
            let _ = write!(page, "\n`{name}`: {}\n", note.about);
        }
    }
    page.push_str("\n| type | is | meaning |\n|---|---|---|\n");
    for alias in &aliases {
        let about = in_one_line(&alias.about);
        let _ = writeln!(page, "| `{}` | `{}` | {about} |", alias.name, alias.of.name);
    }
    for section in &sections {
        let _ = write!(page, "\n## {}\n\n{}\n", section.name, section.about());
        constants(&mut page, section);
        structures(&mut page, section);
    }
    Ok(page)
}

fn sections(directory: &Path) -> Result<Vec<Source>> {
    let mut files = rust_files(directory)?;
    files.retain(|path| path.file_stem().is_some_and(|stem| stem != "mod"));
    files.iter().map(|path| Source::read(path)).collect()
}

/// The maps that the programs declare, by name, aliases resolved.
pub fn declared(programs: &Path) -> Result<BTreeMap<String, Applied>> {
    let mut declared = BTreeMap::new();
    for path in rust_files(programs)? {
        let source = Source::read(&path)?;
        let aliases = source.aliases();
        for Map { name, of } in source.maps() {
            declared.insert(name, resolve(of, &aliases));
        }
    }
    Ok(declared)
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// `Flows<Addr4>` is `HashMap<FlowKey<Addr4>, …>`.
fn resolve(of: Applied, aliases: &[Alias]) -> Applied {
    let Some(alias) = aliases.iter().find(|alias| alias.name == of.name) else {
        return of;
    };
    let mut resolved = alias.of.clone();
    if let (Some(parameter), Some(argument)) = (&alias.parameter, of.arguments.first()) {
        for text in &mut resolved.arguments {
            *text = substitute(text, parameter, argument);
        }
    }
    resolved
}

/// Replaces an identifier.
fn substitute(text: &str, name: &str, with: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut replaced = String::new();
    let mut word = String::new();
    // The end of the text ends a word, too.
    for c in text.chars().map(Some).chain([None]) {
        match c {
            Some(c) if is_part(c) => word.push(c),
            end => {
                replaced.push_str(if word == name { with } else { &word });
                word.clear();
                replaced.extend(end);
            }
        }
    }
    replaced
}

fn row(page: &mut String, name: &str, of: &Applied, sections: &[Source], addresses: &[Alias]) {
    let argument = |n: usize| {
        let mut text = of.arguments.get(n).cloned().unwrap_or_default();
        for alias in addresses {
            text = substitute(&text, &alias.name, &alias.of.name);
        }
        format!("`{text}`")
    };
    let (key, value) = match of.name.as_str() {
        "Array" | "PerCpuArray" => ("index".to_owned(), argument(0)),
        "RingBuf" => ("–".to_owned(), argument(0)),
        "LpmTrie" => (format!("prefix length, {}", argument(0)), argument(1)),
        _ => (argument(0), argument(1)),
    };
    let shown = match link(name, of, sections) {
        Some(link) => format!("[`{name}`]({link})"),
        None => format!("`{name}`"),
    };
    let _ = writeln!(page, "| {shown} | {} | {key} | {value} |", of.name);
}

/// Where a map is described: with its types, else where it is spoken of.
fn link(name: &str, of: &Applied, sections: &[Source]) -> Option<String> {
    let base = |text: &String| text.split('<').next().map(str::to_owned);
    let types: Vec<String> = of.arguments.iter().filter_map(base).collect();
    if types.iter().any(|of| of == "Event") {
        return Some("events.md".to_owned());
    }
    let has_type = |source: &&Source| {
        source
            .structures()
            .iter()
            .any(|structure| types.contains(&structure.name))
    };
    let speaks = |source: &&Source| source.text.contains(&format!("`{name}`"));
    let section = sections
        .iter()
        .find(has_type)
        .or_else(|| sections.iter().find(speaks))?;
    Some(format!("#{}", section.name))
}

pub fn constants(page: &mut String, source: &Source) {
    let constants = source.constants();
    if constants.is_empty() {
        return;
    }
    page.push_str("\n| constant | value | meaning |\n|---|---|---|\n");
    for constant in constants {
        let about = in_one_line(&constant.about);
        let _ = writeln!(
            page,
            "| `{}` | `{}` | {about} |",
            constant.name, constant.value
        );
    }
}

pub fn structures(page: &mut String, source: &Source) {
    for structure in source.structures() {
        let _ = write!(
            page,
            "\n### {}\n\n{}\n\n{}\n\n| field | type | meaning |\n|---|---|---|\n",
            structure.name,
            structure.about,
            size(&structure)
        );
        for field in &structure.fields {
            let about = in_one_line(&field.about);
            let _ = writeln!(page, "| `{}` | `{}` | {about} |", field.name, field.of);
        }
    }
}

fn size(structure: &Structure) -> String {
    let sizes: Vec<String> = match structure.sizes.as_slice() {
        [(_, bytes)] => vec![format!("{bytes} bytes")],
        several => several
            .iter()
            .map(|(of, bytes)| format!("`{of}`: {bytes} bytes"))
            .collect(),
    };
    format!("{}.", sizes.join(", "))
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_identifiers_are_replaced() {
        assert_eq!(
            substitute("Flow<A>, A, AB", "A", "Addr4"),
            "Flow<Addr4>, Addr4, AB"
        );
    }
}
