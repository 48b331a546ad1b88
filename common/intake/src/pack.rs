//! Rows to blocks: read, checked, rendered once, compressed and digested. All of it blocks the thread.

use std::fmt::Write as _;
use std::io::Read;
use std::sync::mpsc as mpsc_of_threads;

use promptmill_ports::RowBlock;
use promptmill_rowio::{BlockBuilder, CheckedRow, ReadRow, RowReader, RowRun, RowsDigest, StoredRow};

use crate::refused::{BadRows, Refused};

/// Runs of rows on their way from the thread that reads to the one that packs.
const RUNS_IN_FLIGHT: usize = 4;
/// Rows of a run.
const RUN_ROWS: usize = 64;
/// Bytes of rows after which a run is handed on.
const RUN_BYTES: usize = 256 * 1024;

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Rows.
    pub rows: u32,
    /// Blocks they were packed into.
    pub blocks: u32,
    /// Digest of the rows.
    pub digest: [u8; 32],
}

impl Taken {
    /// The digest as text.
    pub fn digest_text(&self) -> String {
        digest_text(&self.digest)
    }
}

/// A digest as text, hexadecimal.
pub fn digest_text(digest: &[u8; 32]) -> String {
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Packs rows into numbered blocks and digests them.
pub struct Packer {
    builder: BlockBuilder,
    digest: RowsDigest,
    rows: u32,
    blocks: u32,
}

impl Default for Packer {
    /// A packer at the beginning of a part.
    fn default() -> Self {
        Self { builder: BlockBuilder::new(), digest: RowsDigest::new(), rows: 0, blocks: 0 }
    }
}

impl Packer {
    /// Adds a row; gives a block that became full.
    pub fn push<T: AsRef<str>>(&mut self, row: &StoredRow<T>) -> Option<RowBlock> {
        self.digest.push(row);
        self.rows += 1;
        self.builder.push(row).map(|block| self.number(block))
    }

    /// The last block, where rows are left, and what was packed.
    pub fn finish(mut self) -> (Option<RowBlock>, Taken) {
        let last = self.builder.finish().map(|block| self.number(block));
        (last, Taken { rows: self.rows, blocks: self.blocks, digest: self.digest.finish() })
    }

    fn number(&mut self, block: promptmill_rowio::RowBlock) -> RowBlock {
        let seq = self.blocks;
        self.blocks += 1;
        RowBlock { seq, len: block.len, bytes: block.bytes.into(), ids: block.ids.into() }
    }
}

/// Reads every row and hands full blocks to `keep`, which answers whether anyone still wants them. Behind a bad row nothing is kept
/// any more, and reading goes on to tell of the others. Blocks the thread.
pub fn read<R: Read>(reader: RowReader<R>, mut keep: impl FnMut(RowBlock) -> bool) -> Result<Taken, Refused> {
    let mut packer = Packer::default();
    read_rows(reader, |row| packer.push(&row.to_stored()).is_none_or(&mut keep))?;
    packed(packer, keep)
}

/// The same with the packing (compression and digests) on a thread of its own, beside the one that reads, checks and renders: for
/// uploads, which may be long.
pub fn read_and_pack_beside<R: Read>(
    reader: RowReader<R>,
    mut keep: impl FnMut(RowBlock) -> bool + Send,
) -> Result<Taken, Refused> {
    let (hand_on, handed) = mpsc_of_threads::sync_channel::<RowRun>(RUNS_IN_FLIGHT);
    std::thread::scope(|threads| {
        let packing = threads.spawn(move || {
            let mut packer = Packer::default();
            for run in handed {
                for row in run.rows() {
                    if !packer.push(&row).is_none_or(&mut keep) {
                        return Err(Refused::Unwanted);
                    }
                }
            }
            Ok((packer, keep))
        });
        let mut run = RowRun::default();
        let read = read_rows(reader, |row| {
            run.push(row);
            if run.len() < RUN_ROWS && run.bytes() < RUN_BYTES {
                return true;
            }
            hand_on.send(std::mem::take(&mut run)).is_ok()
        });
        // Nobody takes it when the packing ended before.
        let _ = hand_on.send(run);
        drop(hand_on);
        let packing = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read?;
        let (packer, keep) = packing?;
        packed(packer, keep)
    })
}

/// Reads every row and hands the good ones to `take` until one is bad; `take` answers whether anyone still wants them.
pub fn read_rows<R: Read>(
    mut reader: RowReader<R>,
    mut take: impl FnMut(&CheckedRow) -> bool,
) -> Result<(), Refused> {
    let mut bad = BadRows::default();
    while let Some(row) = reader.next_row().map_err(Refused::from)? {
        bad.rows += 1;
        match row {
            ReadRow::Bad(problems) => bad.add(problems.line, problems.problems),
            ReadRow::Row(row) if bad.bad == 0 => {
                if !take(&row) {
                    return Err(Refused::Unwanted);
                }
            }
            ReadRow::Row(_) => {}
        }
    }
    if bad.bad > 0 { Err(Refused::Rows(bad)) } else { Ok(()) }
}

/// Keeps the last block.
fn packed(packer: Packer, mut keep: impl FnMut(RowBlock) -> bool) -> Result<Taken, Refused> {
    let (last, taken) = packer.finish();
    if taken.rows == 0 {
        return Err(Refused::NotRows("there are no rows".to_owned()));
    }
    if !last.is_none_or(&mut keep) {
        return Err(Refused::Unwanted);
    }
    Ok(taken)
}
