//! Finishes submits that were cut short.

use std::collections::HashMap;
use std::time::Duration;

use promptmill_domain::{BatchId, BatchState};
use promptmill_ports::{Signal, StoreError, StoreResult, flow};
use promptmill_runtime::Engine;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::lead::Lead;

/// How often is looked at most.
const TICK: Duration = Duration::from_secs(1);

/// Looks for submits that were cut short until it is told to stop; then it ends after the one in hand.
pub(crate) async fn run(engine: Engine, after: Duration, lead: Lead, stopping: CancellationToken) {
    let mut submits = Submits::default();
    let mut ticks = interval(TICK.min(after).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        if !lead.is_ours() {
            continue;
        }
        match submits.run_once(&engine, after).await {
            Ok(()) => {}
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(error = %error, "the store is away; submits wait");
            }
            Err(error) => tracing::error!(error = %error, "submits could not be looked for"),
        }
    }
}

/// Since when batches have been seen in `submitting`, by this scheduler's own clock.
#[derive(Debug, Default)]
struct Submits {
    seen: HashMap<BatchId, Instant>,
}

impl Submits {
    /// Finishes each submit that has been seen for longer than `after`. Whoever began it may still be at it: both end the same.
    async fn run_once(&mut self, engine: &Engine, after: Duration) -> StoreResult<()> {
        let mut open = engine.store.open_batches().await?;
        open.retain(|batch| batch.state == BatchState::Submitting);
        self.seen.retain(|id, _| open.iter().any(|batch| batch.id == *id));
        for batch in open {
            let seen = self.seen.entry(batch.id).or_insert_with(Instant::now);
            if seen.elapsed() < after {
                continue;
            }
            let now_ms = engine.clock.now_ms();
            let lane = &batch.spec.lane;
            match flow::submit(engine.store.as_ref(), &batch.tenant, batch.id, lane, now_ms).await {
                Ok(rows) => {
                    tracing::info!(batch.id = %batch.id, rows, "a submit that was cut short is finished");
                    // Whoever waits for the batch polls as well.
                    let _ = engine.signals.publish(Signal::BatchQueued(batch.id)).await;
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error) => {
                    tracing::error!(batch.id = %batch.id, error = %error, "a submit could not be finished");
                    *seen = Instant::now();
                }
            }
        }
        Ok(())
    }
}
