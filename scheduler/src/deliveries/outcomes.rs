//! Outcomes as events tell them.

use promptmill_domain::{Batch, BatchId, TenantId};
use promptmill_ports::{PageLimit, StoreError, StoreResult, decode_outcome};
use promptmill_rowio::{OutcomeRecord, decode_range};
use promptmill_runtime::Engine;
use serde_json::value::{RawValue, to_raw_value};

/// What is small enough to stand in an event: rows, and bytes of their outcomes as JSON.
const SMALL_ROWS: u32 = 100;
const SMALL_BYTES: usize = 256 * 1024;

/// The client's own id of an item that ended without an outcome of its own, as it stands in its row.
pub(super) async fn custom_id(
    engine: &Engine,
    tenant: &TenantId,
    batch: BatchId,
    index: u32,
) -> StoreResult<Option<String>> {
    let block = engine.store.rows(tenant, batch, index).await?;
    let at = index.saturating_sub(block.base) + block.rows.skip;
    let rows = decode_range(&block.bytes, at as usize, 1).map_err(damaged)?;
    Ok(rows.into_iter().next().and_then(|row| row.custom_id))
}

/// The results of a batch that is over, each as a line of its results; `None` where they are not small.
pub(super) async fn small(engine: &Engine, batch: &Batch) -> StoreResult<Option<Vec<Box<RawValue>>>> {
    if batch.total > SMALL_ROWS {
        return Ok(None);
    }
    let mut lines = Vec::new();
    let mut bytes = 0;
    let mut from = Some(0);
    while let Some(next) = from {
        let limit = PageLimit { items: SMALL_ROWS, bytes: SMALL_BYTES };
        let page = engine.store.outcomes(&batch.tenant, batch.id, next, limit).await?;
        for stored in page.outcomes {
            let outcome = stored.body.as_deref().map(decode_outcome).transpose().map_err(damaged)?;
            let custom_id = match outcome {
                Some(_) => None,
                None => custom_id(engine, &batch.tenant, batch.id, stored.index).await?,
            };
            let record = OutcomeRecord::of(stored.index, stored.code, outcome.as_ref(), custom_id.as_deref());
            let line = to_raw_value(&record).map_err(damaged)?;
            bytes += line.get().len();
            if bytes > SMALL_BYTES {
                return Ok(None);
            }
            lines.push(line);
        }
        from = page.next;
    }
    Ok(Some(lines))
}

fn damaged(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(error.to_string())
}
