//! Outcomes as events tell them.

use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{StoreError, StoreResult};
use promptmill_rowio::decode_range;
use promptmill_runtime::Engine;

/// The client's own id of an item that ended without an outcome of its own, as it stands in its row.
pub(super) async fn custom_id(
    engine: &Engine,
    tenant: &TenantId,
    batch: BatchId,
    index: u32,
) -> StoreResult<Option<String>> {
    let block = engine.store.rows(tenant, batch, index).await?;
    let at = index.saturating_sub(block.base) + block.rows.skip;
    let rows =
        decode_range(&block.bytes, at as usize, 1).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(rows.into_iter().next().and_then(|row| row.custom_id))
}
