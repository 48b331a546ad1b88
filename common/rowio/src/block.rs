//! Blocks: runs of consecutive rows, compressed together as they are stored.
//!
//! A block is one zstd frame (level 1, with its content's size and checksum) of row lines. Reading one back never
//! makes more than 64 MiB of it, whatever its bytes claim.

use std::cell::RefCell;
use std::io::Read;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, get_frame_content_size};

use crate::custom_id::{ID_HASH_BYTES, id_hash};
use crate::stored::StoredRow;

const LEVEL: i32 = 1;
const MAX_ROWS: u32 = 256;
const MAX_BYTES: usize = 4 * 1024 * 1024;
const MAX_DECODED_BYTES: usize = 64 * 1024 * 1024;
/// Lines up to this are compressed by the thread's own context, which stays small with them.
const SMALL_BYTES: usize = 16 * 1024;

thread_local! {
    // To make a context costs more than the few rows of a small batch cost with it.
    static SMALL_COMPRESSOR: RefCell<Compressor<'static>> = RefCell::new(compressor());
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn compressor() -> Compressor<'static> {
    let mut compressor = Compressor::new(LEVEL).expect("a zstd context for level 1 needs only memory");
    compressor
        .set_parameter(CParameter::ChecksumFlag(true))
        .expect("the checksum flag is known to every zstd");
    compressor
}

/// A run of consecutive rows, compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowBlock {
    /// How many rows of the part come before the block's first.
    pub first_offset: u32,
    /// How many rows the block holds, at least 1.
    pub len: u32,
    /// The compressed lines, for [`decode_block`].
    pub bytes: Vec<u8>,
    /// How many bytes the lines have before compression.
    pub uncompressed: u32,
    /// Eight bytes a row: the [`id_hash`] of its `custom_id`, or zeros where it has none. Empty when no row of the block has one.
    pub ids: Vec<u8>,
}

/// Collects rows into blocks of at most 256 rows and 4 MiB before compression (a longer single row is a block alone).
pub struct BlockBuilder {
    /// For what is not small.
    compressor: Option<Compressor<'static>>,
    max_rows: u32,
    lines: Vec<u8>,
    /// As [`RowBlock::ids`], and shorter than the rows while none of the last had an id.
    ids: Vec<u8>,
    offset: u32,
    len: u32,
}

impl Default for BlockBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BlockBuilder {
    /// A builder at the beginning of a part, with blocks of up to 256 rows.
    pub fn new() -> Self {
        Self::with_rows(MAX_ROWS)
    }

    /// A builder with blocks of up to `max_rows` rows (held to 1..=256): a small batch is cut small to spread over a fleet.
    pub fn with_rows(max_rows: u32) -> Self {
        let max_rows = max_rows.clamp(1, MAX_ROWS);
        Self { compressor: None, max_rows, lines: Vec::new(), ids: Vec::new(), offset: 0, len: 0 }
    }

    /// Adds the next row of the part. Gives a block when one became full, which then holds this row or ends before it.
    pub fn push<T: AsRef<str>>(&mut self, row: &StoredRow<T>) -> Option<RowBlock> {
        let before = self.lines.len();
        row.write_line(&mut self.lines);
        if before > 0 && self.lines.len() > MAX_BYTES {
            let next = self.lines.split_off(before);
            let full = self.take();
            self.lines = next;
            self.count(row);
            return full;
        }
        self.count(row);
        if self.len >= self.max_rows || self.lines.len() >= MAX_BYTES { self.take() } else { None }
    }

    /// The rows that are left, as the part's last block. The builder then stands at the beginning of a next part.
    pub fn finish(&mut self) -> Option<RowBlock> {
        let last = self.take();
        self.offset = 0;
        last
    }

    fn count<T: AsRef<str>>(&mut self, row: &StoredRow<T>) {
        if let Some(id) = row.custom_id() {
            self.ids.resize(self.len as usize * ID_HASH_BYTES, 0);
            self.ids.extend(id_hash(id));
        }
        self.len += 1;
    }

    fn take(&mut self) -> Option<RowBlock> {
        if self.len == 0 {
            return None;
        }
        if !self.ids.is_empty() {
            self.ids.resize(self.len as usize * ID_HASH_BYTES, 0);
        }
        let bytes = if self.lines.len() <= SMALL_BYTES {
            SMALL_COMPRESSOR.with_borrow_mut(|compressor| compressor.compress(&self.lines))
        } else {
            self.compressor.get_or_insert_with(compressor).compress(&self.lines)
        };
        let bytes = bytes.expect("the target has zstd's own worst-case size");
        let block = RowBlock {
            first_offset: self.offset,
            len: self.len,
            bytes,
            uncompressed: u32::try_from(self.lines.len()).expect("a block is far smaller than 4 GiB"),
            ids: std::mem::take(&mut self.ids),
        };
        self.offset = self.offset.checked_add(self.len).expect("a reader gives fewer than 2^32 rows");
        self.len = 0;
        self.lines.clear();
        Some(block)
    }
}

/// Stored bytes that are not a block of ours, or not the rows that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stored block of rows is corrupt: {0}")]
pub struct CorruptBlock(pub(crate) &'static str);

/// Every row of a block, in order.
///
/// # Errors
/// Bytes that do not decompress to 1 or more row lines within 64 MiB.
pub fn decode_block(bytes: &[u8]) -> Result<Vec<StoredRow>, CorruptBlock> {
    let text = decompress(bytes)?;
    lines(&text)?.map(read).collect()
}

/// The rows `skip..skip + take` of a block; the others are not parsed.
///
/// # Errors
/// As [`decode_block`], and when the block has fewer rows than that.
pub fn decode_range(bytes: &[u8], skip: usize, take: usize) -> Result<Vec<StoredRow>, CorruptBlock> {
    let text = decompress(bytes)?;
    let rows: Vec<StoredRow> = lines(&text)?.skip(skip).take(take).map(read).collect::<Result<_, _>>()?;
    if rows.len() == take { Ok(rows) } else { Err(CorruptBlock("it has fewer rows than its chunk says")) }
}

fn lines(text: &str) -> Result<impl Iterator<Item = &str>, CorruptBlock> {
    let lines = text.strip_suffix('\n').ok_or(CorruptBlock("its last line does not end"))?;
    Ok(lines.split('\n'))
}

fn read(line: &str) -> Result<StoredRow, CorruptBlock> {
    StoredRow::read_line(line).ok_or(CorruptBlock("a line is not a row"))
}

fn decompress(bytes: &[u8]) -> Result<String, CorruptBlock> {
    let not_zstd = CorruptBlock("it is not a zstd frame");
    let claimed = get_frame_content_size(bytes).map_err(|_| not_zstd.clone())?;
    let lines = match claimed.map(usize::try_from) {
        Some(Ok(size)) if size <= MAX_DECODED_BYTES => DECOMPRESSOR.with_borrow_mut(|slot| {
            let decompressor = match slot {
                Some(decompressor) => decompressor,
                None => slot.insert(Decompressor::new().map_err(|_| not_zstd.clone())?),
            };
            decompressor.decompress(bytes, size).map_err(|_| not_zstd)
        })?,
        Some(_) => return Err(CorruptBlock("it is larger than a block can be")),
        // Our blocks tell their size; one that does not is read within the same bound.
        None => {
            let bound = u64::try_from(MAX_DECODED_BYTES).unwrap_or(u64::MAX);
            let mut lines = Vec::new();
            let decoder = zstd::stream::read::Decoder::new(bytes).map_err(|_| not_zstd.clone())?;
            decoder.take(bound + 1).read_to_end(&mut lines).map_err(|_| not_zstd)?;
            if lines.len() > MAX_DECODED_BYTES {
                return Err(CorruptBlock("it is larger than a block can be"));
            }
            lines
        }
    };
    String::from_utf8(lines).map_err(|_| CorruptBlock("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(text: &str) -> StoredRow {
        StoredRow::of_variables(None, serde_json::json!({ "text": text }).to_string())
    }

    fn blocks(rows: &[StoredRow], mut builder: BlockBuilder) -> Vec<RowBlock> {
        let mut blocks: Vec<RowBlock> = rows.iter().filter_map(|row| builder.push(row)).collect();
        blocks.extend(builder.finish());
        assert_eq!(builder.finish(), None);
        blocks
    }

    fn shape(blocks: &[RowBlock]) -> Vec<(u32, u32)> {
        blocks.iter().map(|block| (block.first_offset, block.len)).collect()
    }

    #[test]
    fn a_block_is_full_at_its_row_limit() {
        let rows = vec![row("x"); 513];
        assert_eq!(shape(&blocks(&rows, BlockBuilder::new())), [(0, 256), (256, 256), (512, 1)]);
        assert_eq!(shape(&blocks(&rows[..5], BlockBuilder::with_rows(2))), [(0, 2), (2, 2), (4, 1)]);
        assert_eq!(shape(&blocks(&rows[..2], BlockBuilder::with_rows(0))), [(0, 1), (1, 1)]);
        assert!(blocks(&[], BlockBuilder::new()).is_empty());
    }

    #[test]
    fn a_block_stays_within_its_bytes_unless_one_row_is_longer() {
        let third = row(&"x".repeat(MAX_BYTES / 3));
        let huge = row(&"y".repeat(MAX_BYTES + 10));
        let rows = [third.clone(), third.clone(), third.clone(), huge, third];
        let blocks = blocks(&rows, BlockBuilder::new());
        assert_eq!(shape(&blocks), [(0, 2), (2, 1), (3, 1), (4, 1)]);
        let read: Vec<_> = blocks.iter().flat_map(|block| decode_block(&block.bytes).unwrap()).collect();
        assert!(read == rows);
        for block in &blocks {
            let len = block.uncompressed as usize;
            assert!(len <= MAX_BYTES || block.len == 1);
        }
    }

    #[test]
    fn a_builder_counts_each_part_from_its_beginning() {
        let mut builder = BlockBuilder::with_rows(2);
        assert!(builder.push(&row("a")).is_none());
        assert!(builder.push(&row("b")).is_some());
        assert!(builder.push(&row("c")).is_none());
        assert_eq!(builder.finish().map(|block| block.first_offset), Some(2));
        assert!(builder.push(&row("d")).is_none());
        assert_eq!(builder.finish().map(|block| block.first_offset), Some(0));
    }

    #[test]
    fn a_block_tells_the_hashes_of_its_ids_row_by_row() {
        let named = |id: &str| StoredRow { custom_id: Some(id.into()), ..row("x") };
        let rows = [row("x"), named("a"), row("x"), row("x"), row("x"), row("x"), named("b")];
        let ids: Vec<_> =
            blocks(&rows, BlockBuilder::with_rows(3)).into_iter().map(|block| block.ids).collect();
        assert_eq!(ids, [[[0; 8], id_hash("a"), [0; 8]].concat(), Vec::new(), id_hash("b").to_vec()]);
        let third = |id: &str| StoredRow { custom_id: Some(id.into()), ..row(&"x".repeat(MAX_BYTES / 2)) };
        let ids: Vec<_> = blocks(&[third("a"), third("b")], BlockBuilder::new())
            .into_iter()
            .map(|block| block.ids)
            .collect();
        assert_eq!(ids, [id_hash("a"), id_hash("b")]);
    }

    #[test]
    fn a_range_gives_exactly_its_rows() {
        let rows: Vec<_> = (0..10).map(|n| row(&n.to_string())).collect();
        let block = blocks(&rows, BlockBuilder::new()).remove(0);
        assert_eq!(decode_range(&block.bytes, 3, 4).unwrap(), rows[3..7]);
        assert_eq!(decode_range(&block.bytes, 10, 0).unwrap(), []);
        assert!(decode_range(&block.bytes, 8, 3).is_err());
        assert!(decode_range(&block.bytes, 11, 1).is_err());
    }

    #[test]
    fn damage_of_every_byte_is_seen() {
        let rows: Vec<_> = (0..20).map(|n| row(&format!("row {n}"))).collect();
        let block = blocks(&rows, BlockBuilder::new()).remove(0);
        for at in 0..block.bytes.len() {
            let mut bytes = block.bytes.clone();
            bytes[at] ^= 0x55;
            // A flipped bit may still describe the same content (an unused header bit), never another one.
            assert!(decode_block(&bytes).map_or(true, |read| read == rows), "byte {at}");
            assert!(decode_block(&block.bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_bound() {
        let zeros = vec![b'0'; MAX_DECODED_BYTES + 1];
        let told = zstd::bulk::compress(&zeros, 1).unwrap();
        assert!(told.len() < 100_000);
        assert_eq!(decode_block(&told), Err(CorruptBlock("it is larger than a block can be")));
        // A stream tells no size in its header.
        let untold = zstd::stream::encode_all(&zeros[..], 1).unwrap();
        assert_eq!(decode_block(&untold), Err(CorruptBlock("it is larger than a block can be")));
        let small = zstd::stream::encode_all(&b"{\"a\":1}\n"[..], 1).unwrap();
        assert_eq!(decode_block(&small).unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn rows_survive_their_blocks(texts in proptest::collection::vec((proptest::option::of(".{1,20}"), ".{0,60}"), 0..60), per_block in 1..20u32) {
            let rows: Vec<_> = texts.iter().map(|(id, text)| StoredRow { custom_id: id.clone(), ..row(text) }).collect();
            let blocks = blocks(&rows, BlockBuilder::with_rows(per_block));
            let read: Vec<_> = blocks.iter().flat_map(|block| decode_block(&block.bytes).unwrap()).collect();
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode_block(&bytes).is_err());
        }
    }
}
