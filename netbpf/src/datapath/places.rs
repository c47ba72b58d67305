//! Which backend of a shared port has which place. Pure.

use netbpf_common::maps::ports::SHARE_PLACES;

/// A backend's number in the share, and its weight (at least 1).
pub(super) type Weighted = (u8, u32);

/// Gives each backend as many places as its weight says, to 1 in
/// [`SHARE_PLACES`]. Of `before` only as many places change hands as must, so that
/// clients with affinity mostly keep their backend.
pub(super) fn assign(
    backends: &[Weighted],
    before: Option<&[u8; SHARE_PLACES]>,
) -> [u8; SHARE_PLACES] {
    let mut wanted = [0_usize; 256];
    for (number, count) in quotas(backends) {
        wanted[usize::from(number)] = count;
    }
    let mut places = before.copied().unwrap_or([0; SHARE_PLACES]);
    let mut free = Vec::new();
    for (index, owner) in places.iter().enumerate() {
        let left = &mut wanted[usize::from(*owner)];
        match *left {
            _ if before.is_none() => free.push(index),
            0 => free.push(index),
            _ => *left -= 1,
        }
    }
    // Side by side: turns are spread best over places that are (see `place_of_turn`).
    let mut free = free.into_iter();
    for &(number, _) in backends {
        for index in free.by_ref().take(wanted[usize::from(number)]) {
            places[index] = number;
        }
    }
    places
}

/// Places by weight, whole ones, by largest remainder; everybody has one at least.
fn quotas(backends: &[Weighted]) -> Vec<(u8, usize)> {
    let all = SHARE_PLACES as u64;
    let sum: u64 = backends.iter().map(|&(_, weight)| u64::from(weight)).sum();
    let mut quotas: Vec<(u8, usize, u64)> = backends
        .iter()
        .map(|&(number, weight)| {
            let share = all * u64::from(weight);
            let whole = (share / sum.max(1)).max(1);
            (number, whole as usize, share % sum.max(1))
        })
        .collect();
    quotas.sort_by_key(|&(number, _, remainder)| (std::cmp::Reverse(remainder), number));
    let given: usize = quotas.iter().map(|q| q.1).sum();
    for quota in quotas.iter_mut().take(SHARE_PLACES.saturating_sub(given)) {
        quota.1 += 1;
    }
    // Those that got one for nothing take it from the largest.
    for _ in SHARE_PLACES..given {
        if let Some(largest) = quotas.iter_mut().max_by_key(|q| q.1) {
            largest.1 -= 1;
        }
    }
    quotas
        .into_iter()
        .map(|(number, count, _)| (number, count))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(places: &[u8; SHARE_PLACES]) -> [usize; 256] {
        let mut counts = [0; 256];
        for &owner in places {
            counts[usize::from(owner)] += 1;
        }
        counts
    }

    #[test]
    fn places_are_as_many_as_weights_say() {
        let counts = counts(&assign(&[(0, 1), (1, 3)], None));
        assert_eq!((counts[0], counts[1]), (1024, 3072));
    }

    proptest! {
        #[test]
        fn changes_move_no_more_places_than_they_must(
            first in proptest::collection::btree_map(0..20_u8, 1..1000_u32, 1..10),
            second in proptest::collection::btree_map(0..20_u8, 1..1000_u32, 1..10),
        ) {
            let first: Vec<_> = first.into_iter().collect();
            let second: Vec<_> = second.into_iter().collect();
            let before = assign(&first, None);
            let after = assign(&second, Some(&before));
            let sum: u64 = second.iter().map(|b| u64::from(b.1)).sum();
            let (had, has) = (counts(&before), counts(&after));
            let mut must = 0;
            for number in 0..256 {
                let weight = second.iter().find(|b| usize::from(b.0) == number).map_or(0, |b| b.1);
                let exact = SHARE_PLACES as f64 * f64::from(weight) / sum as f64;
                // One more or less by rounding, and what the least ones got for nothing.
                prop_assert!((has[number] as f64 - exact).abs() <= 11.0, "{number}: {} {exact}", has[number]);
                prop_assert!(weight == 0 || has[number] >= 1);
                must += has[number].saturating_sub(had[number]);
            }
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            prop_assert_eq!(moved, must);
        }
    }
}
