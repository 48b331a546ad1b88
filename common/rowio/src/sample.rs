//! Choosing some rows of many, the same ones for the same seed on every machine and release.

use std::collections::BTreeSet;

/// Chooses positions when the number of rows is known beforehand (two passes over a file).
pub struct Sample;

impl Sample {
    /// `n` of the positions `0..total`, sorted, every set of `n` equally likely; all of them when `n >= total`.
    ///
    /// The memory is that of the `n` positions.
    pub fn choose(total: u64, n: u64, seed: u64) -> Vec<u64> {
        let mut random = Random(seed);
        let mut chosen = BTreeSet::new();
        // Floyd: one draw for each position chosen, however large `total` is.
        for last in total.saturating_sub(n)..total {
            let drawn = random.at_most(last);
            if !chosen.insert(drawn) {
                chosen.insert(last);
            }
        }
        chosen.into_iter().collect()
    }
}

/// Keeps `n` of the things offered to it, every set of `n` equally likely, however many come (one pass over a stream).
pub struct Reservoir<T> {
    kept: Vec<(u64, T)>,
    n: usize,
    offered: u64,
    random: Random,
}

impl<T> Reservoir<T> {
    /// An empty reservoir for `n` things.
    pub fn new(n: usize, seed: u64) -> Self {
        Self { kept: Vec::new(), n, offered: 0, random: Random(seed) }
    }

    /// Offers the next thing.
    pub fn offer(&mut self, thing: T) {
        let position = self.offered;
        self.offered += 1;
        if self.kept.len() < self.n {
            self.kept.push((position, thing));
        } else if self.n > 0 {
            let drawn = self.random.at_most(position);
            let slot = usize::try_from(drawn).ok().and_then(|slot| self.kept.get_mut(slot));
            if let Some(slot) = slot {
                *slot = (position, thing);
            }
        }
    }

    /// How many things were offered.
    pub const fn offered(&self) -> u64 {
        self.offered
    }

    /// What was kept, in the order it was offered.
    pub fn into_kept(self) -> Vec<T> {
        let mut kept = self.kept;
        kept.sort_unstable_by_key(|(position, _)| *position);
        kept.into_iter().map(|(_, thing)| thing).collect()
    }
}

/// `n` of the `rows`, in their order; all of them when there are no more.
pub fn sample_rows<I: IntoIterator>(rows: I, n: usize, seed: u64) -> Vec<I::Item> {
    let mut reservoir = Reservoir::new(n, seed);
    for row in rows {
        reservoir.offer(row);
    }
    reservoir.into_kept()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and never changing under us as a crate's generator may.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `0..=last`, each equally likely.
    fn at_most(&mut self, last: u64) -> u64 {
        let Some(count) = last.checked_add(1) else {
            return self.next();
        };
        // The numbers at the top that do not fill a whole round would make small results likelier.
        let unfair = (u64::MAX % count + 1) % count;
        loop {
            let drawn = self.next();
            if drawn <= u64::MAX - unfair {
                return drawn % count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_seed_chooses_the_same_rows_for_ever() {
        assert_eq!(Sample::choose(1000, 5, 7), [210, 405, 674, 834, 903]);
        assert_eq!(sample_rows(0..1000, 5, 7), [440, 476, 648, 692, 914]);
        assert_ne!(Sample::choose(1000, 5, 7), Sample::choose(1000, 5, 8));
    }

    #[test]
    fn the_generator_gives_its_published_numbers() {
        let mut random = Random(1_234_567);
        let first = [random.next(), random.next(), random.next()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn every_row_is_about_equally_likely() {
        let mut chosen = [0u32; 10];
        let mut kept = [0u32; 10];
        for seed in 0..3000 {
            for position in Sample::choose(10, 3, seed) {
                chosen[usize::try_from(position).unwrap()] += 1;
            }
            for position in sample_rows(0..10usize, 3, seed) {
                kept[position] += 1;
            }
        }
        // 900 expected, standard deviation 25; the seeds are fixed, so this cannot flake.
        for count in chosen.iter().chain(&kept) {
            assert!((800..1000).contains(count), "{chosen:?} {kept:?}");
        }
    }

    proptest! {
        #[test]
        fn a_sample_is_sorted_distinct_and_of_the_asked_size(total in 0..500u64, n in 0..600u64, seed: u64) {
            let chosen = Sample::choose(total, n, seed);
            prop_assert_eq!(chosen.len() as u64, n.min(total));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.iter().all(|position| *position < total));
            let kept = sample_rows(0..total, usize::try_from(n).unwrap(), seed);
            prop_assert_eq!(kept.len() as u64, n.min(total));
            prop_assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
        }

        #[test]
        fn numbers_stay_in_their_range(last: u64, seed: u64) {
            prop_assert!(Random(seed).at_most(last) <= last);
        }
    }
}
