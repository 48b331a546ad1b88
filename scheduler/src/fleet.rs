//! What the living workers told with their last beats: how many slots there are, and what is being worked on.

use std::collections::HashMap;
use std::time::Duration;

use promptmill_domain::BatchId;
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;
use tokio::time::Instant;

/// How long an answer is good. Workers beat once a second, but a first one should not have to wait.
const GOOD_FOR: Duration = Duration::from_millis(100);

/// The workers, as they were last looked at.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    slots: u64,
    batches: HashMap<BatchId, InHand>,
    looked: Option<Instant>,
}

/// What workers have of one batch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InHand {
    /// Items begun and not settled.
    pub(crate) items: u64,
    /// Whether it is being worked on, or was a moment ago.
    pub(crate) worked_on: bool,
    /// Items of its chunks, on average; 0 where nobody tells.
    pub(crate) chunk_items: u32,
}

impl Fleet {
    /// Looks again unless that was done a moment ago. Without a worker every look counts: work waits for the first one.
    pub(crate) async fn look(&mut self, engine: &Engine, now: Instant) -> StoreResult<()> {
        if self.slots > 0 && self.looked.is_some_and(|at| now.duration_since(at) < GOOD_FOR) {
            return Ok(());
        }
        let sessions = engine.store.sessions().await?;
        self.looked = Some(now);
        self.slots = 0;
        self.batches.clear();
        for report in sessions.iter().filter_map(|session| session.report.as_ref()) {
            self.slots += u64::from(report.live_slots());
            for of in &report.batches {
                let batch = self.batches.entry(of.batch).or_default();
                batch.items += of.in_hand();
                batch.worked_on |= of.is_worked_on();
                batch.chunk_items = batch.chunk_items.max(of.chunk_items);
            }
        }
        Ok(())
    }

    /// Slots of all living workers.
    pub(crate) fn slots(&self) -> u64 {
        self.slots
    }

    /// What is in the hands of workers.
    pub(crate) fn of(&self, batch: BatchId) -> InHand {
        self.batches.get(&batch).copied().unwrap_or_default()
    }
}
