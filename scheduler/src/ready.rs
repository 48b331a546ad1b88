//! Which chunks were admitted and not taken by a worker, counted by batch.

use std::collections::HashMap;
use std::time::Duration;

use promptmill_domain::{BatchId, ChunkId};
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;
use tokio::time::Instant;

/// Chunks read in one step.
const STEP: u32 = 500;

/// How long a count of more than one step is good: thousands of chunks are ready after an outage, and then there is nothing to hurry for.
const LONG_IS_GOOD_FOR: Duration = Duration::from_millis(100);

/// The count, as of the last look.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    by_batch: HashMap<BatchId, u32>,
    /// When it was taken, if it took more than one step.
    long_since: Option<Instant>,
}

impl Ready {
    /// Counts again, unless that is a long count and was done a moment ago.
    pub(crate) async fn look(&mut self, engine: &Engine, now: Instant) -> StoreResult<()> {
        if self.long_since.is_some_and(|at| now.duration_since(at) < LONG_IS_GOOD_FOR) {
            return Ok(());
        }
        let mut by_batch = HashMap::new();
        let mut after = None;
        loop {
            let ready = engine.store.ready(after, STEP).await?;
            count(&mut by_batch, &ready);
            match ready.last() {
                Some(last) if ready.len() >= STEP as usize => after = Some(*last),
                _ => break,
            }
        }
        self.by_batch = by_batch;
        self.long_since = after.map(|_| now);
        Ok(())
    }

    /// Notes chunks that were admitted since.
    pub(crate) fn add(&mut self, chunks: &[ChunkId]) {
        count(&mut self.by_batch, chunks);
    }

    /// Chunks of the batch.
    pub(crate) fn of(&self, batch: BatchId) -> u32 {
        self.by_batch.get(&batch).copied().unwrap_or(0)
    }
}

fn count(by_batch: &mut HashMap<BatchId, u32>, chunks: &[ChunkId]) {
    for chunk in chunks {
        *by_batch.entry(chunk.batch).or_default() += 1;
    }
}
