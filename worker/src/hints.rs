//! Which hints the pump takes: a batch of which enough is in hand must not keep those of others from being found.

use std::sync::Arc;
use std::time::Duration;

use promptmill_domain::ChunkId;
use promptmill_ports::{HubError, Signal};
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::active::ActiveBatch;
use crate::pump::Pump;
use crate::stock::Stock;

/// Hints of batches with enough in hand that are passed over in one look for one of another batch.
const HINTS_LOOKED_AT: usize = 32;

/// Items of one batch in hand below which a further chunk of it is welcome.
pub(crate) const FEW_IN_HAND: usize = 64;

impl Pump {
    /// Up to `want` hints of batches of which there is little in hand. Hints of other batches are put back, so that neither they nor those
    /// behind them are lost to anyone.
    pub(crate) async fn hints(
        &self,
        stock: &Stock,
        want: usize,
        usual_len: usize,
        mut wait: Duration,
    ) -> Result<Vec<ChunkId>, HubError> {
        let (mut wanted, mut back): (Vec<ChunkId>, Vec<(ChunkId, i16)>) = (vec![], vec![]);
        let free = self.slots.free();
        while wanted.len() < want && back.len() < HINTS_LOOKED_AT {
            let popped = match self.engine.queue.pop(want - wanted.len(), wait).await {
                Ok(popped) if popped.is_empty() => break,
                Ok(popped) => popped,
                Err(error) if wanted.is_empty() && back.is_empty() => return Err(error),
                // What was taken is still good.
                Err(_) => break,
            };
            for chunk in popped {
                let coming = wanted.iter().filter(|other| other.batch == chunk.batch).count() * usual_len;
                match stock.batch(chunk.batch) {
                    Some((batch, in_hand)) if in_hand + coming >= enough(batch, free) => {
                        back.push((chunk, batch.priority()));
                    }
                    _ => wanted.push(chunk),
                }
            }
            wait = Duration::ZERO;
        }
        if !back.is_empty()
            && let Err(error) = self.engine.queue.push(&back).await
        {
            tracing::debug!(error = %error, "hints could not be put back; the sweep hints them again");
        }
        Ok(wanted)
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
    use promptmill_domain::BatchId;
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
