//! Flows that are opening or over may be evicted: each takes a place in a ring, from which it
//! evicts the one that has been there for longest. Established ones are counted, so that they
//! leave room for the others.

use netbpf_common::{
    maps::{
        Evictable, Flow,
        evictable::{CHANCES, established_index, hand_index},
        flows::{FLOW_ESTABLISHED, FLOW_ORIGINAL},
    },
    time::since,
};

use super::flow;
use crate::{
    atomic,
    ctx::opaque,
    family::{Family, Room},
    maps::{CONFIG, OCCUPANCY},
};

/// What came of a place.
pub type Outcome = u32;
const BROKEN: Outcome = 0;
pub const EVICTED: Outcome = 1;
/// Its flow is gone or established.
const NOBODY: Outcome = 2;
/// Its flow was used since.
const PASSED_OVER: Outcome = 3;

/// Places that are looked at when one has to be found whose flow can be evicted.
const LOOKS: u32 = 64;

/// Gives the flow that stands in the room a place, where another one is evicted; `false`: the
/// maps are not as they should be.
#[inline(always)]
pub fn queue<F: Family>() -> bool {
    for attempt in 1..=CHANCES {
        match F::call_place(attempt == CHANCES, true) {
            BROKEN => return false,
            PASSED_OVER => {}
            _ => break,
        }
    }
    true
}

/// Evicts another flow for one that has its place, but found no room, as that was of a flow
/// that is gone or established; `false`: there was none, of so many.
#[inline(always)]
pub fn make_room<F: Family>() -> bool {
    for look in 1..=LOOKS {
        if F::call_place(look >= CHANCES, false) == EVICTED {
            return true;
        }
    }
    false
}

/// Goes on by a place, evicts the flow that has it, and gives it to the one in the room if it
/// is to `take` it. `used`: also one that was used since.
#[inline(always)]
pub fn place<F: Family>(room: &mut Room<F::Addr>, used: bool, take: bool) -> Outcome {
    let places = CONFIG.get(0).map_or(0, |config| config.evictable);
    let place = advance::<F>() & places.wrapping_sub(1);
    let Some(place) = F::evictable().get_ptr_mut(place) else {
        return BROKEN;
    };
    // SAFETY: readable and writable as long as the program runs. Another CPU has the same
    // place only once the hand has come round; of what two write at once, a flow may be lost
    // to the ring, and is collected by the daemon.
    let place = unsafe { &mut *place };
    // As it is now, whoever writes to it.
    copy(&mut room.victim, place);
    // One that ends may come to the place that it took when it began.
    let outcome = match is_same(&room.victim, &room.evictable) {
        true => NOBODY,
        false => evict::<F>(room, used),
    };
    if outcome == PASSED_OVER {
        place.last_seen = room.victim.last_seen;
    } else if take {
        copy(place, &room.evictable);
    }
    outcome
}

/// Word by word: as a whole it would be a call that copies byte by byte, and takes stack.
#[inline(always)]
fn copy<A>(to: &mut Evictable<A>, from: &Evictable<A>) {
    let (to, from) = (core::ptr::from_mut(to).cast::<u32>(), words(from));
    let mut word = 0;
    while word < const { size_of::<Evictable<A>>() / 4 } {
        // SAFETY: both are as long, and aligned to their numbers.
        unsafe { to.add(word).write(from.add(word).read()) };
        // Unrolled it would take stack, too.
        word = opaque(word + 1);
    }
}

#[inline(always)]
fn words<A>(of: &Evictable<A>) -> *const u32 {
    core::ptr::from_ref(of).cast()
}

/// Evicts the flow whose place was read, if it is there, may be evicted, and was not used since,
/// or `used` or not.
#[inline(always)]
fn evict<F: Family>(room: &mut Room<F::Addr>, used: bool) -> Outcome {
    let Some(held) = flow::find::<F>(&room.victim.key) else {
        return NOBODY;
    };
    if held.created != room.victim.created
        || held.flags & (FLOW_ORIGINAL | FLOW_ESTABLISHED) != FLOW_ORIGINAL
    {
        return NOBODY;
    }
    if since(held.last_seen, room.victim.last_seen) != 0 && !used {
        room.victim.last_seen = held.last_seen;
        return PASSED_OVER;
    }
    room.other_key = room.victim.key.reverse(held);
    // The outside port of a flow that is over may be another one's by now.
    let is_its =
        flow::find::<F>(&room.other_key).is_some_and(|other| other.created == room.victim.created);
    // What was read of it counts if it was there all the time.
    if !flow::is_at::<F>(&room.victim.key, held) {
        return NOBODY;
    }
    // Either it is removed here, or another CPU, for which it is established at this very
    // moment, has said so before.
    if !claim(held) {
        return PASSED_OVER;
    }
    let flows = F::flows();
    // SAFETY: as `held`, which other CPUs may write.
    let created = unsafe { core::ptr::read_volatile(&raw const held.created) };
    // It was begun anew in its halves meanwhile, see `renew`, or was another flow's already.
    if created != room.victim.created || flows.remove(&room.victim.key).is_err() {
        leave_alone(held);
        return NOBODY;
    }
    if is_its {
        let _ = flows.remove(&room.other_key);
    }
    EVICTED
}

/// The same flow, whenever it was seen.
#[inline(always)]
fn is_same<A>(a: &Evictable<A>, b: &Evictable<A>) -> bool {
    let (a, b) = (words(a), words(b));
    let (mut word, mut differs) = (0, 0);
    while word < const { core::mem::offset_of!(Evictable<A>, last_seen) / 4 } {
        // SAFETY: within both.
        differs |= unsafe { a.add(word).read() ^ b.add(word).read() };
        word = opaque(word + 1);
    }
    differs == 0
}

/// The next place, which no other CPU gets until all others were given out.
#[inline(always)]
fn advance<F: Family>() -> u32 {
    let Some(hand) = OCCUPANCY.get_ptr_mut(hand_index(F::IS_V6)) else {
        return 0;
    };
    // SAFETY: the pointer is to a map value of eight bytes.
    unsafe { atomic::fetch_add(hand, 1) as u32 }
}

/// The flow may not be evicted from now on; `false`: it is evicted at this moment, or there are
/// as many such as may be.
/// Whatever other CPUs do, it is counted once.
#[inline(always)]
pub fn settle<F: Family>(original: &mut Flow<F::Addr>, reply: &mut Flow<F::Addr>) -> bool {
    let most = CONFIG.get(0).map_or(0, |config| config.established);
    let Some(count) = OCCUPANCY.get_ptr_mut(established_index(F::IS_V6)) else {
        return false;
    };
    // SAFETY: a number of eight bytes that others add to, read at once. Below 0 it may be for
    // a moment.
    let now = unsafe { core::ptr::read_volatile(count) } as i64;
    if now >= i64::from(most) {
        return false;
    }
    let was = fetch_or(original, ESTABLISHED);
    if was & REMOVED != 0 {
        return false;
    }
    if was & ESTABLISHED == 0 {
        add(count, 1);
    }
    fetch_or(reply, ESTABLISHED);
    true
}

/// The flow may be evicted from now on; `false`: another CPU has said so already.
#[inline(always)]
pub fn unsettle<F: Family>(original: &mut Flow<F::Addr>, reply: &mut Flow<F::Addr>) -> bool {
    let was = fetch_and(original, !ESTABLISHED);
    fetch_and(reply, !ESTABLISHED);
    let is_first = was & (ESTABLISHED | REMOVED) == ESTABLISHED;
    if is_first {
        leave::<F>();
    }
    is_first
}

/// Marks a flow that may be evicted as one that is about to be, so that no other CPU evicts or
/// establishes it; `false`: it may not, or another CPU does something to it.
#[inline(always)]
pub fn claim<A>(held: &mut Flow<A>) -> bool {
    let (word, shift) = word(held);
    // SAFETY: eight aligned bytes within the flow.
    let old = unsafe { core::ptr::read_volatile(word) };
    if (old >> shift) as u32 & (ESTABLISHED | REMOVED) != 0 {
        return false;
    }
    let new = old | u64::from(REMOVED) << shift;
    // SAFETY: as above.
    unsafe { atomic::compare_exchange(word, old, new) == old }
}

/// Takes the mark of [`claim`] off.
#[inline(always)]
pub fn leave_alone<A>(held: &mut Flow<A>) {
    fetch_and(held, !REMOVED);
}

/// Makes what a half has seen just this.
#[inline(always)]
pub fn see_only<A>(half: &mut Flow<A>, seen: u8) {
    fetch_and(half, !SEEN);
    note(half, seen);
}

/// Notes what a half has seen; its flags before. Of two CPUs that note something of both
/// halves at once, one sees what the other has noted.
#[inline(always)]
pub fn note<A>(half: &mut Flow<A>, seen: u8) -> u8 {
    (fetch_or(half, u32::from(seen) << SEEN_SHIFT) >> 8) as u8
}

/// The half is about to be removed.
#[inline(always)]
pub fn retire<F: Family>(half: &mut Flow<F::Addr>) {
    let was = fetch_or(half, REMOVED);
    if was & (ESTABLISHED | REMOVED) == ESTABLISHED && half.flags & FLOW_ORIGINAL != 0 {
        leave::<F>();
    }
}

/// Counts one that is established no more.
#[inline(always)]
fn leave<F: Family>() {
    if let Some(count) = OCCUPANCY.get_ptr_mut(established_index(F::IS_V6)) {
        add(count, u64::MAX);
    }
}

#[inline(always)]
fn add(count: *mut u64, value: u64) {
    // SAFETY: as in `advance`.
    unsafe { atomic::add(count, value) };
}

/// Makes those of its flags what is wanted, without touching what other CPUs do to the others.
#[inline(always)]
pub fn set_flags<A>(flow: &mut Flow<A>, mask: u8, wanted: u8) {
    if flow.flags & mask != wanted {
        fetch_and(flow, !flags(mask));
        fetch_or(flow, flags(wanted));
    }
}

/// Bits of `kind`, `flags`, `seen` and `removed` as one number, the first lowest.
const ESTABLISHED: u32 = flags(FLOW_ESTABLISHED);
const SEEN_SHIFT: u32 = 16;
const SEEN: u32 = 0xff << SEEN_SHIFT;
const REMOVED: u32 = 1 << 24;

const fn flags(flags: u8) -> u32 {
    (flags as u32) << 8
}

/// Sets bits; what they were.
#[inline(always)]
fn fetch_or<A>(flow: &mut Flow<A>, bits: u32) -> u32 {
    let (word, shift) = word(flow);
    // SAFETY: eight aligned bytes within the flow.
    (unsafe { atomic::fetch_or(word, u64::from(bits) << shift) } >> shift) as u32
}

/// Leaves these bits alone and clears all others; what they were.
#[inline(always)]
fn fetch_and<A>(flow: &mut Flow<A>, bits: u32) -> u32 {
    let (word, shift) = word(flow);
    // SAFETY: as above.
    (unsafe { atomic::fetch_and(word, !(u64::from(!bits) << shift)) } >> shift) as u32
}

/// The eight bytes of which the number is a part, and by how many bits it is shifted there.
#[inline(always)]
fn word<A>(flow: &mut Flow<A>) -> (*mut u64, usize) {
    const {
        assert!(cfg!(target_endian = "little"));
        assert!(core::mem::offset_of!(Flow<A>, kind).is_multiple_of(4));
    }
    let at = core::mem::offset_of!(Flow<A>, kind);
    // SAFETY: within the flow, whose size is a multiple of eight.
    let word = unsafe { core::ptr::from_mut(flow).cast::<u8>().add(at & !7) };
    (word.cast(), (at & 7) * 8)
}
