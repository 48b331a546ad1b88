//! The failed rows of a run, in a batch of their own that is linked to the one before, as if somebody had asked for a retry of that.

use promptmill_domain::{
    Batch, BatchLimits, BatchSpec, ItemFilter, Money, OutcomeName, RetryOf, Tick, UploadId, chunk,
};
use promptmill_intake::{Taken, channel, gather, repack};
use promptmill_ports::{NewBatch, RowBlock, StoreError};
use promptmill_runtime::Engine;
use tokio::sync::mpsc;

use super::rows::{self, To, next_blocks};
use super::start::{NotStarted, moved};
use crate::config::Recurring;

/// Blocks on their way to the store.
const BLOCKS_IN_FLIGHT: usize = 16;

/// Makes and queues the batch that runs the failed rows of the tick's batch before again; answers when.
pub(super) async fn start(
    engine: &Engine,
    recurring: &Recurring,
    tick: &Tick,
    retry: u32,
) -> Result<u64, NotStarted> {
    let (store, tenant) = (&engine.store, &tick.tenant);
    let id = Tick::batch(tick.schedule, tick.at_ms, retry);
    if let Some(queued_ms) = rows::earlier(engine, tenant, id).await? {
        return Ok(queued_ms);
    }
    let source = Tick::batch(tick.schedule, tick.at_ms, retry.saturating_sub(1));
    let source = match store.batch(tenant, source).await {
        Err(StoreError::NotFound) => return Err(NotStarted::never("the batch before was deleted")),
        found => found?,
    };
    let filter = ItemFilter { outcomes: [OutcomeName::Failed].into(), ..ItemFilter::default() };
    let now_ms = engine.clock.now_ms();
    let limits = limits(&source, now_ms)?;
    let mut spec = BatchSpec {
        chunk_rows: chunk::rows_for(limits.max_concurrency),
        retry_of: Some(RetryOf { batch: source.id, filter: filter.clone() }),
        ..source.spec.clone()
    };
    if let Some(webhook) = &mut spec.webhook {
        *webhook = moved(recurring, tenant, source.id, id, webhook)?;
    }
    let failed = source.final_counts.as_ref().map_or(0, promptmill_domain::Counts::all_failed);
    let used = store.usage(tenant, now_ms).await?;
    recurring.quotas.room_bytes(&used)?;
    recurring.quotas.may_submit(&used, failed)?;
    let batch = NewBatch { id, spec, limits, idem_key: None, now_ms };
    let fill = async |upload| put(engine, recurring, &source, &filter, id, upload).await;
    rows::fill_by(engine, tenant, batch, fill).await
}

/// The limits of the run, of whose cost the batch before has used some.
fn limits(source: &Batch, now_ms: u64) -> Result<BatchLimits, NotStarted> {
    let spent = source.final_counts.as_ref().map_or(Money::ZERO, |counts| counts.totals.cost);
    let max_cost = match source.limits.max_cost {
        Some(most) if most <= spent => return Err(NotStarted::never("the run has spent what it may")),
        Some(most) => Some(most.less(spent)),
        None => None,
    };
    let window_ms = source.spec.completion_window_ms;
    let deadline_ms = window_ms.map(|window_ms| now_ms.saturating_add(window_ms));
    Ok(BatchLimits { max_cost, deadline_ms, ..source.limits })
}

/// Stores the failed rows of `source` under an upload of the new batch.
async fn put(
    engine: &Engine,
    recurring: &Recurring,
    source: &Batch,
    filter: &ItemFilter,
    id: promptmill_domain::BatchId,
    upload: UploadId,
) -> Result<Taken, NotStarted> {
    let (send, picked) = channel();
    let (hand_on, mut blocks) = mpsc::channel::<RowBlock>(BLOCKS_IN_FLIGHT);
    let packing = tokio::task::spawn_blocking(move || {
        repack(picked, None, |block| hand_on.blocking_send(block).is_ok())
    });
    let to = To { engine, recurring, tenant: &source.tenant, batch: id, upload };
    let putting = async move {
        // Whoever packs learns by the channel's end that nothing more is wanted.
        while let Some(block) = blocks.recv().await {
            to.put(next_blocks(block, &mut blocks)).await?;
        }
        Ok::<_, NotStarted>(())
    };
    let (gathered, put) = tokio::join!(gather(engine.store.as_ref(), source, filter, send), putting);
    gathered?;
    put?;
    let taken = packing.await.map_err(|_| NotStarted::NotNow("the rows could not be read".to_owned()))?;
    let taken = taken.map_err(|_| NotStarted::never("the rows of the batch before cannot be read"))?;
    if taken.rows == 0 {
        return Err(NotStarted::never("no row of the batch before failed"));
    }
    Ok(taken)
}
