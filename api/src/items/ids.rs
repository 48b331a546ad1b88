//! Custom ids of items: an item's own, looked up chunk by chunk, and the item of an id.

use std::sync::Arc;

use promptmill_domain::{Batch, BatchId, TenantId};
use promptmill_ports::{BlockRow, Store, StoreError, StoreResult};
use promptmill_rowio::{CorruptBlock, StoredRow, decode_block, decode_range, id_hash};
use tokio::task::spawn_blocking;

/// Blocks whose hashes are read at once; each has at most 2 KiB of them.
const BLOCKS: u32 = 256;

/// The rows of one batch, a chunk of them held.
pub(super) struct Rows {
    store: Arc<dyn Store>,
    tenant: TenantId,
    batch: BatchId,
    base: u32,
    held: Vec<StoredRow>,
}

impl Rows {
    pub(super) fn of(store: Arc<dyn Store>, batch: &Batch) -> Self {
        Self { store, tenant: batch.tenant.clone(), batch: batch.id, base: 0, held: Vec::new() }
    }

    /// The row of an item.
    ///
    /// # Errors
    /// `NotFound` when there is no such item.
    pub(super) async fn get(&mut self, index: u32) -> StoreResult<&StoredRow> {
        let at = |base: u32, held: &[StoredRow]| {
            index.checked_sub(base).map(|at| at as usize).filter(|at| *at < held.len())
        };
        if at(self.base, &self.held).is_none() {
            let block = self.store.rows(&self.tenant, self.batch, index).await?;
            (self.base, self.held) = decoded(block).await?;
        }
        let at = at(self.base, &self.held);
        at.and_then(|at| self.held.get(at))
            .ok_or_else(|| StoreError::Corrupt(format!("the chunk of item {index} does not hold it")))
    }
}

async fn decoded(block: BlockRow) -> StoreResult<(u32, Vec<StoredRow>)> {
    let read = spawn_blocking(move || {
        let rows = decode_range(&block.bytes, block.rows.skip as usize, block.len as usize)?;
        Ok::<_, CorruptBlock>((block.base, rows))
    });
    read.await.map_err(StoreError::unavailable)?.map_err(|error| corrupt(&error))
}

fn corrupt(error: &CorruptBlock) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

/// The index of the item with that id, if there is one. Reads the hashes of all ids before it, and the block it stands in.
pub(super) async fn index_of(store: &dyn Store, batch: &Batch, custom_id: &str) -> StoreResult<Option<u32>> {
    let wanted = id_hash(custom_id);
    let (mut after, mut first) = (None, 0_u64);
    loop {
        let blocks = store.block_ids(&batch.tenant, batch.id, after, BLOCKS).await?;
        let Some(last) = blocks.last() else { return Ok(None) };
        after = Some((last.part, last.seq));
        for block in blocks {
            let alike = block.ids.chunks_exact(wanted.len()).enumerate().filter(|(_, hash)| **hash == wanted);
            for (at, _) in alike {
                // Hashes of eight bytes may be alike by chance, so the row has the last word.
                let bytes = store.block(&batch.tenant, batch.id, block.part, block.seq).await?;
                let read =
                    spawn_blocking(move || decode_block(&bytes)).await.map_err(StoreError::unavailable)?;
                let rows = read.map_err(|error| corrupt(&error))?;
                if rows.get(at).is_some_and(|row| row.custom_id.as_deref() == Some(custom_id)) {
                    return Ok(u32::try_from(first + at as u64).ok());
                }
            }
            first += u64::from(block.len);
        }
    }
}
