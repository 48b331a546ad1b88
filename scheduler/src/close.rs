//! How batches end that no worker ended: chunks of a cancelled or expired one are sealed, a batch whose chunks are all final is closed.

use promptmill_domain::Batch;
use promptmill_ports::StoreResult;
use promptmill_runtime::{Engine, close_batch};

/// Chunks sealed in one step.
const SEAL_STEP: u32 = 200;

/// Seals what must be sealed and closes the batch if nothing of it is open. Answers whether it is closed.
pub(crate) async fn run_once(engine: &Engine, batch: &Batch) -> StoreResult<bool> {
    if batch.state.seals_with().is_some() {
        let now_ms = engine.clock.now_ms();
        while engine.store.seal(&batch.tenant, batch.id, SEAL_STEP, now_ms).await? > 0 {}
    }
    close_batch(engine, &batch.tenant, batch.id).await
}
