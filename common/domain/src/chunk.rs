//! How a batch's rows are cut into chunks.

use crate::head::RowsRef;
use crate::ids::UploadId;

/// The most rows of one chunk, and of one stored block of rows.
pub const MAX_CHUNK_ROWS: u32 = 256;

/// The most bytes of rows in one stored block, before compression.
pub const MAX_BLOCK_BYTES: usize = 4 * 1024 * 1024;

/// A batch is cut into at least this many chunks as long as it has the rows, so that a small one spreads over a fleet.
pub const SPREAD: u32 = 32;

/// About how long a chunk should take when nothing but its batch's own limit is known of its lane, seconds.
const CHUNK_SECONDS: u32 = 30;

/// The most rows of a chunk of a batch that makes at most so many calls at the same time: about 30 s of work if a call took a second.
/// How fast the lane is turns out only when the batch runs, and its chunks are cut before.
pub fn rows_for(max_concurrency: Option<u32>) -> u32 {
    let rows = max_concurrency.map_or(MAX_CHUNK_ROWS, |calls| calls.saturating_mul(CHUNK_SECONDS));
    rows.clamp(CHUNK_SECONDS, MAX_CHUNK_ROWS)
}

/// The rows of one committed part, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenPart {
    /// The upload that brought them.
    pub upload: UploadId,
    /// Rows of each stored block, in order.
    pub blocks: Vec<u32>,
}

/// A chunk to be: where its rows are and which items they become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkCut {
    /// Position among the batch's chunks.
    pub n: u32,
    /// Where the rows are.
    pub rows: RowsRef,
    /// Index of the first item.
    pub base: u32,
    /// Number of items, at least one.
    pub len: u32,
}

/// The most items that a chunk of a batch of `total` rows has, whose chunks are to have at most `most`.
pub fn largest_chunk(total: u32, most: u32) -> u32 {
    total.div_ceil(SPREAD).clamp(1, most.clamp(1, MAX_CHUNK_ROWS))
}

/// Cuts the rows of `parts`, in order, into chunks of at most `most` rows: the same parts and `most` always give the same chunks.
///
/// A chunk never spans two blocks, so a worker reads one block for it.
pub fn cut(parts: &[FrozenPart], most: u32) -> impl Iterator<Item = ChunkCut> + '_ {
    let total: u64 = parts.iter().flat_map(|part| &part.blocks).map(|len| u64::from(*len)).sum();
    let size = largest_chunk(u32::try_from(total).unwrap_or(u32::MAX), most);
    let blocks = parts
        .iter()
        .flat_map(|part| part.blocks.iter().zip(0u32..).map(move |(len, seq)| (part.upload, seq, *len)));
    let pieces = blocks.flat_map(move |(upload, seq, len)| {
        (0..len).step_by(size as usize).map(move |skip| (RowsRef { upload, seq, skip }, size.min(len - skip)))
    });
    pieces.zip(0u32..).scan(0u32, |base, ((rows, len), n)| {
        let cut = ChunkCut { n, rows, base: *base, len };
        *base += len;
        Some(cut)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_batch_that_makes_few_calls_at_once_has_short_chunks_and_a_small_batch_too() {
        let rows: Vec<u32> =
            [None, Some(0), Some(1), Some(2), Some(8), Some(9), Some(u32::MAX)].map(rows_for).into();
        assert_eq!(rows, [256, 30, 30, 60, 240, 256, 256]);
        let cases = [
            (0, 256, 1),
            (32, 256, 1),
            (33, 256, 2),
            (8_192, 256, 256),
            (u32::MAX, 256, 256),
            (8_192, 60, 60),
            (10, 0, 1),
        ];
        for (total, most, expected) in cases {
            assert_eq!(largest_chunk(total, most), expected, "{total} rows, at most {most}");
        }
    }

    proptest! {
        #[test]
        fn every_row_is_in_exactly_one_chunk_and_in_order(
            blocks in prop::collection::vec(prop::collection::vec(1u32..=MAX_CHUNK_ROWS, 0..6), 0..6),
            most in prop_oneof![Just(MAX_CHUNK_ROWS), 0..=2 * MAX_CHUNK_ROWS],
        ) {
            let parts: Vec<_> = blocks.into_iter().zip(0u8..)
                .map(|(blocks, i)| FrozenPart { upload: UploadId::from_bytes([i; 16]), blocks }).collect();
            let rows = parts.iter().flat_map(|part| {
                part.blocks.iter().zip(0u32..).flat_map(move |(len, seq)| (0..*len).map(move |row| (part.upload, seq, row)))
            });
            let cuts: Vec<_> = cut(&parts, most).collect();
            let cut_rows = cuts.iter().flat_map(|c| (0..c.len).map(|i| (c.rows.upload, c.rows.seq, c.rows.skip + i)));
            prop_assert!(rows.clone().eq(cut_rows));
            let total = u32::try_from(rows.count()).unwrap();
            let mut base = 0;
            for (c, n) in cuts.iter().zip(0u32..) {
                prop_assert_eq!((c.n, c.base), (n, base));
                prop_assert!((1..=MAX_CHUNK_ROWS).contains(&c.len) && c.len <= largest_chunk(total, most));
                base += c.len;
            }
            prop_assert_eq!(base, total);
            prop_assert!(cuts.len() >= total.min(SPREAD) as usize / 2);
        }
    }
}
