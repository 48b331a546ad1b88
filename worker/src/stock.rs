//! Chunks that were claimed, by batch: their items are begun in turn among the batches.

use std::collections::VecDeque;
use std::sync::Arc;

use promptmill_domain::BatchId;
use promptmill_pipeline::{Gate, ItemInput};

use crate::active::ActiveBatch;
use crate::settler::LeaseKey;
use crate::slots::Room;

/// Items of one batch begun in a row before it is the next one's turn.
const TURN: usize = 16;

/// A chunk in hand: the items that were not begun yet.
pub(crate) struct Claimed {
    pub(crate) key: LeaseKey,
    pub(crate) batch: Arc<ActiveBatch>,
    pub(crate) items: VecDeque<Unbegun>,
}

/// An item that was not begun yet, and the room its row takes.
pub(crate) struct Unbegun {
    pub(crate) input: ItemInput,
    pub(crate) room: Room,
}

/// Everything claimed and not begun; the batch in front is the next to begin items.
#[derive(Default)]
pub(crate) struct Stock {
    lines: VecDeque<Line>,
    /// Items of the batch in front that were begun in this turn.
    begun_in_turn: usize,
}

/// The chunks of one batch, never empty.
struct Line {
    batch: Arc<ActiveBatch>,
    chunks: VecDeque<Claimed>,
}

impl Claimed {
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.items.len()).unwrap_or(u32::MAX)
    }
}

impl Stock {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Items of the batch that are in hand.
    pub(crate) fn items_of(&self, id: BatchId) -> usize {
        let of_batch = self.lines.iter().filter(|line| line.batch.id == id);
        of_batch.flat_map(|line| &line.chunks).map(|chunk| chunk.items.len()).sum()
    }

    pub(crate) fn add(&mut self, chunk: Claimed) {
        if chunk.items.is_empty() {
            return;
        }
        match self.lines.iter_mut().find(|line| Arc::ptr_eq(&line.batch, &chunk.batch)) {
            Some(line) => line.chunks.push_back(chunk),
            None => {
                self.lines.push_back(Line { batch: chunk.batch.clone(), chunks: VecDeque::from([chunk]) });
            }
        }
    }

    /// The next item of the first batch in turn that may begin one.
    pub(crate) fn next(
        &mut self,
        may_begin: impl Fn(&ActiveBatch) -> bool,
    ) -> Option<(LeaseKey, Arc<ActiveBatch>, Unbegun)> {
        // Once more than there are lines: a batch whose turn ended and that is alone begins the next one.
        for _ in 0..=self.lines.len() {
            let line = self.lines.front_mut()?;
            if self.begun_in_turn < TURN && may_begin(&line.batch) {
                let chunk = line.chunks.front_mut()?;
                let next = (chunk.key, chunk.batch.clone(), chunk.items.pop_front()?);
                self.begun_in_turn += 1;
                if chunk.items.is_empty() {
                    line.chunks.pop_front();
                }
                if line.chunks.is_empty() {
                    self.lines.pop_front();
                    self.begun_in_turn = 0;
                }
                return Some(next);
            }
            self.lines.rotate_left(1);
            self.begun_in_turn = 0;
        }
        None
    }

    /// Takes out the chunks of batches that may not go on.
    pub(crate) fn take_closed(&mut self) -> Vec<Claimed> {
        if self.lines.iter().all(|line| line.batch.is_open()) {
            return vec![];
        }
        let lines = std::mem::take(&mut self.lines);
        let (open, closed): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.batch.is_open());
        self.lines = open.into();
        self.begun_in_turn = 0;
        closed.into_iter().flat_map(|line| line.chunks).collect()
    }

    /// Takes out everything.
    pub(crate) fn take_all(self) -> impl Iterator<Item = Claimed> {
        self.lines.into_iter().flat_map(|line| line.chunks)
    }
}
