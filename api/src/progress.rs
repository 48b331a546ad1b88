//! Counts of batches and accounts of workers, at most a second old, so that many watchers cost as much as one.
//!
//! A batch is counted by one caller at a time; the others wait for its result. Final batches are never counted: their counts are
//! frozen with them. Start at [`cached`].

use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{Batch, WorkerReport};
use promptmill_ports::{Progress, StoreResult};
use promptmill_runtime::Engine;
use tokio::time::Instant;

use crate::App;
use crate::slots::{Slot, Slots};

/// How old counts may be.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Counts of `batch` that are at most a second old, and when they were taken (Unix milliseconds).
///
/// # Errors
/// The store's.
pub(crate) async fn cached(app: &App, batch: &Batch) -> StoreResult<Counted> {
    app.progress().of_batch(app.engine(), batch).await
}

/// What every living worker told with its last beat, at most a second old.
///
/// # Errors
/// The store's.
pub(crate) async fn reports(app: &App) -> StoreResult<Arc<[WorkerReport]>> {
    app.progress().worker_reports(app.engine()).await
}

/// Counts, and when they were taken (Unix milliseconds).
type Counted = (Progress, u64);

/// The cache; one per process.
#[derive(Default)]
pub(crate) struct ProgressCache {
    batches: Slots<Counted>,
    reports: Slot<Arc<[WorkerReport]>>,
}

impl ProgressCache {
    async fn of_batch(&self, engine: &Engine, batch: &Batch) -> StoreResult<Counted> {
        if let (Some(counts), Some(finished_ms)) = (&batch.final_counts, batch.finished_ms) {
            let progress = Progress { state: batch.state.clone(), counts: counts.clone(), open_chunks: 0 };
            return Ok((progress, finished_ms));
        }
        let slot = self.batches.of(batch.id);
        let count = async {
            let now_ms = engine.clock.now_ms();
            Ok((engine.store.progress(&batch.tenant, batch.id).await?, now_ms))
        };
        slot.get(is_good, count).await
    }

    async fn worker_reports(&self, engine: &Engine) -> StoreResult<Arc<[WorkerReport]>> {
        let read = async {
            let sessions = engine.store.sessions().await?;
            Ok(sessions.into_iter().filter_map(|session| session.report).collect())
        };
        self.reports.get(is_good, read).await
    }
}

fn is_good(begun: Instant) -> bool {
    begun.elapsed() < MAX_AGE
}
