//! Repeatable chance: a hash of bytes under a seed, and a generator that continues from it.
//!
//! Both are fixed here and not taken from a library, because a seed printed by one build must replay in another.

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A well mixed number that depends on every byte and on the seed.
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let absorb = |state: u64, word: u64| (state ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    let state = words.iter().fold(seed ^ STEP, |state, word| absorb(state, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(absorb(absorb(state, u64::from_le_bytes(last)), bytes.len() as u64))
}

/// The finaliser of splitmix64 (public domain, Sebastiano Vigna).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of numbers (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The stream that `start` begins.
    pub(crate) const fn new(start: u64) -> Self {
        Self(start)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// The next number below `bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// The next number of `low..=high`.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = low.abs_diff(high.max(low)).saturating_add(1);
        low.saturating_add_unsigned(self.below(width))
    }

    /// The next number of `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_the_seed_on_every_byte_and_on_the_length() {
        let base = hash(1, b"0123456789");
        assert_eq!(base, hash(1, b"0123456789"));
        for other in
            [hash(2, b"0123456789"), hash(1, b"0123456780"), hash(1, b"1123456789"), hash(1, b"012345678")]
        {
            assert_ne!(base, other);
        }
        assert_ne!(hash(1, b"a"), hash(1, b"a\0"));
    }

    #[test]
    fn numbers_stay_inside_their_bounds() {
        let mut dice = Dice::new(7);
        for _ in 0..1_000 {
            assert!(dice.below(3) < 3);
            assert!((-2..=2).contains(&dice.between(-2, 2)));
            assert!((0.0..1.0).contains(&dice.unit()));
        }
        assert_eq!((dice.below(0), dice.between(5, 5)), (0, 5));
        assert!(dice.between(i64::MIN, i64::MAX) < i64::MAX);
    }
}
