//! Rows into stored blocks: the one way they come into a batch, whether inline, as a part or from another batch.
//!
//! Reading (checking, rendering once, packing) is blocking work; storing follows behind a bounded channel, so a slow store holds the
//! reader back and memory does not grow with the rows. All rows of a part are taken or none. Start at [`take`].

use std::io::Read;
use std::sync::mpsc as mpsc_of_threads;

use promptmill_domain::{BatchId, TenantId, UploadId};
use promptmill_ports::{PartCommit, RowBlock};
use promptmill_rowio::{BlockBuilder, CheckedRow, ReadRow, RowReader, RowRun, RowsDigest, StoredRow};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::refused::{BadRows, NotTaken, Refused};
use super::submit::{quota_of_bytes, room_bytes};
use crate::App;
use crate::problem::{Problem, chain};

/// Blocks of one upload on their way to the store.
const BLOCKS_IN_FLIGHT: usize = 16;

/// Runs of rows on their way from the thread that reads to the one that packs.
const RUNS_IN_FLIGHT: usize = 4;
/// Rows of a run.
const RUN_ROWS: usize = 64;
/// Bytes of rows after which a run is handed on.
const RUN_BYTES: usize = 256 * 1024;

/// Bytes of blocks that are stored in one step, one block at least.
const BYTES_PER_WRITE: usize = 1024 * 1024;

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Rows.
    pub(crate) rows: u32,
    /// Blocks they were packed into.
    pub(crate) blocks: u32,
    /// Digest of the rows.
    pub(crate) digest: [u8; 32],
}

/// Packs rows into numbered blocks and digests them.
pub(crate) struct Packer {
    builder: BlockBuilder,
    digest: RowsDigest,
    rows: u32,
    blocks: u32,
}

impl Packer {
    /// A packer at the beginning of a part.
    pub(crate) fn new() -> Self {
        Self { builder: BlockBuilder::new(), digest: RowsDigest::new(), rows: 0, blocks: 0 }
    }

    /// Adds a row; gives a block that became full.
    pub(crate) fn push<T: AsRef<str>>(&mut self, row: &StoredRow<T>) -> Option<RowBlock> {
        self.digest.push(row);
        self.rows += 1;
        self.builder.push(row).map(|block| self.number(block))
    }

    /// The last block, where rows are left, and what was packed.
    pub(crate) fn finish(mut self) -> (Option<RowBlock>, Taken) {
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
pub(crate) fn read<R: Read>(
    reader: RowReader<R>,
    mut keep: impl FnMut(RowBlock) -> bool,
) -> Result<Taken, Refused> {
    let mut packer = Packer::new();
    read_rows(reader, |row| packer.push(&row.to_stored()).is_none_or(&mut keep))?;
    packed(packer, keep)
}

/// The same with the packing (compression and digests) on a thread of its own, beside the one that reads, checks and renders: for
/// uploads, which may be long.
pub(crate) fn read_and_pack_beside<R: Read>(
    reader: RowReader<R>,
    mut keep: impl FnMut(RowBlock) -> bool + Send,
) -> Result<Taken, Refused> {
    let (hand_on, handed) = mpsc_of_threads::sync_channel::<RowRun>(RUNS_IN_FLIGHT);
    std::thread::scope(|threads| {
        let packing = threads.spawn(move || {
            let mut packer = Packer::new();
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
pub(crate) fn read_rows<R: Read>(
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

/// Where rows go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Whose batch.
    pub(crate) tenant: TenantId,
    /// Which batch; a draft.
    pub(crate) batch: BatchId,
    /// Which part of it.
    pub(crate) part: u32,
}

/// A block on its way to the store, with the room it takes among all of them.
type OnItsWay = (RowBlock, OwnedSemaphorePermit);

/// Takes blocks on the reading side.
pub(crate) struct Keep {
    app: App,
    runtime: Handle,
    blocks: mpsc::Sender<OnItsWay>,
}

impl Keep {
    /// Hands a block on; answers whether anyone still wants blocks. Blocks the thread while the store is behind.
    pub(crate) fn keep(&self, block: RowBlock) -> bool {
        let handed_on = async {
            let room = self.app.batches().room_for_block(cost(&block)).await;
            self.blocks.send((block, room)).await
        };
        self.runtime.block_on(handed_on).is_ok()
    }
}

/// Stores what `reading` keeps, and makes it the content of the part; answers whether it was that before. `reading` runs on a
/// blocking thread. Whatever fails, no part changed and the upload is given up.
pub(crate) async fn take(
    app: &App,
    target: &Target,
    reading: impl FnOnce(Keep) -> Result<Taken, Refused> + Send + 'static,
) -> Result<(Taken, bool), NotTaken> {
    let upload = UploadId::at(app.now_ms(), rand::random());
    let taken = upload_part(app, target, upload, reading).await;
    if !matches!(taken, Ok((_, false))) {
        // What stays behind when this fails goes with the next sweep.
        let dropped = app.engine().store.drop_upload(&target.tenant, target.batch, upload).await;
        if let Err(error) = dropped {
            tracing::debug!(batch.id = %target.batch, error = chain(&error), "an upload was not dropped");
        }
    }
    taken
}

async fn upload_part(
    app: &App,
    target: &Target,
    upload: UploadId,
    reading: impl FnOnce(Keep) -> Result<Taken, Refused> + Send + 'static,
) -> Result<(Taken, bool), NotTaken> {
    let Target { tenant, batch, part, .. } = target;
    let store = &app.engine().store;
    let (keep, blocks) = mpsc::channel(BLOCKS_IN_FLIGHT);
    let keep = Keep { app: app.clone(), runtime: Handle::current(), blocks: keep };
    let reading = tokio::task::spawn_blocking(move || reading(keep));
    put_blocks(app, target, upload, blocks).await?;
    let taken = reading.await.map_err(|error| NotTaken::Problem(Problem::internal(error)))?;
    let taken = taken.map_err(NotTaken::Refused)?;
    // Whoever submits sees the parts as they are before or after this, never in between.
    let _unsubmitted = app.batches().parts_may_change(*batch).await;
    let parts = store.parts(tenant, *batch).await?;
    let same = |earlier: &promptmill_ports::Part| earlier.part == *part && earlier.digest == taken.digest;
    if parts.iter().any(same) {
        return Ok((taken, true));
    }
    let most = app.config().batch_rows;
    let others: u64 = parts.iter().filter(|earlier| earlier.part != *part).map(|earlier| earlier.rows).sum();
    if others + u64::from(taken.rows) > most {
        return Err(NotTaken::Refused(Refused::TooMany { limit: most }));
    }
    let commit = PartCommit { part: *part, upload, blocks: taken.blocks, digest: taken.digest };
    store.commit_part(tenant, *batch, commit).await?;
    Ok((taken, false))
}

/// Stores blocks until no more come. Dropping the receiver is what tells the reading side to stop.
async fn put_blocks(
    app: &App,
    target: &Target,
    upload: UploadId,
    mut blocks: mpsc::Receiver<OnItsWay>,
) -> Result<(), NotTaken> {
    while let Some((first, mut room)) = blocks.recv().await {
        let mut bytes = cost(&first);
        let mut group = vec![first];
        while bytes < BYTES_PER_WRITE
            && let Ok((block, more)) = blocks.try_recv()
        {
            bytes += cost(&block);
            group.push(block);
            room.merge(more);
        }
        // Asked each time, since others fill the quota and the disk meanwhile.
        let room_bytes = room_bytes(app, &target.tenant).await.map_err(NotTaken::Problem)?;
        if bytes as u64 > room_bytes {
            return Err(NotTaken::Problem(quota_of_bytes()));
        }
        app.engine().store.put_rows(&target.tenant, target.batch, upload, group, app.now_ms()).await?;
    }
    Ok(())
}

/// What a block takes of the tenant's bytes.
pub(crate) fn cost(block: &RowBlock) -> usize {
    block.bytes.len() + block.ids.len()
}
