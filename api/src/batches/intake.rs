//! Packed rows into a batch: the one way they come in over HTTP, whether inline, as a part or from another batch.
//!
//! Reading (checking, rendering once, packing) is blocking work; storing follows behind a bounded channel, so a slow store holds the
//! reader back and memory does not grow with the rows. All rows of a part are taken or none. Start at [`take`].

use promptmill_domain::{BatchId, TenantId, UploadId};
use promptmill_intake::{Refused, Taken};
use promptmill_ports::{PartCommit, RowBlock, StoreResult};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::refused::NotTaken;
use super::submit::{quota_of_bytes, room_bytes};
use crate::App;
use crate::problem::{Problem, chain};

/// Blocks of one upload on their way to the store.
const BLOCKS_IN_FLIGHT: usize = 16;

/// Bytes of blocks that are stored in one step, one block at least.
const BYTES_PER_WRITE: usize = 1024 * 1024;

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
    let put = |blocks| store.put_rows(tenant, *batch, upload, blocks, app.now_ms());
    let taken = store_all(app, tenant, reading, put).await?;
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

/// Stores what `reading` keeps by `put`. `reading` runs on a blocking thread.
pub(crate) async fn store_all<F: Future<Output = StoreResult<()>>>(
    app: &App,
    tenant: &TenantId,
    reading: impl FnOnce(Keep) -> Result<Taken, Refused> + Send + 'static,
    put: impl FnMut(Vec<RowBlock>) -> F,
) -> Result<Taken, NotTaken> {
    let (keep, blocks) = mpsc::channel(BLOCKS_IN_FLIGHT);
    let keep = Keep { app: app.clone(), runtime: Handle::current(), blocks: keep };
    let reading = tokio::task::spawn_blocking(move || reading(keep));
    put_blocks(app, tenant, blocks, put).await?;
    let taken = reading.await.map_err(|error| NotTaken::Problem(Problem::internal(error)))?;
    taken.map_err(NotTaken::Refused)
}

/// Stores blocks until no more come. Dropping the receiver is what tells the reading side to stop.
async fn put_blocks<F: Future<Output = StoreResult<()>>>(
    app: &App,
    tenant: &TenantId,
    mut blocks: mpsc::Receiver<OnItsWay>,
    mut put: impl FnMut(Vec<RowBlock>) -> F,
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
        let room_bytes = room_bytes(app, tenant).await.map_err(NotTaken::Problem)?;
        if bytes as u64 > room_bytes {
            return Err(NotTaken::Problem(quota_of_bytes()));
        }
        put(group).await?;
    }
    Ok(())
}

/// What a block takes of the tenant's bytes.
pub(crate) fn cost(block: &RowBlock) -> usize {
    block.bytes.len() + block.ids.len()
}
