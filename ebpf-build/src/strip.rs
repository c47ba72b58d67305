//! Takes the DWARF out of an object: 200 KB become 32. BTF and BTF.ext, which
//! hold the source lines that the verifier and bpftool show, stay.
//!
//! `llvm-strip -g` does the same, but comes in a package of its own.

use crate::{
    Error, Result,
    elf::{Elf, SECTION_HEADER, SHT_NOBITS, SHT_REL, SHT_RELA, SHT_SYMTAB, SYMBOL, u16_at, u64_at},
};

/// The object without `.debug_*` and what refers to it.
pub(crate) fn strip_debug(object: &[u8]) -> Result<Vec<u8>> {
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
    let mut out = elf.data.get(..SECTION_HEADER)?.to_vec();
    let mut headers = Vec::new();
    let kept = elf.sections.iter().zip(&sections);
    for (section, _) in kept.filter(|(_, new)| new.is_some()) {
        let (content, info) = match section.kind {
            SHT_SYMTAB => (
                symbol_table(section.content, &sections, &symbols)?,
                // The first global symbol's index.
                symbols.get(..section.info)?.iter().flatten().count(),
            ),
            SHT_REL | SHT_RELA => (
                relocation_table(section.content, section.kind, &symbols)?,
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

fn relocation_table(old: &[u8], kind: u32, symbols: &[Option<usize>]) -> Option<Vec<u8>> {
    let size = if kind == SHT_REL { 16 } else { 24 };
    let mut new = old.to_vec();
    for entry in new.chunks_exact_mut(size) {
        let info = u64_at(entry, 8)?;
        let symbol = (*symbols.get((info >> 32) as usize)?)? as u64;
        put(entry, 8, &(symbol << 32 | info & 0xffff_ffff).to_le_bytes());
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
