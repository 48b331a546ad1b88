//! Which chunks were admitted, or hinted as single rows, and not taken by a worker, counted by batch.

use std::collections::HashMap;
use std::time::Duration;

use promptmill_domain::{BatchId, ChunkId};
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;
use tokio::time::Instant;

use crate::offers::Offers;

/// Chunks read in one page.
const PAGE: u32 = 500;

/// How long a count is good at most. What was taken meanwhile stands in it still, so it lets in too little and never too much; where that
/// leaves chunks waiting it is taken anew in the next step of the scheduler, which follows at once. Not so a count of more than one page: thousands
/// of chunks are ready after an outage, and then there is nothing to hurry for.
const GOOD_FOR: Duration = Duration::from_millis(100);

/// How long a count that was taken ahead in a step shows all the room there is in it.
const FRESH_FOR: Duration = Duration::from_millis(8);

/// The count, as of the last look, with what was admitted since.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    by_batch: HashMap<BatchId, u32>,
    /// When it was taken.
    since: Option<Instant>,
    /// Whether it took more than one page.
    is_long: bool,
    is_doubted: bool,
    /// Whether it was taken in this step.
    is_fresh: bool,
}

impl Ready {
    /// Counts those of open batches again, which come behind `after`, unless the last count is good still; with those that were `offered`, which the
    /// store does not tell of.
    pub(crate) async fn look(
        &mut self,
        engine: &Engine,
        mut after: Option<ChunkId>,
        offered: &Offers,
        now: Instant,
    ) -> StoreResult<()> {
        let is_good = self.is_long || !self.is_doubted;
        let age = self.since.map(|at| now.duration_since(at));
        if let Some(age) = age.filter(|age| is_good && *age < GOOD_FOR) {
            self.is_fresh &= age < FRESH_FOR;
            return Ok(());
        }
        let mut by_batch = HashMap::new();
        count(&mut by_batch, offered.queued());
        let mut is_long = false;
        loop {
            let ready = engine.store.ready(after, PAGE).await?;
            count(&mut by_batch, ready.iter().copied());
            match ready.last() {
                Some(last) if ready.len() >= PAGE as usize => (after, is_long) = (Some(*last), true),
                _ => break,
            }
        }
        *self = Self { by_batch, since: Some(now), is_long, is_doubted: false, is_fresh: true };
        Ok(())
    }

    /// A step begins.
    pub(crate) fn begin_step(&mut self) {
        self.is_fresh = false;
    }

    /// Notes that no chunk is known to wait for more room.
    pub(crate) fn trust(&mut self) {
        self.is_doubted = false;
    }

    /// Notes that chunks wait for more room than there is by this count.
    pub(crate) fn doubt(&mut self) {
        self.is_doubted = true;
    }

    /// Whether a count that is taken now may show more room.
    pub(crate) fn looks_again(&self) -> bool {
        self.is_doubted && !self.is_fresh && !self.is_long
    }

    /// Notes chunks that were admitted since.
    pub(crate) fn add(&mut self, chunks: &[ChunkId]) {
        count(&mut self.by_batch, chunks.iter().copied());
    }

    /// Chunks of the batch.
    pub(crate) fn of(&self, batch: BatchId) -> u32 {
        self.by_batch.get(&batch).copied().unwrap_or(0)
    }
}

/// Where chunks of these batches begin in the order of chunks. A store may have to pass over what was ready of all batches before them.
pub(crate) fn before_all(batches: impl Iterator<Item = BatchId>) -> Option<ChunkId> {
    batches.min().and_then(ChunkId::just_before)
}

fn count(by_batch: &mut HashMap<BatchId, u32>, chunks: impl Iterator<Item = ChunkId>) {
    for chunk in chunks {
        *by_batch.entry(chunk.batch).or_default() += 1;
    }
}
