//! What only the store and the hub can tell, asked for when somebody scrapes.

use std::time::Duration;

use prometheus::{IntGauge, IntGaugeVec, Registry};
use promptmill_domain::{Batch, BatchState};
use promptmill_ports::StoreResult;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Metrics, gauge, gauges_by};
use crate::engine::Engine;

/// How long an answer is good for, so that no number of scrapers weighs on the store.
const FRESH: Duration = Duration::from_secs(1);

/// Batches whose items are counted at one scrape, the oldest first; counting reads every head of a batch.
const COUNTED_BATCHES: usize = 100;

/// The states an open batch is told apart by.
const OPEN_STATES: [&str; 6] = ["submitting", "queued", "running", "paused", "cancelling", "expiring"];

pub(super) struct Gauges {
    sessions: IntGauge,
    queue_depth: IntGauge,
    batches: IntGaugeVec,
    items: IntGaugeVec,
    oldest_seconds: IntGauge,
    store_up: IntGauge,
    /// When they were set last; held while they are set.
    set: Mutex<Option<Instant>>,
}

/// Open items by where they stand.
#[derive(Default)]
struct OpenItems {
    waiting: u64,
    leased: u64,
    parked: u64,
}

impl Gauges {
    pub(super) fn new(at: &Registry) -> Self {
        let batches = gauges_by(
            at,
            "promptmill_open_batches",
            "Submitted batches that are not final, by state.",
            "state",
        );
        let items = gauges_by(
            at,
            "promptmill_items_open",
            "Items without an outcome, by where they stand: waiting, leased or parked; of the 100 oldest open batches and every queued one.",
            "state",
        );
        for state in OPEN_STATES {
            batches.with_label_values(&[state]).set(0);
        }
        for state in ["waiting", "leased", "parked"] {
            items.with_label_values(&[state]).set(0);
        }
        Self {
            sessions: gauge(at, "promptmill_sessions", "Live sessions of the fleet, workers and others."),
            queue_depth: gauge(at, "promptmill_queue_depth", "Hints of chunks that are queued."),
            batches,
            items,
            oldest_seconds: gauge(
                at,
                "promptmill_oldest_open_seconds",
                "Seconds since the oldest open batch was submitted; 0 when there is none.",
            ),
            store_up: gauge(
                at,
                "promptmill_store_up",
                "Whether the store answered at the last scrape; what it tells is stale when it did not.",
            ),
            set: Mutex::new(None),
        }
    }

    async fn set(&self, engine: &Engine) -> StoreResult<()> {
        self.sessions.set(number(engine.store.sessions().await?.len() as u64));
        match engine.queue.depth().await {
            Ok(depth) => self.queue_depth.set(number(depth as u64)),
            Err(error) => tracing::debug!(error = %error, "the depth of the queue is not known"),
        }
        let batches = engine.store.open_batches().await?;
        for state in OPEN_STATES {
            let count = batches.iter().filter(|batch| batch.state.as_str() == state).count();
            self.batches.with_label_values(&[state]).set(number(count as u64));
        }
        let oldest_ms = batches.iter().map(|batch| batch.submitted_ms.unwrap_or(batch.created_ms)).min();
        let age_ms = oldest_ms.map_or(0, |oldest_ms| engine.clock.now_ms().saturating_sub(oldest_ms));
        self.oldest_seconds.set(number(age_ms / 1_000));
        let open = count(engine, &batches).await?;
        for (state, items) in [("waiting", open.waiting), ("leased", open.leased), ("parked", open.parked)] {
            self.items.with_label_values(&[state]).set(number(items));
        }
        Ok(())
    }
}

impl Metrics {
    /// Sets the gauges of what the store and the hub know. What was set less than a second ago stays as it is; whoever comes while another
    /// sets them waits for it. When the store is away they keep their values and `promptmill_store_up` is 0.
    pub async fn refresh(&self, engine: &Engine) {
        let mut set = self.gauges.set.lock().await;
        if set.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let result = self.gauges.set(engine).await;
        self.gauges.store_up.set(i64::from(result.is_ok()));
        if let Err(error) = result {
            tracing::debug!(error = %error, "the gauges could not be read from the store");
        }
        *set = Some(Instant::now());
    }
}

async fn count(engine: &Engine, batches: &[Batch]) -> StoreResult<OpenItems> {
    let mut open = OpenItems::default();
    let mut counted = 0;
    for batch in batches {
        match batch.state {
            // Nothing of it was admitted, so all of it waits, but for a single row in its first moment; no head need be read.
            BatchState::Queued => open.waiting += u64::from(batch.total),
            BatchState::Running
            | BatchState::Paused { .. }
            | BatchState::Cancelling
            | BatchState::Expiring => {
                if counted == COUNTED_BATCHES {
                    continue;
                }
                counted += 1;
                let counts = match engine.store.progress(&batch.tenant, batch.id).await {
                    Ok(progress) => progress.counts,
                    // It ended and was deleted since the list was read.
                    Err(promptmill_ports::StoreError::NotFound) => continue,
                    Err(error) => return Err(error),
                };
                open.waiting += counts.waiting;
                open.leased += counts.leased;
                open.parked += counts.parked;
            }
            BatchState::Draft
            | BatchState::Submitting
            | BatchState::Completed
            | BatchState::Cancelled
            | BatchState::Expired => {}
        }
    }
    Ok(open)
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
