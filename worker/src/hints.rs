//! Which hints the pump takes: a batch of which enough is in hand must not keep those of others from being found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::{BatchId, ChunkId};
use promptmill_ports::{HubError, Signal};
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::active::ActiveBatch;
use crate::batches::Loaded;
use crate::pump::Pump;
use crate::stock::Stock;

/// Once so many hints are to be put back a look ends.
const HINTS_PUT_BACK: usize = 32;

/// Hints taken from the queue at once where it is not known how many are of use.
pub(crate) const HINTS_AT_A_TIME: usize = 16;

/// Items of one batch in hand below which a further chunk of it is welcome.
pub(crate) const FEW_IN_HAND: usize = 64;

/// How a look at the queue begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Hints that are taken first.
    pub(crate) first: usize,
    /// Items that a chunk is taken to have of whose batch nothing is known.
    pub(crate) usual_len: usize,
    /// How long it is waited for the first.
    pub(crate) wait: Duration,
}

/// What a look at the queue brought.
#[derive(Default)]
pub(crate) struct Hints {
    /// The chunks of use, with the priority their hints had.
    pub(crate) wanted: Vec<(ChunkId, i16)>,
    /// Their batches, those that were read for it.
    pub(crate) batches: HashMap<BatchId, Loaded>,
    /// Hints to be put back, with the priority they had.
    back: Vec<(ChunkId, i16)>,
    /// Items of each batch in hand and coming.
    coming: HashMap<BatchId, usize>,
    /// Items of all chunks of use.
    items: usize,
}

impl Pump {
    /// Hints of at most `most` chunks, up to the first whose items fill the free slots, of each batch no more than is of use. Those that are too many are
    /// put back, so that neither they nor those behind them are lost to anyone, and all of them when this process stops meanwhile.
    pub(crate) async fn hints(&self, stock: &Stock, most: usize, look: Look) -> Result<Hints, HubError> {
        let free = self.slots.free();
        let (mut ask, mut wait) = (look.first, look.wait);
        let mut hints = Hints::default();
        while hints.wanted.len() < most && hints.back.len() < HINTS_PUT_BACK && hints.items < free {
            ask = ask.clamp(1, most - hints.wanted.len());
            let popped = tokio::select! {
                popped = self.engine.queue.pop(ask, wait) => popped,
                () = self.gate.stopping().cancelled() => break,
            };
            let popped = match popped {
                Ok(popped) => popped,
                Err(error) if hints.wanted.is_empty() && hints.back.is_empty() => return Err(error),
                // What was taken is still good.
                Err(_) => break,
            };
            let was_all = popped.len() < ask;
            tokio::select! {
                () = self.get_to_know(&popped, &mut hints) => {}
                () = self.gate.stopping().cancelled() => {}
            }
            for (chunk, priority) in popped {
                // A hint may be repeated.
                if hints.wanted.iter().all(|(other, _)| *other != chunk) {
                    self.sort(stock, look.usual_len, free, (chunk, priority), &mut hints);
                }
            }
            if was_all {
                break;
            }
            (ask, wait) = (HINTS_AT_A_TIME, Duration::ZERO);
        }
        if self.gate.stopping().is_cancelled() {
            hints.back.append(&mut hints.wanted);
        }
        if !hints.back.is_empty()
            && let Err(error) = self.engine.queue.push(&hints.back).await
        {
            tracing::debug!(error = %error, "hints could not be put back; the sweep hints them again");
        }
        Ok(hints)
    }

    /// Reads the batches that have further hints, and of which it is not known yet how long their chunks are.
    async fn get_to_know(&self, popped: &[(ChunkId, i16)], hints: &mut Hints) {
        let mut seen = HashSet::new();
        let of_many = |batch: &BatchId| !seen.insert(*batch) || hints.coming.contains_key(batch);
        let batches = popped.iter().map(|(chunk, _)| chunk.batch);
        let many: HashSet<BatchId> = batches.filter(of_many).collect();
        let unread = many.into_iter().filter(|batch| !hints.batches.contains_key(batch)).collect();
        hints.batches.extend(self.batches.get(&unread, vec![], self.batches.told()).await);
    }

    /// Decides whether a hint is of use.
    fn sort(
        &self,
        stock: &Stock,
        usual_len: usize,
        free: usize,
        (chunk, priority): (ChunkId, i16),
        hints: &mut Hints,
    ) {
        let known = match hints.batches.get(&chunk.batch) {
            Some(Ok(batch)) => Some(batch.clone()),
            Some(Err(_)) => None,
            None => self.batches.known(chunk.batch),
        };
        let coming = hints.coming.entry(chunk.batch).or_insert_with(|| stock.items_of(chunk.batch));
        let (enough, len) = match known {
            Some(batch) => (enough(&batch, free), batch.next_chunk_items()),
            // Of one that cannot be worked on here a single chunk is kept from the others.
            None => (1, usual_len),
        };
        if hints.items >= free || *coming >= enough {
            hints.back.push((chunk, priority));
        } else {
            *coming += len;
            hints.items += len;
            hints.wanted.push((chunk, priority));
        }
    }
}

/// Tells `queued` whenever there may be hints of batches that had none, until signals are gone for good.
pub(crate) async fn listen(mut signals: Receiver<Signal>, queued: Arc<Notify>) {
    loop {
        match signals.recv().await {
            Ok(Signal::WorkQueued) | Err(RecvError::Lagged(_)) => queued.notify_one(),
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Items of a batch in hand that are enough for now.
fn enough(batch: &ActiveBatch, free_slots: usize) -> usize {
    batch.useful().map_or(free_slots.max(FEW_IN_HAND), |useful| useful as usize)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::broadcast::channel;

    use super::*;

    #[tokio::test]
    async fn the_pump_is_told_of_queued_work_and_of_signals_that_were_lost_and_of_nothing_else() {
        let (signals, heard) = channel(2);
        let queued = Arc::new(Notify::new());
        let told = || queued.notified().now_or_never().is_some();
        let listening = tokio::spawn(listen(heard, queued.clone()));
        let step = async || {
            while !signals.is_empty() {
                tokio::task::yield_now().await;
            }
            told()
        };
        let other = Signal::ChunkDone(BatchId::from_bytes([1; 16]));
        signals.send(other.clone()).unwrap();
        assert!(!step().await);
        signals.send(Signal::WorkQueued).unwrap();
        assert!(step().await);
        for _ in 0..3 {
            signals.send(other.clone()).unwrap();
        }
        assert!(step().await, "one of three was lost, and may have been that");
        drop(signals);
        listening.await.unwrap();
    }
}
