//! The places among a process's calls, handed out in turn among batches.
//!
//! First come, first served would let the batch with the longest queue of slow calls keep every other one waiting; here each batch that
//! waits gets every n-th place that comes free.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use promptmill_domain::BatchId;
use tokio::sync::oneshot;

/// All places of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    inner: Arc<Inner>,
    count: usize,
}

#[derive(Debug)]
struct Inner(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Nobody waits while one is free.
    free: usize,
    /// Those who wait, by batch; the batch in front is the next to get a place.
    waiting: VecDeque<(BatchId, VecDeque<oneshot::Sender<Place>>)>,
}

/// One place; handed on when dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<Arc<Inner>>);

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        let state = State { free: count, waiting: VecDeque::new() };
        Self { inner: Arc::new(Inner(Mutex::new(state))), count }
    }

    /// Places that are held.
    pub(crate) fn taken(&self) -> usize {
        self.count.saturating_sub(self.inner.lock().free)
    }

    /// A place, if one is free now.
    pub(crate) fn try_take(&self) -> Option<Place> {
        let mut state = self.inner.lock();
        state.free = state.free.checked_sub(1)?;
        Some(Place(Some(self.inner.clone())))
    }

    /// Waits for a place in the batch's turn. Dropping the future gives the turn up.
    pub(crate) async fn take(&self, batch: BatchId) -> Place {
        let come = {
            let mut state = self.inner.lock();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                return Place(Some(self.inner.clone()));
            }
            let (give, come) = oneshot::channel();
            match state.waiting.iter_mut().find(|(of, _)| *of == batch) {
                Some((_, queue)) => queue.push_back(give),
                None => state.waiting.push_back((batch, VecDeque::from([give]))),
            }
            come
        };
        come.await.expect("whoever waits for a place stays in the queue until it is given one")
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves whole values, also when it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who is next; the batch goes to the end of the line.
    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        while let Some((batch, mut queue)) = self.waiting.pop_front() {
            // Those who gave up are passed over.
            while let Some(give) = queue.pop_front() {
                if give.is_closed() {
                    continue;
                }
                if !queue.is_empty() {
                    self.waiting.push_back((batch, queue));
                }
                return Some(give);
            }
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(inner) = self.0.take() else { return };
        let mut place = Self(Some(inner.clone()));
        loop {
            let give = {
                let mut state = inner.lock();
                match state.next() {
                    Some(give) => give,
                    None => {
                        state.free += 1;
                        place.0 = None;
                        return;
                    }
                }
            };
            match give.send(place) {
                Ok(()) => return,
                // It gave up in this moment.
                Err(back) => place = back,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(byte: u8) -> BatchId {
        BatchId::from_bytes([byte; 16])
    }

    #[tokio::test]
    async fn batches_that_wait_get_places_in_turn_however_long_their_queues_are() {
        let places = Places::new(1);
        let held = places.try_take().unwrap();
        assert!(places.try_take().is_none());
        let served = Arc::new(Mutex::new(Vec::new()));
        let waits = [1, 1, 1, 1, 2, 2, 3].map(|of| {
            let (places, served) = (places.clone(), served.clone());
            async move {
                let place = places.take(batch(of)).await;
                served.lock().unwrap().push(of);
                drop(place);
            }
        });
        let all = futures(waits);
        tokio::pin!(all);
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut all).await.is_err());
        drop(held);
        all.await;
        assert_eq!(*served.lock().unwrap(), [1, 2, 3, 1, 2, 1, 1]);
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn a_place_given_to_one_who_gave_up_goes_on_to_the_next() {
        let places = Places::new(1);
        let held = places.try_take().unwrap();
        let mut gone = Box::pin(places.take(batch(1)));
        let mut next = Box::pin(places.take(batch(2)));
        assert!(poll_once(&mut gone).await.is_none());
        assert!(poll_once(&mut next).await.is_none());
        // The place is on its way to the first when that gives up.
        drop(held);
        drop(gone);
        drop(next.await);
        assert_eq!(places.taken(), 0);
        // One who gave up before is passed over.
        let held = places.try_take().unwrap();
        let mut gone = Box::pin(places.take(batch(1)));
        assert!(poll_once(&mut gone).await.is_none());
        drop(gone);
        drop(held);
        assert_eq!(places.taken(), 0);
    }

    async fn futures<const N: usize>(all: [impl Future<Output = ()> + Send + 'static; N]) {
        let mut set = tokio::task::JoinSet::new();
        // Begun one after the other, so that they queue in this order.
        for one in all {
            set.spawn(one);
            tokio::task::yield_now().await;
        }
        set.join_all().await;
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
