//! Makes of the linker's output the object that is embedded: without DWARF (a
//! tenth of the size), BTF and BTF.ext, which hold the source lines that the
//! verifier and bpftool show, kept and tidied ([`line_info`](crate::line_info)).
//!
//! `llvm-strip -g` does the same, but comes in a package of its own.

use crate::{
    Error, Result,
    elf::{
        Elf, SECTION_HEADER, SHT_NOBITS, SHT_REL, SHT_RELA, SHT_SYMTAB, SYMBOL, Section, u16_at,
        u64_at,
    },
    line_info::{Tidied, tidy},
};

/// The object without `.debug_*` and what refers to it, with tidy line information.
pub(crate) fn finish(object: &[u8]) -> Result<Vec<u8>> {
    let elf = Elf::parse(object)?;
    stripped(&elf).ok_or_else(|| Error::new("the object's sections do not fit together"))
}

fn is_debug(name: &str) -> bool {
    let name = name
        .strip_prefix(".rela")
        .or_else(|| name.strip_prefix(".rel"))
        .unwrap_or(name);
    name.starts_with(".debug_")
}

fn stripped(elf: &Elf<'_>) -> Option<Vec<u8>> {
    let sections = numbering(elf.sections.iter().map(|s| !is_debug(s.name)));
    let symbols = numbering(kept_symbols(elf, &sections)?.into_iter());
    let ext = elf.sections.iter().position(|s| s.name == ".BTF.ext");
    let tidied = match ext {
        Some(index) => Some(tidy(elf.sections[index].content)?),
        None => None,
    };
    let mut out = elf.data.get(..SECTION_HEADER)?.to_vec();
    let mut headers = Vec::new();
    let kept = elf.sections.iter().zip(&sections);
    for (index, (section, _)) in kept.enumerate().filter(|(_, (_, new))| new.is_some()) {
        let (content, info) = match section.kind {
            _ if Some(index) == ext => (tidied.as_ref()?.content.clone(), section.info),
            SHT_SYMTAB => (
                symbol_table(section.content, &sections, &symbols)?,
                // The first global symbol's index.
                symbols.get(..section.info)?.iter().flatten().count(),
            ),
            SHT_REL | SHT_RELA => (
                {
                    let lines = tidied.as_ref().filter(|_| Some(section.info) == ext);
                    relocation_table(section, &symbols, lines)?
                },
                (*sections.get(section.info)?)?,
            ),
            _ => (section.content.to_vec(), section.info),
        };
        out.resize(out.len().next_multiple_of(8), 0);
        let mut header = section.header.to_vec();
        put(&mut header, 24, &(out.len() as u64).to_le_bytes());
        if section.kind != SHT_NOBITS {
            put(&mut header, 32, &(content.len() as u64).to_le_bytes());
        }
        let link = (*sections.get(section.link)?)?;
        put(&mut header, 40, &u32::try_from(link).ok()?.to_le_bytes());
        put(&mut header, 44, &u32::try_from(info).ok()?.to_le_bytes());
        out.extend(content);
        headers.push(header);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let start = out.len() as u64;
    put(&mut out, 40, &start.to_le_bytes());
    put(
        &mut out,
        60,
        &u16::try_from(headers.len()).ok()?.to_le_bytes(),
    );
    let names = (*sections.get(elf.names)?)?;
    put(&mut out, 62, &u16::try_from(names).ok()?.to_le_bytes());
    out.extend(headers.concat());
    Some(out)
}

/// New numbers of what is kept.
fn numbering(keep: impl Iterator<Item = bool>) -> Vec<Option<usize>> {
    let mut next = 0;
    keep.map(|keep| {
        keep.then(|| {
            next += 1;
            next - 1
        })
    })
    .collect()
}

/// All symbols but those of sections that go.
fn kept_symbols(elf: &Elf<'_>, sections: &[Option<usize>]) -> Option<Vec<bool>> {
    Some(
        elf.symbols()
            .ok()?
            .iter()
            // Beyond the sections stand the special numbers (absolute, common).
            .map(|symbol| sections.get(symbol.section).is_none_or(Option::is_some))
            .collect(),
    )
}

fn symbol_table(
    old: &[u8],
    sections: &[Option<usize>],
    symbols: &[Option<usize>],
) -> Option<Vec<u8>> {
    let mut new = Vec::new();
    for (entry, kept) in old.chunks_exact(SYMBOL).zip(symbols) {
        if kept.is_none() {
            continue;
        }
        let mut entry = entry.to_vec();
        if let Some(section) = sections.get(u16_at(&entry, 6)? as usize) {
            put(
                &mut entry,
                6,
                &u16::try_from((*section)?).ok()?.to_le_bytes(),
            );
        }
        new.extend(entry);
    }
    Some(new)
}

/// `lines`: of the section that the relocations are for, where it was tidied.
fn relocation_table(
    section: &Section<'_>,
    symbols: &[Option<usize>],
    lines: Option<&Tidied>,
) -> Option<Vec<u8>> {
    let size = if section.kind == SHT_REL { 16 } else { 24 };
    let mut new = Vec::new();
    for entry in section.content.chunks_exact(size) {
        let place = u64_at(entry, 0)?;
        let place = match lines {
            Some(lines) => match lines.moved(place as usize) {
                Some(moved) => moved as u64,
                None => continue,
            },
            None => place,
        };
        let info = u64_at(entry, 8)?;
        let symbol = (*symbols.get((info >> 32) as usize)?)? as u64;
        let mut entry = entry.to_vec();
        put(&mut entry, 0, &place.to_le_bytes());
        put(
            &mut entry,
            8,
            &(symbol << 32 | info & 0xffff_ffff).to_le_bytes(),
        );
        new.extend(entry);
    }
    Some(new)
}

fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_sections_are_told_by_name() {
        for (name, debug) in [
            (".debug_info", true),
            (".rel.debug_line", true),
            (".rela.debug_line", true),
            (".BTF", false),
            (".rel.BTF.ext", false),
            ("classifier", false),
            (".relclassifier", false),
        ] {
            assert_eq!(is_debug(name), debug, "{name}");
        }
    }

    #[test]
    fn numbers_close_up() {
        let keep = [true, false, true, true, false];
        assert_eq!(
            numbering(keep.into_iter()),
            [Some(0), None, Some(1), Some(2), None]
        );
    }
}
