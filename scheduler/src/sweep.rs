//! Puts back what the hub lost, and wakes what waited long enough.

use std::collections::HashMap;

use promptmill_domain::{Batch, BatchId, ChunkId};
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;

use crate::admit::Ranks;
use crate::ready::before_all;

/// Records handled in one step.
const STEP: u32 = 500;

/// Moves parked chunks that are due to ready and hints them. Answers how many.
pub(crate) async fn wake(engine: &Engine, batches: &[Batch], ranks: &Ranks) -> StoreResult<usize> {
    let woken = engine.store.wake(STEP, engine.clock.now_ms()).await?;
    let count = woken.len();
    hint(engine, batches, ranks, woken).await;
    Ok(count)
}

/// Hints every chunk that is ready, whether or not its hint is still queued: a chunk is queued at most once.
pub(crate) async fn rehint(engine: &Engine, batches: &[Batch], ranks: &Ranks) -> StoreResult<()> {
    if batches.is_empty() {
        return Ok(());
    }
    let mut after = before_all(batches.iter().map(|batch| batch.id));
    loop {
        let ready = engine.store.ready(after, STEP).await?;
        let Some(last) = ready.last() else { return Ok(()) };
        after = Some(*last);
        hint(engine, batches, ranks, ready).await;
    }
}

/// Hints those of the chunks whose batches may begin one.
pub(crate) async fn hint(engine: &Engine, batches: &[Batch], ranks: &Ranks, chunks: Vec<ChunkId>) {
    if chunks.is_empty() {
        return;
    }
    let running: HashMap<BatchId, i16> = batches
        .iter()
        .filter(|batch| batch.state.may_begin())
        .map(|batch| (batch.id, ranks.get(&batch.id).copied().unwrap_or(batch.limits.priority)))
        .collect();
    let hints: Vec<_> =
        chunks.into_iter().filter_map(|chunk| running.get(&chunk.batch).map(|rank| (chunk, *rank))).collect();
    if let Err(error) = engine.queue.push(&hints).await {
        tracing::warn!(error = %error, "hints could not be queued; the next sweep tries again");
    }
}
