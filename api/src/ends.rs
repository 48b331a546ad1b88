//! Who waits for which batch to be final. One task hears the signals for all of them, and reads those that ended together: there are many of
//! both.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use promptmill_domain::{Batch, BatchId, TenantId};
use promptmill_ports::{Signal, Store, StoreResult};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::App;

/// How often the store is asked while a client waits: a signal may be lost.
const POLL: Duration = Duration::from_secs(1);

/// Batches read together.
const TOGETHER: usize = 256;

/// Those who wait; one per process.
#[derive(Default)]
pub(crate) struct Ends(Arc<Waiters>);

#[derive(Default)]
struct Waiters {
    by_batch: Mutex<HashMap<BatchId, Waiter>>,
    number: AtomicU64,
    /// Whether the task that hears the signals was begun.
    is_heard: AtomicBool,
}

/// Whoever waits for a batch; the last one, should the request that makes it run twice.
struct Waiter {
    number: u64,
    tell: oneshot::Sender<Batch>,
}

impl Waiters {
    fn by_batch(&self) -> MutexGuard<'_, HashMap<BatchId, Waiter>> {
        self.by_batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads those of the batches for which somebody waits, and tells them.
    async fn tell(&self, store: &dyn Store, mut ended: Vec<BatchId>) {
        {
            let waiting = self.by_batch();
            ended.retain(|batch| waiting.contains_key(batch));
        }
        for some in ended.chunks(TOGETHER) {
            // One command for all of them: what is final is not counted. Whoever waits asks the store itself before long.
            let Ok(read) = store.assignments(some).await else { return };
            for batch in read.into_iter().map(|of| of.batch).filter(|batch| batch.state.is_final()) {
                if let Some(waiter) = self.by_batch().remove(&batch.id) {
                    let _ = waiter.tell.send(batch);
                }
            }
        }
    }
}

impl Ends {
    /// Begins to hear of the end of a batch that is about to be made, for whoever makes it.
    pub(crate) fn listen(&self, app: &App, batch: BatchId) -> Listening {
        if !self.0.is_heard.swap(true, Ordering::Relaxed) {
            let engine = app.engine();
            tokio::spawn(hear(Arc::downgrade(&self.0), engine.store.clone(), engine.signals.subscribe()));
        }
        let (tell, told) = oneshot::channel();
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        self.0.by_batch().insert(batch, Waiter { number, tell });
        Listening { waiters: self.0.clone(), batch, number, told }
    }
}

async fn hear(waiters: Weak<Waiters>, store: Arc<dyn Store>, mut signals: Receiver<Signal>) {
    loop {
        let mut signal = signals.recv().await;
        let Some(waiters) = waiters.upgrade() else { return };
        let mut ended = Vec::new();
        loop {
            match signal {
                Ok(Signal::BatchEnded(batch)) => ended.push(batch),
                // Whoever waits asks the store before long.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                // Signals are gone for good.
                Err(RecvError::Closed) => return,
            }
            signal = match signals.try_recv() {
                Ok(signal) => Ok(signal),
                Err(TryRecvError::Lagged(lost)) => Err(RecvError::Lagged(lost)),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            };
        }
        waiters.tell(store.as_ref(), ended).await;
    }
}

/// Hears of the end of one batch until it is dropped.
pub(crate) struct Listening {
    waiters: Arc<Waiters>,
    batch: BatchId,
    number: u64,
    told: oneshot::Receiver<Batch>,
}

impl Listening {
    /// The batch when it is final, or as it stands after `wait`, or when the service stops.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn end(mut self, app: &App, tenant: &TenantId, wait: Duration) -> StoreResult<Batch> {
        let until = Instant::now() + wait;
        let mut is_told_of = true;
        loop {
            let is_over = tokio::select! {
                told = &mut self.told, if is_told_of => match told {
                    Ok(batch) => return Ok(batch),
                    // Another one waits instead.
                    Err(_) => {
                        is_told_of = false;
                        false
                    }
                },
                // Not all of them at the same moment.
                () = sleep(POLL.mul_f64(rand::random_range(1.0..1.5))) => false,
                () = sleep_until(until) => true,
                () = app.stopping().cancelled() => true,
            };
            let batch = app.engine().store.batch(tenant, self.batch).await?;
            if is_over || batch.state.is_final() {
                return Ok(batch);
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut waiting = self.waiters.by_batch();
        if waiting.get(&self.batch).is_some_and(|waiter| waiter.number == self.number) {
            waiting.remove(&self.batch);
        }
    }
}
