//! How a batch whose chunks are all final comes to its end.

use promptmill_domain::{BatchId, ItemCode, TenantId};
use promptmill_ports::{Signal, StoreResult};

use crate::engine::Engine;

/// Closes the batch if nothing of it is open, and tells of it. Answers whether it is closed.
///
/// # Errors
/// Those of [`close`](promptmill_ports::Close::close).
pub async fn close_batch(engine: &Engine, tenant: &TenantId, batch: BatchId) -> StoreResult<bool> {
    let counts = engine.store.close(tenant, batch, engine.clock.now_ms()).await?;
    if let Some(counts) = &counts {
        tracing::info!(batch.id = %batch, succeeded = counts.all_succeeded(), failed = counts.all_failed(), "batch closed");
        // What workers settled they counted themselves.
        engine.metrics.items_settled(ItemCode::Cancelled, counts.cancelled);
        engine.metrics.items_settled(ItemCode::Expired, counts.expired);
        // Whoever waits for the batch polls as well.
        let _ = engine.signals.publish(Signal::BatchEnded(batch)).await;
    }
    Ok(counts.is_some())
}
