//! A range of ports as aligned blocks, each one prefix of the table `ports`.

use std::ops::RangeInclusive;

/// First port of a block and the bits of a port that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub first: u16,
    pub bits: u32,
}

/// The fewest aligned blocks that cover `ports` and nothing else: 30 at most.
pub(super) fn blocks(ports: &RangeInclusive<u16>) -> Vec<Block> {
    let (mut at, end) = (u32::from(*ports.start()), u32::from(*ports.end()));
    let mut blocks = Vec::new();
    while at <= end {
        let aligned = if at == 0 {
            16
        } else {
            at.trailing_zeros().min(16)
        };
        let fitting = (end - at + 1).ilog2();
        let size = aligned.min(fitting);
        blocks.push(Block {
            first: at as u16,
            bits: 16 - size,
        });
        at += 1 << size;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_port_is_one_whole_block() {
        assert_eq!(
            blocks(&(8080..=8080)),
            [Block {
                first: 8080,
                bits: 16
            }]
        );
        assert_eq!(blocks(&(0..=65535)), [Block { first: 0, bits: 0 }]);
    }

    proptest! {
        #[test]
        fn blocks_cover_the_range_and_nothing_else(a: u16, b: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let blocks = blocks(&(first..=last));
            prop_assert!(blocks.len() <= 30);
            let mut next = u32::from(first);
            for block in blocks {
                let size = 1_u32 << (16 - block.bits);
                prop_assert_eq!(u32::from(block.first), next);
                prop_assert_eq!(next % size, 0);
                next += size;
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }
}
