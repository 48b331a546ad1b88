//! Counts of batches and accounts of workers, at most a second old, so that many watchers cost as much as one.
//!
//! A batch is counted by one caller at a time; the others wait for its result. Final batches are never counted: their counts are
//! frozen with them. Start at [`cached`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use promptmill_domain::{Batch, BatchId, WorkerReport};
use promptmill_ports::{Progress, StoreResult};
use promptmill_runtime::Engine;
use tokio::time::Instant;

use crate::App;

/// How old counts may be.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Batches that are remembered before those nobody asked for lately are forgotten.
const MAX_BATCHES: usize = 4096;

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
    batches: Mutex<HashMap<BatchId, Arc<Slot<Counted>>>>,
    reports: Slot<Arc<[WorkerReport]>>,
}

/// A value that one caller at a time makes anew when it is too old.
struct Slot<T>(tokio::sync::Mutex<Option<(Instant, T)>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(None))
    }
}

impl<T: Clone> Slot<T> {
    async fn get(&self, make: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        let mut held = self.0.lock().await;
        if let Some((_, value)) = held.as_ref().filter(|(made, _)| made.elapsed() < MAX_AGE) {
            return Ok(value.clone());
        }
        let begun = Instant::now();
        let value = make.await?;
        *held = Some((begun, value.clone()));
        Ok(value)
    }

    /// Whether nobody needs it: nobody is at it, and what it holds is too old.
    fn is_idle(&self) -> bool {
        self.0.try_lock().is_ok_and(|held| held.as_ref().is_none_or(|(made, _)| made.elapsed() >= MAX_AGE))
    }
}

impl ProgressCache {
    async fn of_batch(&self, engine: &Engine, batch: &Batch) -> StoreResult<Counted> {
        if let (Some(counts), Some(finished_ms)) = (&batch.final_counts, batch.finished_ms) {
            let progress = Progress { state: batch.state.clone(), counts: counts.clone(), open_chunks: 0 };
            return Ok((progress, finished_ms));
        }
        let slot = self.slot(batch.id);
        let count = async {
            let now_ms = engine.clock.now_ms();
            Ok((engine.store.progress(&batch.tenant, batch.id).await?, now_ms))
        };
        slot.get(count).await
    }

    async fn worker_reports(&self, engine: &Engine) -> StoreResult<Arc<[WorkerReport]>> {
        let read = async {
            let sessions = engine.store.sessions().await?;
            Ok(sessions.into_iter().filter_map(|session| session.report).collect())
        };
        self.reports.get(read).await
    }

    fn slot(&self, batch: BatchId) -> Arc<Slot<Counted>> {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        if batches.len() >= MAX_BATCHES && !batches.contains_key(&batch) {
            batches.retain(|_, slot| Arc::strong_count(slot) > 1 || !slot.is_idle());
            // So many within a second: forgetting some costs counting them again.
            if batches.len() >= MAX_BATCHES {
                batches.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
        }
        batches.entry(batch).or_default().clone()
    }
}

#[cfg(test)]
mod tests;
