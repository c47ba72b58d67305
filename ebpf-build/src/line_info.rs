//! Makes the line information in `.BTF.ext` what the kernel accepts.
//!
//! An empty `asm!`, which keeps LLVM from rewriting a bounds check, gets a line
//! of its own at the offset of the instruction behind it. The kernel wants
//! offsets that grow (`check_btf_line` in kernel/bpf/check_btf.c) and refuses the
//! program with "Invalid line_info". The last line of an offset is the
//! instruction's; the others go.

use crate::elf::u32_at;

const WORD: usize = 4;

/// `.BTF.ext` without lines that share an offset.
pub(crate) struct Tidied {
    pub content: Vec<u8>,
    /// Parts of the old content that are gone, in order: start and length.
    removed: Vec<(usize, usize)>,
}

impl Tidied {
    /// Where a byte of the old content is now; None when it is gone.
    pub fn moved(&self, old: usize) -> Option<usize> {
        let mut shift = 0;
        for &(start, len) in &self.removed {
            if old < start {
                break;
            }
            if old < start + len {
                return None;
            }
            shift += len;
        }
        Some(old - shift)
    }
}

/// None where the section is damaged.
///
/// Layout (Documentation/bpf/btf.rst): a header with offset and length of the
/// parts, counted from its end. The part of lines: size of a record, then for
/// each ELF section its name, a count and the records, which begin with the
/// offset in bytes.
pub(crate) fn tidy(old: &[u8]) -> Option<Tidied> {
    const LINES_OFFSET: usize = 16;
    const LINES_LENGTH: usize = 20;
    const RELOCATIONS_OFFSET: usize = 24;
    let header = u32_at(old, WORD)? as usize;
    let start = header.checked_add(u32_at(old, LINES_OFFSET)? as usize)?;
    let length = u32_at(old, LINES_LENGTH)? as usize;
    let end = start.checked_add(length)?;
    let mut content = old.get(..start)?.to_vec();
    let mut removed = Vec::new();
    let mut at = start;
    if length > 0 {
        let size = u32_at(old, at)? as usize;
        content.extend(old.get(at..at + WORD)?);
        at += WORD;
        while at < end {
            let count = u32_at(old, at + WORD)? as usize;
            let counter = content.len() + WORD;
            content.extend(old.get(at..at + 2 * WORD)?);
            at += 2 * WORD;
            let mut kept = 0u32;
            for index in 0..count {
                let next = at + size;
                let again = index + 1 < count && u32_at(old, at)? == u32_at(old, next)?;
                if again {
                    removed.push((at, size));
                } else {
                    content.extend(old.get(at..next)?);
                    kept += 1;
                }
                at = next;
            }
            put(&mut content, counter, kept);
        }
    }
    content.extend(old.get(at..)?);
    let gone = removed.iter().map(|(_, len)| len).sum::<usize>() as u32;
    put(&mut content, LINES_LENGTH, length as u32 - gone);
    // CO-RE relocations follow, where the header is long enough to have them.
    if header >= RELOCATIONS_OFFSET + 2 * WORD {
        let relocations = u32_at(old, RELOCATIONS_OFFSET)?;
        if header + relocations as usize >= end {
            put(&mut content, RELOCATIONS_OFFSET, relocations - gone);
        }
    }
    Some(Tidied { content, removed })
}

fn put(data: &mut [u8], at: usize, value: u32) {
    data[at..at + WORD].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(lines: &[&[u32]]) -> Vec<u8> {
        let mut part = vec![16];
        for offsets in lines {
            part.extend([7, offsets.len() as u32]);
            for (index, offset) in offsets.iter().enumerate() {
                part.extend([*offset, 1, 2, index as u32]);
            }
        }
        let length = part.len() as u32 * 4;
        // Magic and version, header length, functions, lines, CO-RE relocations.
        let mut words = vec![0x0001_eb9f, 32, 0, 8, 8, length, 8 + length, 4];
        words.extend([70, 71]);
        words.extend(part);
        words.push(72);
        words
            .iter()
            .flat_map(|word: &u32| word.to_le_bytes())
            .collect()
    }

    #[test]
    fn the_last_line_of_an_offset_stays() {
        let old = section(&[&[0, 8, 8, 8, 16], &[0, 0]]);
        let new = tidy(&old).expect("a section");
        let word = |at: usize| u32_at(&new.content, at).expect("a word");
        assert_eq!(new.content.len(), old.len() - 3 * 16);
        // Two programs: three lines and one, the fourth (index 3) of offset 8.
        let first = 32 + 8 + 4;
        assert_eq!((word(first), word(first + 4)), (7, 3));
        assert_eq!((word(first + 8 + 16), word(first + 8 + 28)), (8, 3));
        let second = first + 8 + 3 * 16;
        assert_eq!((word(second + 4), word(second + 8 + 12)), (1, 1));
        // Lengths and what follows.
        assert_eq!(word(20), 4 + 8 + 3 * 16 + 8 + 16);
        assert_eq!(word(32 + word(24) as usize), 72);
    }

    #[test]
    fn places_move_with_their_lines() {
        let old = section(&[&[0, 8, 8, 16]]);
        let new = tidy(&old).expect("a section");
        let line = |index: usize| 32 + 8 + 4 + 8 + index * 16;
        assert_eq!(new.moved(line(0)), Some(line(0)));
        assert_eq!(new.moved(line(1)), None);
        assert_eq!(new.moved(line(2)), Some(line(1)));
        assert_eq!(new.moved(line(3)), Some(line(2)));
    }

    #[test]
    fn damaged_sections_are_refused() {
        let whole = section(&[&[0, 8]]);
        assert!(tidy(&[]).is_none());
        assert!(tidy(&whole[..60]).is_none());
        assert_eq!(tidy(&whole).map(|t| t.content), Some(whole));
    }
}
