//! Deletes what was kept long enough, in small steps with a rest after each, so that a large batch never holds up other writers.

use std::time::Duration;

use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{Outlived, StoreError, StoreResult};
use promptmill_runtime::Engine;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::Keeping;
use crate::lead::Lead;

/// Batches that are looked up at once.
const BATCHES: u32 = 16;

/// Records that are forgotten in one step.
const STEP: u32 = 500;

/// Deletes what is due, now and then, until it is told to stop; then it ends after the step in hand.
pub(crate) async fn run(engine: Engine, keeping: Keeping, lead: Lead, stopping: CancellationToken) {
    let mut ticks = interval(keeping.every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        if !lead.is_ours() {
            continue;
        }
        match run_once(&engine, &keeping, &stopping).await {
            Ok(()) => {}
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(error = %error, "the store is away; nothing is deleted");
            }
            Err(error) => tracing::error!(error = %error, "a step of the retention failed"),
        }
    }
}

/// Deletes everything that is due. Ends early when `stopping` is told; what is left is found again.
async fn run_once(engine: &Engine, keeping: &Keeping, stopping: &CancellationToken) -> StoreResult<()> {
    let now_ms = engine.clock.now_ms();
    let before = |kept: Duration| now_ms.saturating_sub(millis(kept));
    let pace = Pace { rest: keeping.rest, stopping };
    let (store, records) = (&engine.store, &engine.records);
    while pace.again(store.drop_stale_uploads(before(keeping.uploads)).await? > 0).await {}
    while pace.again(store.forget_budgets(before(keeping.budgets)).await? > 0).await {}
    while pace.again(store.forget_replies(&Outlived::Before(before(keeping.replies))).await? > 0).await {}
    batches(engine, keeping, now_ms, &pace).await?;
    while pace.again(records.forget_claims(before(keeping.claims), STEP).await? == STEP).await {}
    while pace.again(records.forget_generations(before(keeping.generations), STEP).await? == STEP).await {}
    while pace.again(records.forget_deliveries(before(keeping.deliveries), STEP).await? == STEP).await {}
    while pace.again(records.forget_ticks(before(keeping.ticks), STEP).await? == STEP).await {}
    while pace.again(records.drop_set_uploads(before(keeping.uploads), STEP).await? > 0).await {}
    Ok(())
}

struct Pace<'a> {
    rest: Duration,
    stopping: &'a CancellationToken,
}

impl Pace<'_> {
    /// Rests where there is more to do. Answers whether to go on.
    async fn again(&self, more: bool) -> bool {
        more && self.stopping.run_until_cancelled(tokio::time::sleep(self.rest)).await.is_some()
    }
}

async fn batches(engine: &Engine, keeping: &Keeping, now_ms: u64, pace: &Pace<'_>) -> StoreResult<()> {
    let drafts_before_ms = now_ms.saturating_sub(millis(keeping.drafts));
    loop {
        let outlived =
            engine.store.outlived(now_ms, millis(keeping.batches), drafts_before_ms, BATCHES).await?;
        let mut deleted = 0;
        for (tenant, batch) in &outlived {
            match delete(engine, tenant, *batch, pace).await {
                Ok(true) => deleted += 1,
                Ok(false) => return Ok(()),
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // The others must not wait for one that is damaged.
                Err(error) => {
                    tracing::error!(batch.id = %batch, error = %error, "a batch could not be deleted");
                }
            }
        }
        // Where nothing could be deleted the same batches would be found again.
        if deleted == 0 || !pace.again(true).await {
            return Ok(());
        }
    }
}

/// Answers whether the batch is gone; `false` when there was no time for it.
async fn delete(engine: &Engine, tenant: &TenantId, batch: BatchId, pace: &Pace<'_>) -> StoreResult<bool> {
    loop {
        match engine.store.delete(tenant, batch).await {
            Ok(true) => {
                tracing::info!(batch.id = %batch, "a batch was kept long enough and is deleted");
                return Ok(true);
            }
            Ok(false) => {}
            // Someone else deleted the rest of it.
            Err(StoreError::NotFound) => return Ok(true),
            Err(error) => return Err(error),
        }
        if !pace.again(true).await {
            return Ok(false);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
