//! What the programs of an object cost, and whether one of them can panic.
//!
//! The verifier sees a program together with the functions it calls; so both
//! figures follow the calls.

use crate::{
    Error, Result,
    elf::{Elf, SHF_EXECINSTR, STT_FUNC},
    instructions::{INSTRUCTION, addend, frame, local_calls},
};
use std::{collections::BTreeSet, fmt};

/// MAX_BPF_STACK, for a program with the functions it calls.
const STACK_LIMIT: usize = 512;

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
