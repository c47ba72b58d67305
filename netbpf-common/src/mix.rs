//! Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).

/// Near 2³² divided by the golden ratio, and odd.
const GOLDEN: u32 = 0x9e37_79b1;

/// `bits` (1 to 32) of a number, well mixed; numbers one after the other are far apart.
#[inline(always)]
pub const fn mixed(number: u32, bits: u32) -> u32 {
    number.wrapping_mul(GOLDEN) >> (32 - bits)
}
