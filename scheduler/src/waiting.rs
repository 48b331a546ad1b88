//! Chunks that wait to be admitted, read some at a time.

use std::collections::{HashMap, HashSet, VecDeque};

use promptmill_domain::chunk::SPREAD;
use promptmill_domain::{Batch, BatchId, BatchState, ChunkId};
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;

/// Chunks of a batch read at once, at least.
const PAGE: u32 = 64;

/// What is known of the waiting chunks of each open batch. Chunks stop waiting only by being admitted, hinted as single rows, or sealed, so what was read stays true
/// while one scheduler admits and the batch goes on; where that turns out not to be so it is forgotten and read again.
#[derive(Debug, Default)]
pub(crate) struct Waiting(HashMap<BatchId, Known>);

#[derive(Debug, Default)]
struct Known {
    /// Those that were read and not taken, by number.
    chunks: VecDeque<ChunkId>,
    /// The last one that was read.
    last: Option<ChunkId>,
    /// How many were taken since; they may not be admitted yet.
    taken: usize,
    /// Whether none waits behind them.
    is_all: bool,
}

impl Waiting {
    /// Whether a chunk of the batch may wait.
    pub(crate) fn has_some(&self, batch: BatchId) -> bool {
        self.0.get(&batch).is_none_or(|known| !known.is_all || !known.chunks.is_empty())
    }

    /// Whether nothing is known that says whether one waits.
    pub(crate) fn is_unsure(&self, batch: BatchId) -> bool {
        self.0.get(&batch).is_none_or(|known| !known.is_all && known.chunks.is_empty())
    }

    /// Takes the first `limit` waiting chunks of a batch, fewer where fewer wait.
    pub(crate) async fn take(
        &mut self,
        engine: &Engine,
        batch: &Batch,
        limit: u32,
    ) -> StoreResult<Vec<ChunkId>> {
        let known = self.0.entry(batch.id).or_default();
        let limit = limit as usize;
        if known.chunks.len() < limit && !known.is_all {
            known.read(engine, batch, limit).await?;
        }
        let taken: Vec<_> = known.chunks.drain(..known.chunks.len().min(limit)).collect();
        known.taken += taken.len();
        Ok(taken)
    }

    /// Forgets what is known of the batch.
    pub(crate) fn forget(&mut self, batch: BatchId) {
        self.0.remove(&batch);
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&mut self) {
        self.0.clear();
    }

    /// Forgets all but these.
    pub(crate) fn keep(&mut self, open: &HashSet<BatchId>) {
        self.0.retain(|batch, _| open.contains(batch));
    }
}

impl Known {
    async fn read(&mut self, engine: &Engine, batch: &Batch, limit: usize) -> StoreResult<()> {
        // Of a batch so small that nothing of it was admitted yet, every row is a chunk and waits. Small batches are many, and their
        // first rows should not wait for a question.
        if self.last.is_none() && batch.state == BatchState::Queued && (1..=SPREAD).contains(&batch.total) {
            self.chunks = (0..batch.total).map(|n| ChunkId { batch: batch.id, n }).collect();
            self.is_all = true;
            return Ok(());
        }
        // Those that were read before may wait still in what is answered.
        let beside = u32::try_from(self.chunks.len() + self.taken).unwrap_or(u32::MAX);
        let page = u32::try_from(limit).unwrap_or(u32::MAX).saturating_add(beside).max(PAGE);
        let found = engine.store.waiting(batch.id, page).await?;
        (self.is_all, self.taken) = (found.len() < page as usize, 0);
        let is_new = |chunk: &ChunkId| self.last.is_none_or(|last| *chunk > last);
        let fresh: Vec<_> = found.into_iter().filter(is_new).collect();
        self.last = fresh.last().copied().or(self.last);
        self.chunks.extend(fresh);
        Ok(())
    }
}
