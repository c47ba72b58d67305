//! As much of ELF as is needed to look at a BPF object and at a linker: 64 bit,
//! little endian. Every offset comes from a file, so every access is checked.

use crate::{Error, Result};

pub(crate) const SHT_SYMTAB: u32 = 2;
pub(crate) const SHT_RELA: u32 = 4;
pub(crate) const SHT_DYNAMIC: u32 = 6;
pub(crate) const SHT_NOBITS: u32 = 8;
pub(crate) const SHT_REL: u32 = 9;
pub(crate) const SHF_EXECINSTR: u64 = 4;
pub(crate) const STT_FUNC: u8 = 2;
pub(crate) const SECTION_HEADER: usize = 64;
pub(crate) const SYMBOL: usize = 24;

/// A parsed file.
pub(crate) struct Elf<'a> {
    pub data: &'a [u8],
    pub sections: Vec<Section<'a>>,
    /// Index of the section with the section names.
    pub names: usize,
}

/// A section with its header and content.
pub(crate) struct Section<'a> {
    pub name: &'a str,
    pub header: &'a [u8],
    pub kind: u32,
    pub flags: u64,
    pub link: usize,
    pub info: usize,
    pub content: &'a [u8],
}

/// An entry of the symbol table.
pub(crate) struct Symbol<'a> {
    pub name: &'a str,
    pub kind: u8,
    pub section: usize,
    pub value: u64,
    pub size: u64,
}

/// An entry of a relocation section.
pub(crate) struct Relocation {
    pub offset: u64,
    pub symbol: usize,
}

impl<'a> Elf<'a> {
    pub fn parse(data: &'a [u8]) -> Result<Self> {
        parse(data).ok_or_else(|| Error::new("it is no 64-bit little-endian ELF file"))
    }

    pub fn symbols(&self) -> Result<Vec<Symbol<'a>>> {
        let Some(table) = self.sections.iter().find(|s| s.kind == SHT_SYMTAB) else {
            return Ok(Vec::new());
        };
        let names = self.sections.get(table.link).map_or(&[][..], |s| s.content);
        table
            .content
            .chunks_exact(SYMBOL)
            .map(|entry| {
                Some(Symbol {
                    name: text_at(names, u32_at(entry, 0)? as usize)?,
                    kind: *entry.get(4)? & 0xf,
                    section: u16_at(entry, 6)? as usize,
                    value: u64_at(entry, 8)?,
                    size: u64_at(entry, 16)?,
                })
            })
            .collect::<Option<_>>()
            .ok_or_else(|| Error::new("its symbol table is damaged"))
    }

    /// Relocations of the section with this index.
    pub fn relocations(&self, section: usize) -> Result<Vec<Relocation>> {
        let mut all = Vec::new();
        for table in self.sections.iter().filter(|s| s.info == section) {
            let size = match table.kind {
                SHT_REL => 16,
                SHT_RELA => 24,
                _ => continue,
            };
            for entry in table.content.chunks_exact(size) {
                let (offset, info) = u64_at(entry, 0)
                    .zip(u64_at(entry, 8))
                    .ok_or_else(|| Error::new("a relocation is damaged"))?;
                all.push(Relocation {
                    offset,
                    symbol: (info >> 32) as usize,
                });
            }
        }
        Ok(all)
    }

    /// Shared libraries that the loader must find (DT_NEEDED).
    pub fn needed_libraries(&self) -> Result<Vec<String>> {
        const DT_NEEDED: u64 = 1;
        let Some(dynamic) = self.sections.iter().find(|s| s.kind == SHT_DYNAMIC) else {
            return Ok(Vec::new());
        };
        let names = self
            .sections
            .get(dynamic.link)
            .map_or(&[][..], |s| s.content);
        Ok(dynamic
            .content
            .chunks_exact(16)
            .filter(|entry| u64_at(entry, 0) == Some(DT_NEEDED))
            .filter_map(|entry| text_at(names, u64_at(entry, 8)? as usize))
            .map(str::to_owned)
            .collect())
    }
}

fn parse(data: &[u8]) -> Option<Elf<'_>> {
    // Class 64 bit, data little endian.
    if data.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
        return None;
    }
    let start = u64_at(data, 40)? as usize;
    let count = u16_at(data, 60)? as usize;
    let names = u16_at(data, 62)? as usize;
    let headers: Vec<&[u8]> = (0..count)
        .map(|i| slice(data, start.checked_add(i * SECTION_HEADER)?, SECTION_HEADER))
        .collect::<Option<_>>()?;
    let content = |header: &[u8]| match u32_at(header, 4)? {
        SHT_NOBITS | 0 => Some(&data[..0]),
        _ => slice(
            data,
            u64_at(header, 24)? as usize,
            u64_at(header, 32)? as usize,
        ),
    };
    let name_table = content(headers.get(names)?)?;
    let sections = headers
        .iter()
        .map(|header| {
            Some(Section {
                name: text_at(name_table, u32_at(header, 0)? as usize)?,
                header,
                kind: u32_at(header, 4)?,
                flags: u64_at(header, 8)?,
                link: u32_at(header, 40)? as usize,
                info: u32_at(header, 44)? as usize,
                content: content(header)?,
            })
        })
        .collect::<Option<_>>()?;
    Some(Elf {
        data,
        sections,
        names,
    })
}

fn slice(data: &[u8], start: usize, len: usize) -> Option<&[u8]> {
    data.get(start..start.checked_add(len)?)
}

pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(slice(data, at, 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(slice(data, at, 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(slice(data, at, 8)?.try_into().ok()?))
}

fn text_at(table: &[u8], at: usize) -> Option<&str> {
    let rest = table.get(at..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&rest[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_is_read() {
        let data = std::fs::read("/proc/self/exe").expect("our own file");
        let elf = Elf::parse(&data).expect("an ELF file");
        assert!(elf.sections.iter().any(|s| s.name == ".text"));
        let needed = elf.needed_libraries().expect("libraries");
        assert!(
            needed.iter().any(|name| name.starts_with("libc.so")),
            "{needed:?}"
        );
        let symbols = elf.symbols().expect("symbols");
        assert!(
            symbols
                .iter()
                .any(|s| s.kind == STT_FUNC && s.name == "main")
        );
    }

    #[test]
    fn damaged_files_are_refused_without_panic() {
        let data = std::fs::read("/proc/self/exe").expect("our own file");
        assert!(Elf::parse(&[]).is_err());
        assert!(Elf::parse(b"#!/bin/sh\nexec bpf-linker\n").is_err());
        for len in [6, 63, 64, 1000, data.len() - 1] {
            assert!(Elf::parse(&data[..len]).is_err(), "cut at {len}");
        }
    }
}
