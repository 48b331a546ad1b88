//! Outcomes as events tell them.

use promptmill_domain::{Batch, BatchId, TenantId};
use promptmill_ports::{PageLimit, StoreError, StoreResult, decode_outcome};
use promptmill_rowio::{OutcomeRecord, decode_range};
use promptmill_runtime::Engine;
use serde_json::value::{RawValue, to_raw_value};

/// What is small enough to stand in an event: rows, and bytes of their outcomes as JSON.
const SMALL_ROWS: u32 = 100;
const SMALL_BYTES: usize = 64 * 1024;

/// The clients' own ids of items that ended without an outcome of their own, as they stand in their rows. Those of the chunk that was asked for last are
/// remembered.
#[derive(Debug, Default, Clone)]
pub(super) struct CustomIds {
    base: u32,
    ids: Vec<Option<String>>,
}

impl CustomIds {
    /// That of an item; none where its rows cannot be read, which is told in the log.
    pub(super) async fn get(
        &mut self,
        engine: &Engine,
        tenant: &TenantId,
        batch: BatchId,
        index: u32,
    ) -> StoreResult<Option<String>> {
        let at =
            |known: &Self| Some(index.checked_sub(known.base)? as usize).filter(|at| *at < known.ids.len());
        if at(self).is_none() {
            let block = engine.store.rows(tenant, batch, index).await?;
            let rows = decode_range(&block.bytes, block.rows.skip as usize, block.len as usize);
            let rows = rows.inspect_err(|error| {
                tracing::error!(batch.id = %batch, error = %error, "rows cannot be read; their items are told without their ids");
            });
            let ids = rows.map(|rows| rows.into_iter().map(|row| row.custom_id).collect());
            *self = Self { base: block.base, ids: ids.unwrap_or_else(|_| vec![None; block.len as usize]) };
        }
        Ok(at(self).and_then(|at| self.ids[at].clone()))
    }
}

/// The results of a batch that is over, each as a line of its results; `None` where they are not small.
pub(super) async fn small(engine: &Engine, batch: &Batch) -> StoreResult<Option<Vec<Box<RawValue>>>> {
    if batch.total > SMALL_ROWS {
        return Ok(None);
    }
    let mut lines = Vec::new();
    let mut ids = CustomIds::default();
    let mut bytes = 0;
    let mut from = Some(0);
    while let Some(next) = from {
        let limit = PageLimit { items: SMALL_ROWS, bytes: SMALL_BYTES };
        let page = engine.store.outcomes(&batch.tenant, batch.id, next, limit).await?;
        for stored in page.outcomes {
            let outcome = stored.body.as_deref().map(decode_outcome).transpose().map_err(damaged)?;
            let custom_id = match outcome {
                Some(_) => None,
                None => ids.get(engine, &batch.tenant, batch.id, stored.index).await?,
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
