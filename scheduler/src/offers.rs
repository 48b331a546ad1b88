//! Chunks of single rows that were hinted without being admitted: most of them are done before the store would have said that they may run.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use promptmill_domain::{BatchId, ChunkId};
use tokio::time::Instant;

/// When one that is not done is admitted after all, so that its batch runs for everybody to see and its hint is not all there is of it.
const FIRST: Duration = Duration::from_millis(250);

/// From there to the next time, if it did not move then, and twice as long from each time to the next. A worker has it or had it, or its batch is
/// paused.
const NEXT: Duration = Duration::from_secs(1);

/// Never longer than this.
const MOST: Duration = Duration::from_secs(60);

/// What was hinted and not admitted, as far as is known here.
#[derive(Debug, Default)]
pub(crate) struct Offers(HashMap<ChunkId, Offer>);

#[derive(Debug)]
struct Offer {
    due: Instant,
    /// How long after that it is due again.
    then: Duration,
}

impl Offers {
    /// Notes chunks that are hinted now.
    pub(crate) fn add(&mut self, chunks: &[ChunkId], now: Instant) {
        self.0.extend(chunks.iter().map(|chunk| (*chunk, Offer { due: now + FIRST, then: NEXT })));
    }

    /// Forgets all but those of open batches.
    pub(crate) fn keep(&mut self, open: &HashSet<BatchId>) {
        self.0.retain(|chunk, _| open.contains(&chunk.batch));
    }

    /// Forgets one that was admitted.
    pub(crate) fn remove(&mut self, chunk: ChunkId) {
        self.0.remove(&chunk);
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Those of which it is not known whether a worker took them: once one is due, it is ready for the store to tell of, or taken, or its batch is
    /// paused.
    pub(crate) fn queued(&self) -> impl Iterator<Item = ChunkId> {
        self.0.iter().filter(|(_, offer)| offer.then == NEXT).map(|(chunk, _)| *chunk)
    }

    /// Batches whose only chunk it is, and which run for all that is decided here, whatever the store says yet.
    pub(crate) fn batches(&self) -> HashSet<BatchId> {
        self.0.keys().map(|chunk| chunk.batch).collect()
    }

    /// When the next one is to be admitted.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.0.values().map(|offer| offer.due).min()
    }

    /// Those that are to be admitted now. One that was due before and that a worker tells of is in its hands, and forgotten here.
    pub(crate) fn take_due(&mut self, now: Instant, worked_on: impl Fn(BatchId) -> bool) -> Vec<ChunkId> {
        self.0.retain(|chunk, offer| offer.due > now || offer.then == NEXT || !worked_on(chunk.batch));
        let mut due = Vec::new();
        for (chunk, offer) in self.0.iter_mut().filter(|(_, offer)| offer.due <= now) {
            due.push(*chunk);
            *offer = Offer { due: now + offer.then, then: (offer.then * 2).min(MOST) };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(n: u8) -> ChunkId {
        ChunkId { batch: BatchId::from_bytes([n; 16]), n: 0 }
    }

    #[test]
    fn an_offer_is_due_again_and_again_until_a_worker_tells_of_it_or_it_was_admitted_or_its_batch_ended() {
        let begun = Instant::now();
        let mut offers = Offers::default();
        offers.add(&[chunk(1), chunk(2), chunk(3), chunk(4)], begun);
        assert_eq!(offers.take_due(begun, |_| true), []);
        assert_eq!(offers.queued().count(), 4);
        let mut now = offers.next_due().unwrap();
        assert_eq!(now, begun + FIRST);
        let mut due = offers.take_due(now, |_| true);
        due.sort_unstable();
        assert_eq!(due, [1, 2, 3, 4].map(chunk), "its batch is to run for everybody to see");
        assert_eq!(offers.queued().count(), 0);
        offers.remove(chunk(1));
        offers.keep(&[2, 3].map(|n| chunk(n).batch).into());
        let mut waits = Vec::new();
        for _ in 0..8 {
            let next = offers.next_due().unwrap();
            waits.push((next - now).as_secs());
            now = next;
            assert_eq!(offers.take_due(now, |batch| batch == chunk(2).batch), [chunk(3)]);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(offers.batches(), [chunk(3).batch].into());
    }
}
