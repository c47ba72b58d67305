//! What the programs of an object cost, and whether one of them can panic.
//!
//! The verifier sees a program together with the functions it calls; so both
//! figures follow the calls.

use crate::{
    Error, Result,
    elf::{Elf, SHF_EXECINSTR, STT_FUNC},
};
use std::{collections::BTreeSet, fmt};

const INSTRUCTION: usize = 8;
/// MAX_BPF_STACK, for a program with the functions it calls.
const STACK_LIMIT: usize = 512;
/// The frame pointer.
const R10: u8 = 10;

/// The programs of an object.
#[derive(Debug, Clone)]
pub struct Report {
    pub programs: Vec<Program>,
    /// Functions that can panic, and how: `from_uplink (panic_bounds_check)`.
    pub panics: Vec<String>,
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub name: String,
    /// Its ELF section, which says the type.
    pub section: String,
    /// Instructions with all functions it calls.
    pub instructions: usize,
    /// Functions it calls, itself not counted.
    pub functions: usize,
    /// Stack in bytes of the deepest chain of calls. The kernel allows 512 and
    /// rounds each frame up to 32 (16 in newer ones); so does this.
    pub stack: usize,
    /// The functions of that chain, with their own frames.
    pub chain: Vec<(String, usize)>,
}

/// Looks at an object as the linker left it.
pub fn inspect(object: &[u8]) -> Result<Report> {
    let elf = Elf::parse(object)?;
    let functions = functions(&elf)?;
    let programs = functions
        .iter()
        .enumerate()
        .filter(|(_, f)| !f.section.starts_with(".text"))
        .map(|(index, function)| {
            let mut seen = BTreeSet::new();
            let (stack, chain) = deepest(&functions, index, &mut Vec::new(), &mut seen)?;
            Ok(Program {
                name: function.name.clone(),
                section: function.section.clone(),
                instructions: seen.iter().map(|i| functions[*i].instructions).sum(),
                functions: seen.len() - 1,
                stack,
                chain: chain
                    .into_iter()
                    .map(|i| (readable(&functions[i].name), functions[i].frame))
                    .collect(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let panics = panics(&functions);
    Ok(Report { programs, panics })
}

struct Function {
    name: String,
    section: String,
    instructions: usize,
    frame: usize,
    calls: Vec<usize>,
}

fn functions(elf: &Elf<'_>) -> Result<Vec<Function>> {
    let symbols = elf.symbols()?;
    let code: Vec<_> = symbols
        .iter()
        .filter(|s| {
            s.kind == STT_FUNC
                && s.size > 0
                && elf
                    .sections
                    .get(s.section)
                    .is_some_and(|section| section.flags & SHF_EXECINSTR != 0)
        })
        .collect();
    let at = |section: usize, offset: u64| {
        code.iter()
            .position(|s| s.section == section && (s.value..s.value + s.size).contains(&offset))
    };
    code.iter()
        .map(|symbol| {
            let section = &elf.sections[symbol.section];
            let range = symbol.value as usize..(symbol.value + symbol.size) as usize;
            let body = section
                .content
                .get(range.clone())
                .ok_or_else(|| Error::new(format!("{} reaches out of its section", symbol.name)))?;
            let mut calls = BTreeSet::new();
            let mut relocated = BTreeSet::new();
            for relocation in elf.relocations(symbol.section)? {
                let offset = relocation.offset as usize;
                let Some(target) = symbols.get(relocation.symbol) else {
                    continue;
                };
                if range.contains(&offset) {
                    relocated.insert(offset);
                    let addend = addend(&section.content[offset..]);
                    calls.extend(at(target.section, target.value.wrapping_add(addend)));
                }
            }
            for (offset, target) in local_calls(body, range.start) {
                if !relocated.contains(&offset) {
                    calls.extend(at(symbol.section, target));
                }
            }
            Ok(Function {
                name: symbol.name.to_owned(),
                section: section.name.to_owned(),
                instructions: body.len() / INSTRUCTION,
                frame: frame(body),
                calls: calls.into_iter().collect(),
            })
        })
        .collect()
}

const CALL: u8 = 0x85;
const LOAD_IMMEDIATE_64: u8 = 0x18;
const PSEUDO_CALL: u8 = 1;

fn source(insn: &[u8]) -> u8 {
    insn[1] >> 4
}

fn destination(insn: &[u8]) -> u8 {
    insn[1] & 0xf
}

fn immediate(insn: &[u8]) -> i32 {
    i32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]])
}

fn offset(insn: &[u8]) -> i16 {
    i16::from_le_bytes([insn[2], insn[3]])
}

/// What a relocated instruction adds to its symbol: a call counts instructions
/// from the one behind it, a load of an address counts bytes.
fn addend(insn: &[u8]) -> u64 {
    match insn {
        [CALL, _, _, _, _, _, _, _, ..] => {
            (i64::from(immediate(insn)) + 1).wrapping_mul(INSTRUCTION as i64) as u64
        }
        [LOAD_IMMEDIATE_64, _, _, _, _, _, _, _, ..] => i64::from(immediate(insn)) as u64,
        _ => 0,
    }
}

/// Calls within one section: where, and whereto.
fn local_calls(body: &[u8], start: usize) -> Vec<(usize, u64)> {
    body.chunks_exact(INSTRUCTION)
        .enumerate()
        .filter(|(_, insn)| insn[0] == CALL && source(insn) == PSEUDO_CALL)
        .map(|(index, insn)| {
            let at = start + index * INSTRUCTION;
            let target = at as i64 + (i64::from(immediate(insn)) + 1) * INSTRUCTION as i64;
            (at, target as u64)
        })
        .collect()
}

/// Size of the stack frame: the lowest offset from r10 that is accessed or whose
/// address is taken.
fn frame(body: &[u8]) -> usize {
    const CLASS: u8 = 0x07;
    const MOVE_64: u8 = 0xbf;
    const ADD_IMMEDIATE_64: u8 = 0x07;
    let mut lowest = 0i64;
    // Registers that hold r10 just now; LLVM adds the offset right behind.
    let mut copies = 0u16;
    for insn in body.chunks_exact(INSTRUCTION) {
        let base = match insn[0] & CLASS {
            // Load through the source register, store through the destination.
            1 => Some(source(insn)),
            2 | 3 => Some(destination(insn)),
            _ => None,
        };
        if base == Some(R10) {
            lowest = lowest.min(i64::from(offset(insn)));
        }
        let bit = 1u16 << destination(insn);
        if insn[0] == MOVE_64 && source(insn) == R10 {
            copies |= bit;
        } else if insn[0] == ADD_IMMEDIATE_64 && copies & bit != 0 {
            lowest = lowest.min(i64::from(immediate(insn)));
            copies &= !bit;
        } else if !matches!(insn[0] & CLASS, 2 | 3) {
            copies &= !bit;
        }
    }
    lowest.unsigned_abs() as usize
}

/// Stack of the deepest chain of calls from `index`, and that chain; notes every
/// function on the way.
fn deepest(
    functions: &[Function],
    index: usize,
    chain: &mut Vec<usize>,
    seen: &mut BTreeSet<usize>,
) -> Result<(usize, Vec<usize>)> {
    const ROUND: usize = 32;
    let function = &functions[index];
    if chain.contains(&index) {
        return Err(Error::new(format!("{} calls itself", function.name)));
    }
    chain.push(index);
    seen.insert(index);
    let mut below = (0, Vec::new());
    for call in &function.calls {
        below = below.max(deepest(functions, *call, chain, seen)?);
    }
    chain.pop();
    // The kernel takes an empty frame for one of a byte.
    let frame = function.frame.max(1).next_multiple_of(ROUND);
    let path = [index].into_iter().chain(below.1).collect();
    Ok((frame + below.0, path))
}

/// Who calls the panic machinery. The linker drops what nobody calls.
fn panics(functions: &[Function]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for function in functions.iter().filter(|f| !is_panic(&f.name)) {
        for call in function.calls.iter().map(|index| &functions[*index]) {
            if is_panic(&call.name) {
                let (caller, how) = (readable(&function.name), readable(&call.name));
                found.insert(format!("{caller} ({how})"));
            }
        }
    }
    found.into_iter().collect()
}

/// Functions of Rust's panic machinery; the handler itself is `rust_begin_unwind`.
fn is_panic(symbol: &str) -> bool {
    [
        "panic",
        "rust_begin_unwind",
        "unwrap_failed",
        "expect_failed",
    ]
    .iter()
    .any(|part| symbol.contains(part))
}

/// A mangled name's last parts, so that `panic_bounds_check` stands out.
fn readable(symbol: &str) -> String {
    let mut parts = Vec::new();
    let mut rest = symbol;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits: String = rest[start..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        let body = &rest[start + digits.len()..];
        let Some(part) = digits.parse().ok().and_then(|len: usize| body.get(..len)) else {
            break;
        };
        if part.len() > 1 && !(part.len() == 17 && part.starts_with('h')) {
            parts.push(part);
        }
        rest = &body[part.len()..];
    }
    if !symbol.starts_with("_ZN") && !symbol.starts_with("_R") || parts.is_empty() {
        return symbol.to_owned();
    }
    parts.join("::")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = |text: fn(&Program) -> &str, least: usize| {
            let widths = self.programs.iter().map(|p| text(p).len());
            widths.chain([least]).max().unwrap_or(least)
        };
        let name = wide(|p| &p.name, "PROGRAM".len());
        let section = wide(|p| &p.section, "SECTION".len());
        writeln!(
            f,
            "{:name$}  {:section$}  INSTRUCTIONS  FUNCTIONS  STACK",
            "PROGRAM", "SECTION"
        )?;
        for p in &self.programs {
            writeln!(
                f,
                "{:name$}  {:section$}  {:>12}  {:>9}  {:>5}",
                p.name, p.section, p.instructions, p.functions, p.stack
            )?;
        }
        for p in self.programs.iter().filter(|p| p.stack > STACK_LIMIT) {
            let chain: Vec<_> = p
                .chain
                .iter()
                .map(|(f, own)| format!("{f} ({own})"))
                .collect();
            writeln!(
                f,
                "{} has more than {STACK_LIMIT} bytes of stack, which the verifier may refuse: {}",
                p.name,
                chain.join(" > ")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> [u8; 8] {
        let (o, i) = (off.to_le_bytes(), imm.to_le_bytes());
        [code, src << 4 | dst, o[0], o[1], i[0], i[1], i[2], i[3]]
    }

    #[test]
    fn frame_counts_stores_loads_and_addresses() {
        let store = insn(0x7b, 10, 1, -16, 0); // *(u64 *)(r10 - 16) = r1
        let load = insn(0x79, 1, 10, -24, 0);
        let copy = insn(0xbf, 2, 10, 0, 0); // r2 = r10
        let add = insn(0x07, 2, 0, 0, -200); // r2 += -200
        let other = insn(0x07, 3, 0, 0, -400); // r3 was never r10
        assert_eq!(frame(&store), 16);
        assert_eq!(frame(&[store, load].concat()), 24);
        assert_eq!(frame(&[store, copy, other, add].concat()), 200);
        assert_eq!(frame(&other), 0);
    }

    #[test]
    fn calls_within_a_section() {
        let body = [insn(0xb7, 0, 0, 0, 0), insn(0x85, 0, 1, 0, 3)].concat();
        assert_eq!(local_calls(&body, 80), [(88, 120)]);
        // A helper call is none.
        assert_eq!(local_calls(&insn(0x85, 0, 0, 0, 3), 0), []);
    }

    fn function(frame: usize, calls: &[usize]) -> Function {
        Function {
            name: "f".to_owned(),
            section: ".text".to_owned(),
            instructions: 1,
            frame,
            calls: calls.to_vec(),
        }
    }

    #[test]
    fn stack_follows_the_deepest_chain() {
        let all = [
            function(40, &[1, 2]),
            function(8, &[3]),
            function(100, &[]),
            function(0, &[]),
        ];
        let mut seen = BTreeSet::new();
        let deepest_of_all = deepest(&all, 0, &mut Vec::new(), &mut seen).expect("no recursion");
        assert_eq!(deepest_of_all, (64 + 128, vec![0, 2]));
        assert_eq!(seen.len(), 4);
        let circle = [function(8, &[1]), function(8, &[0])];
        assert!(deepest(&circle, 0, &mut Vec::new(), &mut BTreeSet::new()).is_err());
    }

    #[test]
    fn callers_of_panics_are_named() {
        let named = |name: &str, calls: &[usize]| Function {
            name: name.to_owned(),
            ..function(0, calls)
        };
        let all = [
            named("from_uplink", &[1, 2]),
            named(
                "_RNvNtCs1NpfdXmxSul_4core9panicking18panic_bounds_check",
                &[3],
            ),
            named("memcpy", &[]),
            named("_RNvNtCs1NpfdXmxSul_4core9panicking9panic_fmt", &[]),
        ];
        assert_eq!(
            panics(&all),
            ["from_uplink (core::panicking::panic_bounds_check)"]
        );
        assert!(panics(&all[2..]).is_empty());
    }

    #[test]
    fn panic_functions_are_told_and_named() {
        let bounds = "_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE";
        assert!(is_panic(bounds) && is_panic("rust_begin_unwind"));
        assert!(is_panic(
            "_ZN4core6option13unwrap_failed17h0123456789abcdefE"
        ));
        assert!(!is_panic("memcpy") && !is_panic("from_container"));
        assert_eq!(readable(bounds), "core::panicking::panic_bounds_check");
        assert_eq!(readable("rust_begin_unwind"), "rust_begin_unwind");
    }
}
