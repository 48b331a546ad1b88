//! The client's own id of a row: what it may look like, and that no batch holds one twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use sha2::{Digest, Sha256};

/// The most characters of a `custom_id`.
const MAX_CHARS: usize = 256;

/// The bytes of an [`id_hash`].
pub(crate) const ID_HASH_BYTES: usize = 8;

/// Stands for a row without an id.
pub(crate) const NO_ID: [u8; ID_HASH_BYTES] = [0; ID_HASH_BYTES];

/// The name of the member or column that carries it.
pub(crate) const CUSTOM_ID: &str = "custom_id";

/// Says what is wrong with an id, if anything is.
pub(crate) fn check(id: &str) -> Result<(), &'static str> {
    if id.is_empty() {
        return Err("must not be empty");
    }
    if id.len() > MAX_CHARS && id.chars().count() > MAX_CHARS {
        return Err("must have at most 256 characters");
    }
    if id.chars().any(char::is_control) {
        return Err("must not hold control characters");
    }
    Ok(())
}

/// What stands for a `custom_id` where ids are compared: the first eight bytes of its SHA-256. Never all zeros, which stand for none.
pub fn id_hash(custom_id: &str) -> [u8; ID_HASH_BYTES] {
    let mut hash = [0; ID_HASH_BYTES];
    hash.copy_from_slice(&Sha256::digest(custom_id.as_bytes())[..ID_HASH_BYTES]);
    if hash == NO_ID { [0, 0, 0, 0, 0, 0, 0, 1] } else { hash }
}

/// The ids of a batch seen so far, in 16 bytes each (and the table's slack): 12 bytes of SHA-256 and the place.
///
/// 96 bits make a false alarm among ten million ids less likely than one in 10^14.
pub(crate) struct SeenIds {
    places: HashMap<[u8; 12], u32>,
    most: usize,
}

impl Default for SeenIds {
    fn default() -> Self {
        Self::at_most(usize::MAX)
    }
}

impl SeenIds {
    /// Keeps the first `most` ids.
    pub(crate) fn at_most(most: usize) -> Self {
        Self { places: HashMap::new(), most }
    }

    /// Notes that `id` stands at `place` (a line or a row); when it was seen before, gives the place of its first sight.
    ///
    /// Places from 2^32 - 1 on are all given as that number.
    pub(crate) fn note(&mut self, id: &str, place: u64) -> Result<(), u32> {
        let hash = Sha256::digest(id.as_bytes());
        let mut key = [0; 12];
        key.copy_from_slice(&hash[..12]);
        let full = self.places.len() >= self.most;
        match self.places.entry(key) {
            Entry::Occupied(seen) => Err(*seen.get()),
            Entry::Vacant(_) if full => Ok(()),
            Entry::Vacant(free) => {
                free.insert(u32::try_from(place).unwrap_or(u32::MAX));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_1_to_256_characters_without_control_characters() {
        let longest = "ä".repeat(256);
        for good in ["a", " ", "sku/1 – ä", &longest] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "a\nb", "a\0", "\u{85}", &"a".repeat(257), &"ä".repeat(257)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_hash_is_the_beginning_of_the_sha_256_of_the_id() {
        // FIPS 180-4, the example of one block.
        assert_eq!(id_hash("abc"), [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea]);
        assert_ne!(id_hash("abd"), id_hash("abc"));
    }

    #[test]
    fn a_second_sight_names_the_place_of_the_first() {
        let mut seen = SeenIds::default();
        assert_eq!(seen.note("a", 3), Ok(()));
        assert_eq!(seen.note("b", 4), Ok(()));
        assert_eq!(seen.note("a", 9), Err(3));
        assert_eq!(seen.note("c", u64::MAX), Ok(()));
        assert_eq!(seen.note("c", 1), Err(u32::MAX));
    }
}
