//! Whether every `custom_id` of a stored upload is its own. The first were compared as they came in; of more, hashes tell candidates in bounded memory, as for a batch.

use promptmill_domain::{RowSetId, TenantId, UploadId};
use promptmill_ports::{RowBlock, RowSets, StoreError, StoreResult};
use promptmill_rowio::{DuplicateSearch, SameHash, decode_range};

use crate::rows_of::KEPT_IDS;

/// Bytes of blocks that are read in one step.
const STEP_BYTES: usize = 4 << 20;

/// An upload of a row set.
struct Stored<'a, S: ?Sized> {
    records: &'a S,
    tenant: &'a TenantId,
    set: RowSetId,
    upload: UploadId,
}

/// Pairs of rows of an upload of `rows` rows that have the same id, by their positions, as far as they are told.
///
/// # Errors
/// Those of the store.
pub async fn same_ids(
    records: &(impl RowSets + ?Sized),
    tenant: &TenantId,
    set: RowSetId,
    upload: UploadId,
    rows: u64,
) -> StoreResult<Vec<(u32, u32)>> {
    if rows <= KEPT_IDS as u64 {
        return Ok(Vec::new());
    }
    let stored = Stored { records, tenant, set, upload };
    let mut search = DuplicateSearch::new(rows);
    // Where each block begins.
    let mut firsts: Vec<(u32, u32)> = Vec::new();
    while search.wants_pass() {
        firsts.clear();
        let mut row = 0;
        let mut from = 0;
        loop {
            let blocks = records.set_blocks(tenant, set, upload, from, STEP_BYTES).await?;
            for RowBlock { seq, len, ids, .. } in &blocks {
                search.add(0, *len, ids);
                firsts.push((row, *seq));
                row += len;
            }
            match blocks.last() {
                Some(last) => from = last.seq + 1,
                None => break,
            }
        }
        search.end_pass();
    }
    let mut same = Vec::new();
    for SameHash { first, second } in search.finish() {
        let (first, second) = (first.row, second.row);
        let id = stored.id_at(&firsts, first).await?;
        if id.is_some() && id == stored.id_at(&firsts, second).await? {
            same.push((first, second));
        }
    }
    Ok(same)
}

impl<S: RowSets + ?Sized> Stored<'_, S> {
    async fn id_at(&self, firsts: &[(u32, u32)], row: u32) -> StoreResult<Option<String>> {
        let at = firsts.partition_point(|(first, _)| *first <= row);
        let Some((first, seq)) = at.checked_sub(1).and_then(|at| firsts.get(at)) else { return Ok(None) };
        let blocks = self.records.set_blocks(self.tenant, self.set, self.upload, *seq, 1).await?;
        let Some(block) = blocks.first() else { return Ok(None) };
        let rows = decode_range(&block.bytes, (row - first) as usize, 1);
        let rows = rows.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        Ok(rows.into_iter().next().and_then(|row| row.custom_id))
    }
}
