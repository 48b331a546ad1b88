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
use crate::pump::Pump;
use crate::stock::Stock;

/// Hints that are put back in one look for some of batches of which there is not enough in hand.
const HINTS_PUT_BACK: usize = 32;

/// Hints taken from the queue at once where it is not known how many are of use.
pub(crate) const HINTS_AT_A_TIME: usize = 16;

/// Items of one batch in hand below which a further chunk of it is welcome.
pub(crate) const FEW_IN_HAND: usize = 64;

impl Pump {
    /// Hints of at most `most` chunks whose items together fill the free slots, of each batch no more than is of use; `first` are taken from
    /// the queue to begin with. Those that are too many are put back, so that neither they nor those behind them are lost to anyone.
    pub(crate) async fn hints(
        &self,
        stock: &Stock,
        most: usize,
        first: usize,
        mut wait: Duration,
    ) -> Result<Vec<ChunkId>, HubError> {
        let (mut wanted, mut back): (Vec<ChunkId>, Vec<(ChunkId, i16)>) = (vec![], vec![]);
        let mut coming: HashMap<BatchId, usize> = HashMap::new();
        let free = self.slots.free();
        let (mut ask, mut items) = (first, 0);
        while wanted.len() < most && back.len() < HINTS_PUT_BACK && items < free {
            ask = ask.clamp(1, most - wanted.len());
            let popped = match self.engine.queue.pop(ask, wait).await {
                Ok(popped) => popped,
                Err(error) if wanted.is_empty() && back.is_empty() => return Err(error),
                // What was taken is still good.
                Err(_) => break,
            };
            let was_all = popped.len() < ask;
            self.get_to_know(&popped, &coming).await;
            for chunk in popped {
                let batch = self.batches.known(chunk.batch);
                let coming = coming.entry(chunk.batch).or_insert_with(|| stock.items_of(chunk.batch));
                match batch {
                    Some(batch) if *coming >= enough(&batch, free) => back.push((chunk, batch.priority())),
                    batch => {
                        // A batch with a single hint is read when its chunk is claimed.
                        let len = batch.map_or(1, |batch| batch.next_chunk_items());
                        *coming += len;
                        items += len;
                        wanted.push(chunk);
                    }
                }
            }
            if was_all {
                break;
            }
            (ask, wait) = (HINTS_AT_A_TIME, Duration::ZERO);
        }
        if !back.is_empty()
            && let Err(error) = self.engine.queue.push(&back).await
        {
            tracing::debug!(error = %error, "hints could not be put back; the sweep hints them again");
        }
        Ok(wanted)
    }

    /// Reads the batches that have further hints, and of which it is not known yet how long their chunks are.
    async fn get_to_know(&self, popped: &[ChunkId], coming: &HashMap<BatchId, usize>) {
        let mut seen = HashSet::new();
        let of_many = |chunk: &&ChunkId| !seen.insert(chunk.batch) || coming.contains_key(&chunk.batch);
        let many: HashSet<BatchId> = popped.iter().filter(of_many).map(|chunk| chunk.batch).collect();
        // One that cannot be read is found out again when its chunks were claimed.
        drop(self.batches.get(&many).await);
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
