//! How batches end: chunks of a cancelled or expired one are sealed, a batch whose chunks are all final is closed.

use promptmill_domain::{Batch, ItemCode};
use promptmill_ports::{Signal, StoreResult};
use promptmill_runtime::Engine;

/// Chunks sealed in one step.
const SEAL_STEP: u32 = 200;

/// Seals what must be sealed and closes the batch if nothing of it is open. Answers whether it is closed.
pub(crate) async fn run_once(engine: &Engine, batch: &Batch) -> StoreResult<bool> {
    let now_ms = engine.clock.now_ms();
    if batch.state.seals_with().is_some() {
        while engine.store.seal(&batch.tenant, batch.id, SEAL_STEP, now_ms).await? > 0 {}
    }
    let counts = engine.store.close(&batch.tenant, batch.id, now_ms).await?;
    if let Some(counts) = &counts {
        tracing::info!(batch.id = %batch.id, succeeded = counts.all_succeeded(), failed = counts.all_failed(), "batch closed");
        // What workers settled they counted themselves.
        engine.metrics.items_settled(ItemCode::Cancelled, counts.cancelled);
        engine.metrics.items_settled(ItemCode::Expired, counts.expired);
        // Whoever waits for the batch polls as well.
        let _ = engine.signals.publish(Signal::BatchEnded(batch.id)).await;
    }
    Ok(counts.is_some())
}
