//! The loop for what nobody waits for: submits that were cut short, and what was kept long enough.

use std::collections::HashMap;
use std::time::Duration;

use promptmill_domain::{BatchId, BatchState};
use promptmill_ports::{Signal, StoreError, StoreResult, flow};
use promptmill_runtime::Engine;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::{Keeping, SchedulerConfig};
use crate::retention;

/// How often is looked for submits that were cut short.
const TICK: Duration = Duration::from_secs(1);

/// Keeps house until it is told to stop; then it ends after the step in hand.
pub(crate) async fn run(engine: Engine, config: SchedulerConfig, stopping: CancellationToken) {
    let mut submits = Submits::default();
    let every = config.keeping.as_ref().map_or(TICK, |keeping| keeping.every.min(TICK));
    let mut ticks = interval(every.min(config.finish_submit_after).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kept_since: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = ticks.tick() => {}
        }
        report(submits.run_once(&engine, config.finish_submit_after).await);
        if let Some(keeping) = due(config.keeping.as_ref(), kept_since) {
            report(retention::run_once(&engine, keeping, &stopping).await);
            kept_since = Some(Instant::now());
        }
    }
}

fn due(keeping: Option<&Keeping>, since: Option<Instant>) -> Option<&Keeping> {
    keeping.filter(|keeping| since.is_none_or(|at| at.elapsed() >= keeping.every))
}

fn report(result: StoreResult<()>) {
    match result {
        Ok(()) => {}
        Err(error @ StoreError::Unavailable(_)) => {
            tracing::warn!(error = %error, "the store is away; housekeeping waits");
        }
        Err(error) => tracing::error!(error = %error, "a step of the housekeeping failed"),
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
                    let _ = engine.signals.publish(Signal::BatchChanged(batch.id)).await;
                    let _ = engine.signals.publish(Signal::WorkArrived).await;
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
