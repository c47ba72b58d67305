//! As much of the BPF instruction set (RFC 9669) as tells calls and stack.

/// Bytes of an instruction; a load of 64 bits takes two.
pub(crate) const INSTRUCTION: usize = 8;

/// The frame pointer.
const R10: u8 = 10;

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
pub(crate) fn addend(insn: &[u8]) -> u64 {
    match insn {
        [CALL, _, _, _, _, _, _, _, ..] => {
            (i64::from(immediate(insn)) + 1).wrapping_mul(INSTRUCTION as i64) as u64
        }
        [LOAD_IMMEDIATE_64, _, _, _, _, _, _, _, ..] => i64::from(immediate(insn)) as u64,
        _ => 0,
    }
}

/// Calls within one section: where, and whereto.
pub(crate) fn local_calls(body: &[u8], start: usize) -> Vec<(usize, u64)> {
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
pub(crate) fn frame(body: &[u8]) -> usize {
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
}
