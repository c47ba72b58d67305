//! What other CPUs do at the same time is not lost. The target has none of it in Rust; all are
//! of eight bytes, which Linux 5.12 and newer take.

/// Adds to a number, and does not ask what it was.
///
/// # Safety
/// `number` points to eight aligned bytes of a map value.
#[inline(always)]
pub unsafe fn add(number: *mut u64, value: u64) {
    unsafe {
        core::arch::asm!("lock *(u64 *)({p} + 0) += {v}", p = in(reg) number, v = in(reg) value);
    }
}

/// Adds to a number; what it was.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_add(number: *mut u64, mut value: u64) -> u64 {
    unsafe {
        core::arch::asm!(
            "{v} = atomic_fetch_add((u64 *)({p} + 0), {v})",
            p = in(reg) number,
            v = inout(reg) value,
        );
    }
    value
}

/// Sets bits; what they were.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u64, mut bits: u64) -> u64 {
    unsafe {
        core::arch::asm!(
            "{v} = atomic_fetch_or((u64 *)({p} + 0), {v})",
            p = in(reg) word,
            v = inout(reg) bits,
        );
    }
    bits
}

/// Clears all bits but these; what they were.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_and(word: *mut u64, mut bits: u64) -> u64 {
    unsafe {
        core::arch::asm!(
            "{v} = atomic_fetch_and((u64 *)({p} + 0), {v})",
            p = in(reg) word,
            v = inout(reg) bits,
        );
    }
    bits
}

/// Writes `new` where it is `old` still; what it was.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let mut found = old;
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({p} + 0, r0, {n})",
            p = in(reg) word,
            n = in(reg) new,
            inout("r0") found,
        );
    }
    found
}
