//! Finds `custom_id`s that stand twice among the rows of several parts, by their hashes alone and in bounded memory.
//!
//! Each reader has found what its own input holds twice; across parts the hashes kept with the blocks tell. They are walked once per
//! range of hashes, and a range is as wide as what is in it fits the memory. Equal hashes are candidates: whoever asks reads
//! the two ids and compares them.

use crate::custom_id::{ID_HASH_BYTES, NO_ID};

/// The most hashes held at a time: 12 bytes each, 12 MiB together.
const HELD: usize = 1 << 20;

/// The most candidates that are answered.
const MAX_FOUND: usize = 100;

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPosition {
    /// 0-based index in the batch, all parts joined.
    pub index: u32,
    /// The number of its part.
    pub part: u32,
    /// 0-based position among the part's rows.
    pub row: u32,
}

/// Two rows whose `custom_id`s have the same hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SameHash {
    /// The first row with this hash.
    pub first: RowPosition,
    /// A later one.
    pub second: RowPosition,
}

/// The search. Hand in every block of the batch in the order of the rows, again and again until no further pass is asked for:
///
/// ```
/// use promptmill_rowio::{DuplicateSearch, id_hash};
///
/// let blocks = [(0, 2, [id_hash("a"), id_hash("b")].concat()), (1, 1, id_hash("a").to_vec())];
/// let mut search = DuplicateSearch::new(3);
/// while search.wants_pass() {
///     for (part, rows, ids) in &blocks {
///         search.add(*part, *rows, ids);
///     }
///     search.end_pass();
/// }
/// let found = search.finish();
/// assert_eq!((found[0].first.index, found[0].second.index), (0, 2));
/// assert_eq!((found[0].second.part, found[0].second.row), (1, 0));
/// ```
#[derive(Debug)]
pub struct DuplicateSearch {
    /// Hashes of this pass: from `from` on, up to and without `to` where there is one.
    from: u64,
    to: Option<u64>,
    /// How wide a range is begun.
    width: u64,
    held: Vec<Entry>,
    most_held: usize,
    /// The index of the next row of this pass.
    index: u32,
    /// Each part and the index of its first row, noted in the first pass.
    parts: Vec<(u32, u32)>,
    first_pass: bool,
    done: bool,
    found: Vec<Pair>,
}

/// The indexes of two rows with the same hash.
#[derive(Debug, Clone, Copy)]
struct Pair {
    hash: u64,
    first: u32,
    second: u32,
}

/// A hash in two halves, so that it and the index take 12 bytes; ordered by hash, then by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    high: u32,
    low: u32,
    index: u32,
}

impl Entry {
    fn hash(self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}

impl DuplicateSearch {
    /// A search among about `rows` rows. The number is a hint: another one costs passes, not memory.
    pub fn new(rows: u64) -> Self {
        Self::within(rows, HELD)
    }

    fn within(rows: u64, most_held: usize) -> Self {
        // A tenth of room, since hashes do not spread quite evenly.
        let passes = (rows.saturating_mul(10) / 9).div_ceil(most_held as u64).max(1);
        let width = if passes == 1 { u64::MAX } else { u64::MAX / passes + 1 };
        Self {
            from: 0,
            to: 0u64.checked_add(width).filter(|_| passes > 1),
            width,
            // At once, since growing would hold the old and the new for a moment.
            held: Vec::with_capacity(usize::try_from(rows).map_or(most_held, |rows| rows.min(most_held))),
            most_held,
            index: 0,
            parts: Vec::new(),
            first_pass: true,
            done: false,
            found: Vec::new(),
        }
    }

    /// Whether the blocks are to be handed in (once more).
    pub const fn wants_pass(&self) -> bool {
        !self.done
    }

    /// Takes the next block of the pass: its part, the number of its rows and their hashes, eight bytes a row or none at all.
    pub fn add(&mut self, part: u32, rows: u32, ids: &[u8]) {
        if self.first_pass && self.parts.last().is_none_or(|(last, _)| *last != part) {
            self.parts.push((part, self.index));
        }
        for (position, id) in (0..rows).zip(ids.chunks_exact(ID_HASH_BYTES)) {
            let Ok(id) = <[u8; ID_HASH_BYTES]>::try_from(id) else { continue };
            let hash = u64::from_be_bytes(id);
            if id == NO_ID || hash < self.from || self.to.is_some_and(|to| hash >= to) {
                continue;
            }
            if self.held.len() >= self.most_held {
                self.make_room();
                if self.to.is_some_and(|to| hash >= to) {
                    continue;
                }
            }
            let (high, low) = ((hash >> 32) as u32, hash as u32);
            self.held.push(Entry { high, low, index: self.index.saturating_add(position) });
        }
        self.index = self.index.saturating_add(rows);
    }

    /// Ends a pass, after its last block.
    pub fn end_pass(&mut self) {
        self.gather();
        self.held.clear();
        self.index = 0;
        self.first_pass = false;
        match self.to {
            Some(to) if self.found.len() < MAX_FOUND => {
                self.from = to;
                self.to = to.checked_add(self.width);
            }
            _ => self.done = true,
        }
    }

    /// The rows found, at most 100 pairs, in the order of the later row. All pairs there are when they are fewer.
    pub fn finish(mut self) -> Vec<SameHash> {
        self.found.truncate(MAX_FOUND);
        let mut found: Vec<SameHash> = self
            .found
            .iter()
            .map(|pair| SameHash { first: self.position(pair.first), second: self.position(pair.second) })
            .collect();
        found.sort_unstable_by_key(|pair| (pair.second, pair.first));
        found
    }

    /// Notes equal hashes and keeps the first row of each.
    fn gather(&mut self) {
        self.held.sort_unstable();
        let found = &mut self.found;
        self.held.dedup_by(|later, first| {
            let same = later.hash() == first.hash();
            if same && found.len() < MAX_FOUND {
                found.push(Pair { hash: first.hash(), first: first.index, second: later.index });
            }
            same
        });
    }

    /// Lets go of what stands twice, and of the upper half of the range when that is not enough: a later pass sees it then.
    fn make_room(&mut self) {
        self.gather();
        let half = self.most_held / 2;
        if self.held.len() > half {
            // Distinct and in order, so that the lower half is not empty.
            self.to = self.held.get(half).map(|entry| entry.hash());
            self.held.truncate(half);
            let to = self.to;
            self.found.retain(|pair| to.is_none_or(|to| pair.hash < to));
        }
    }

    fn position(&self, index: u32) -> RowPosition {
        let after = self.parts.partition_point(|(_, first)| *first <= index);
        let (part, first) =
            after.checked_sub(1).and_then(|at| self.parts.get(at)).copied().unwrap_or_default();
        RowPosition { index, part, row: index - first }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::custom_id::id_hash;

    /// Runs a search over parts of hashes (blocks of three rows); gives what it found and the passes it took.
    fn search(parts: &[Vec<u64>], most_held: usize, hint: u64) -> (Vec<SameHash>, u32) {
        let mut search = DuplicateSearch::within(hint, most_held);
        let mut passes = 0;
        while search.wants_pass() {
            for (part, rows) in (0..).zip(parts) {
                for block in rows.chunks(3) {
                    let ids: Vec<u8> = block.iter().flat_map(|hash| hash.to_be_bytes()).collect();
                    let ids = if block.iter().all(|hash| *hash == 0) { Vec::new() } else { ids };
                    search.add(part, u32::try_from(block.len()).unwrap(), &ids);
                    assert!(search.held.len() <= most_held);
                }
            }
            search.end_pass();
            passes += 1;
        }
        (search.finish(), passes)
    }

    fn pairs(found: &[SameHash]) -> Vec<(u32, u32)> {
        found.iter().map(|pair| (pair.first.index, pair.second.index)).collect()
    }

    #[test]
    fn rows_without_ids_are_never_the_same_and_still_count() {
        let (found, _) = search(&[vec![0, 0, 0, 0], vec![0, 7], vec![0, 7]], 16, 8);
        let first = RowPosition { index: 5, part: 1, row: 1 };
        assert_eq!(found, [SameHash { first, second: RowPosition { index: 7, part: 2, row: 1 } }]);
    }

    #[test]
    fn a_row_is_held_against_the_first_of_its_hash() {
        let (found, _) = search(&[vec![9, 8], vec![9, 8, 9]], 16, 5);
        assert_eq!(pairs(&found), [(0, 2), (1, 3), (0, 4)]);
    }

    #[test]
    fn ranges_narrow_where_hashes_crowd_and_memory_stays_bounded() {
        // Every hash in the lowest millionth of its space, and the hint far too small.
        let crowded: Vec<u64> = (1..=1000).chain([500]).collect();
        let (found, passes) = search(&[crowded], 64, 1);
        assert_eq!(pairs(&found), [(499, 1000)]);
        assert!((1000 / 64..=1000 / 32 + 1).contains(&passes), "{passes}");
        // A million rows with one id: the memory holds it once, and the answer is full at once.
        let (found, passes) = search(&[vec![5; 100_000]], 64, 100_000);
        assert_eq!((found.len(), passes), (100, 1));
    }

    #[test]
    fn hashes_that_spread_evenly_take_the_passes_that_were_reckoned_with() {
        let spread: Vec<u64> = (0..9_000u32).map(|n| u64::from_be_bytes(id_hash(&n.to_string()))).collect();
        assert_eq!(search(std::slice::from_ref(&spread), 1 << 20, 9_000), (Vec::new(), 1));
        assert_eq!(search(std::slice::from_ref(&spread), 2000, 9_000), (Vec::new(), 5));
    }

    proptest! {
        #[test]
        fn exactly_the_equal_hashes_are_found(
            parts in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(0u64), 1..40u64, any::<u64>(), Just(u64::MAX)], 0..12), 0..5),
            most_held in 2..12usize,
            hint in 0..100u64,
        ) {
            let mut first: HashMap<u64, u32> = HashMap::new();
            let mut expected = Vec::new();
            for (index, hash) in (0..).zip(parts.iter().flatten()) {
                if *hash != 0 && let Some(first) = first.get(hash) {
                    expected.push((*first, index));
                }
                first.entry(*hash).or_insert(index);
            }
            let (found, _) = search(&parts, most_held, hint);
            prop_assert_eq!(pairs(&found), expected);
            for pair in &found {
                for position in [pair.first, pair.second] {
                    let before: usize = parts[..position.part as usize].iter().map(Vec::len).sum();
                    prop_assert_eq!(before + position.row as usize, position.index as usize);
                }
            }
        }
    }
}
