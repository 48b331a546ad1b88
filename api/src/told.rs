//! Who is to be told when a batch changes. One task hears the signals for all who wait: there are many of both.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use promptmill_domain::BatchId;
use promptmill_ports::Signal;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::App;

/// Those who are to be told; one per process.
#[derive(Default)]
pub(crate) struct Listeners(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// When each batch was told of last.
    by_batch: Mutex<HashMap<BatchId, watch::Sender<Instant>>>,
    /// Whether the task that hears the signals was begun.
    is_heard: AtomicBool,
}

impl Inner {
    fn by_batch(&self) -> MutexGuard<'_, HashMap<BatchId, watch::Sender<Instant>>> {
        self.by_batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, batch: BatchId) {
        if let Some(listeners) = self.by_batch().get(&batch) {
            listeners.send_replace(Instant::now());
        }
    }

    fn tell_all(&self) {
        for listeners in self.by_batch().values() {
            listeners.send_replace(Instant::now());
        }
    }
}

impl Listeners {
    /// Begins to listen for changes of the batch.
    pub(crate) fn listen(&self, app: &App, batch: BatchId) -> Listener {
        if !self.0.is_heard.swap(true, Ordering::Relaxed) {
            tokio::spawn(hear(Arc::downgrade(&self.0), app.engine().signals.subscribe()));
        }
        let told = {
            let mut by_batch = self.0.by_batch();
            by_batch.entry(batch).or_insert_with(|| watch::channel(Instant::now()).0).subscribe()
        };
        Listener { listeners: self.0.clone(), batch, told: Some(told) }
    }
}

/// Listens for changes of one batch until it is dropped.
pub(crate) struct Listener {
    listeners: Arc<Inner>,
    batch: BatchId,
    /// There until it is dropped.
    told: Option<watch::Receiver<Instant>>,
}

impl Listener {
    /// Waits until the batch is told of, unless it was since this was asked last, and answers when that was. Never, once signals are gone for good.
    pub(crate) async fn told(&mut self) -> Instant {
        if let Some(told) = &mut self.told
            && told.changed().await.is_ok()
        {
            return *told.borrow_and_update();
        }
        std::future::pending().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut by_batch = self.listeners.by_batch();
        // Under the lock, so that of two that go at the same time one is the last.
        self.told = None;
        if by_batch.get(&self.batch).is_some_and(|listeners| listeners.receiver_count() == 0) {
            by_batch.remove(&self.batch);
        }
    }
}

async fn hear(listeners: Weak<Inner>, mut signals: Receiver<Signal>) {
    loop {
        let signal = signals.recv().await;
        let Some(listeners) = listeners.upgrade() else { return };
        match signal {
            Ok(
                Signal::BatchQueued(batch)
                | Signal::BatchChanged(batch)
                | Signal::BatchEnded(batch)
                | Signal::ChunkDone(batch),
            ) => listeners.tell(batch),
            Ok(Signal::WorkQueued | Signal::LanePaused { .. }) => {}
            // Some were lost, and any batch's may be among them.
            Err(RecvError::Lagged(_)) => listeners.tell_all(),
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state;

    async fn publish(app: &App, signal: Signal) {
        app.engine().signals.publish(signal).await.unwrap();
    }

    #[tokio::test]
    async fn each_who_listens_is_told_of_its_own_batch_and_is_forgotten_when_it_goes() {
        let (app, _folder) = state::alone();
        let batch = |n| BatchId::from_bytes([n; 16]);
        let (mut one, mut same) = (app.listen(batch(1)), app.listen(batch(1)));
        let mut other = app.listen(batch(2));
        publish(&app, Signal::ChunkDone(batch(3))).await;
        publish(&app, Signal::WorkQueued).await;
        publish(&app, Signal::ChunkDone(batch(1))).await;
        publish(&app, Signal::BatchEnded(batch(1))).await;
        assert_eq!(one.told().await, same.told().await);
        publish(&app, Signal::BatchChanged(batch(2))).await;
        other.told().await;
        drop(one);
        publish(&app, Signal::BatchEnded(batch(1))).await;
        same.told().await;
        assert_eq!(same.listeners.by_batch().len(), 2);
        let inner = same.listeners.clone();
        drop((same, other));
        assert!(inner.by_batch().is_empty());
    }
}
