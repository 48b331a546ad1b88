//! How a batch's rows are cut into chunks.

use crate::head::RowsRef;
use crate::ids::UploadId;

/// The most rows of one chunk, and of one stored block of rows.
pub const MAX_CHUNK_ROWS: u32 = 256;

/// The most bytes of rows in one stored block, before compression.
pub const MAX_BLOCK_BYTES: usize = 4 * 1024 * 1024;

/// A batch is cut into at least this many chunks as long as it has the rows, so that a small one spreads over a fleet.
pub const SPREAD: u32 = 32;

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

/// Cuts the rows of `parts`, in order, into chunks: the same parts always give the same chunks.
///
/// A chunk never spans two blocks, so a worker reads one block for it.
pub fn cut(parts: &[FrozenPart]) -> impl Iterator<Item = ChunkCut> + '_ {
    let total: u64 = parts.iter().flat_map(|part| &part.blocks).map(|len| u64::from(*len)).sum();
    let size =
        u32::try_from(total.div_ceil(u64::from(SPREAD))).unwrap_or(MAX_CHUNK_ROWS).clamp(1, MAX_CHUNK_ROWS);
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

    proptest! {
        #[test]
        fn every_row_is_in_exactly_one_chunk_and_in_order(
            blocks in prop::collection::vec(prop::collection::vec(1u32..=MAX_CHUNK_ROWS, 0..6), 0..6),
        ) {
            let parts: Vec<_> = blocks.into_iter().zip(0u8..)
                .map(|(blocks, i)| FrozenPart { upload: UploadId::from_bytes([i; 16]), blocks }).collect();
            let rows = parts.iter().flat_map(|part| {
                part.blocks.iter().zip(0u32..).flat_map(move |(len, seq)| (0..*len).map(move |row| (part.upload, seq, row)))
            });
            let cuts: Vec<_> = cut(&parts).collect();
            let cut_rows = cuts.iter().flat_map(|c| (0..c.len).map(|i| (c.rows.upload, c.rows.seq, c.rows.skip + i)));
            prop_assert!(rows.clone().eq(cut_rows));
            let total = u32::try_from(rows.count()).unwrap();
            let mut base = 0;
            for (c, n) in cuts.iter().zip(0u32..) {
                prop_assert_eq!((c.n, c.base), (n, base));
                prop_assert!((1..=MAX_CHUNK_ROWS).contains(&c.len));
                base += c.len;
            }
            prop_assert_eq!(base, total);
            prop_assert!(cuts.len() >= total.min(SPREAD) as usize / 2);
        }
    }
}
