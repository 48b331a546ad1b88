//! The places among a process's calls, shared evenly among batches.
//!
//! First come, first served would let the batch with the longest queue of slow calls keep every other one waiting; here a place that comes
//! free goes to the batch that holds the fewest of them. Equals get them in turn. So that one which comes beside a large one need not even
//! wait until a slow call ends, there may be some more places, for batches that hold few.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use promptmill_domain::BatchId;
use tokio::sync::oneshot;

/// How many calls a pipeline makes at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    calls: usize,
    reserve: usize,
}

impl Concurrency {
    /// So many at most, of whatever batches; at least one.
    pub const fn of(calls: usize) -> Self {
        Self { calls: if calls == 0 { 1 } else { calls }, reserve: 0 }
    }

    /// So many, and some more for batches that make few calls, so that one which comes beside a large one need not wait until slow calls end: 16, but at
    /// most a quarter, and above 256 a sixteenth. Fewer than 16 are all there are: who says so small a number means it.
    pub fn with_reserve(calls: usize) -> Self {
        let reserve = if calls < 16 { 0 } else { (calls / 16).max(16).min(calls / 4) };
        Self { reserve, ..Self::of(calls) }
    }
}

/// All places of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Nobody waits while fewer places are held than there are calls, nor a batch that holds fewer than the reserve while one of that is left.
    most: Concurrency,
    taken: usize,
    /// Those who wait, by batch; of equals the one in front is the next to get a place.
    waiting: VecDeque<(BatchId, VecDeque<oneshot::Sender<Place>>)>,
    /// How many places each batch holds that holds any.
    held: HashMap<BatchId, usize>,
}

/// One place of a batch; handed on when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    inner: Option<Arc<Inner>>,
    batch: BatchId,
}

impl Places {
    /// A place for each call.
    pub(crate) fn new(most: Concurrency) -> Self {
        let state = State { most, taken: 0, waiting: VecDeque::new(), held: HashMap::new() };
        Self { inner: Arc::new(Inner(Mutex::new(state))) }
    }

    /// Places that are held.
    pub(crate) fn taken(&self) -> usize {
        self.inner.lock().taken
    }

    /// A place for the batch, if one is free now.
    pub(crate) fn try_take(&self, batch: BatchId) -> Option<Place> {
        self.inner.lock().try_hold(batch).then(|| Place { inner: Some(self.inner.clone()), batch })
    }

    /// Waits for a place for the batch. Dropping the future gives the turn up.
    pub(crate) async fn take(&self, batch: BatchId) -> Place {
        let come = {
            let mut state = self.inner.lock();
            if state.try_hold(batch) {
                return Place { inner: Some(self.inner.clone()), batch };
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
    fn held(&self, batch: BatchId) -> usize {
        self.held.get(&batch).copied().unwrap_or(0)
    }

    /// Whether there is a place for a batch that holds so many.
    fn has_one_for(&self, held: usize) -> bool {
        let Concurrency { calls, reserve } = self.most;
        self.taken < calls || (held < reserve && self.taken < calls + reserve)
    }

    fn try_hold(&mut self, batch: BatchId) -> bool {
        let there_is = self.has_one_for(self.held(batch));
        if there_is {
            self.hold(batch);
        }
        there_is
    }

    fn hold(&mut self, batch: BatchId) {
        self.taken += 1;
        *self.held.entry(batch).or_default() += 1;
    }

    fn let_go(&mut self, batch: BatchId) {
        self.taken -= 1;
        if let Entry::Occupied(mut held) = self.held.entry(batch) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }

    /// Who is next, if there is a place, with the batch, which goes to the end of the line.
    fn next(&mut self) -> Option<(BatchId, oneshot::Sender<Place>)> {
        loop {
            let held = self.waiting.iter().map(|(batch, _)| self.held(*batch));
            let (at, held) = held.enumerate().min_by_key(|(_, held)| *held)?;
            if !self.has_one_for(held) {
                return None;
            }
            let (batch, mut queue) = self.waiting.remove(at)?;
            // Those who gave up are passed over.
            while let Some(give) = queue.pop_front() {
                if give.is_closed() {
                    continue;
                }
                if !queue.is_empty() {
                    self.waiting.push_back((batch, queue));
                }
                return Some((batch, give));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let mut holder = self.batch;
        loop {
            let give = {
                let mut state = inner.lock();
                state.let_go(holder);
                let Some((batch, give)) = state.next() else { return };
                state.hold(batch);
                holder = batch;
                give
            };
            let Err(mut back) = give.send(Self { inner: Some(inner.clone()), batch: holder }) else { return };
            // It gave up in this moment; the place is this one's still.
            back.inner = None;
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
        let places = Places::new(Concurrency::of(1));
        let held = places.try_take(batch(9)).unwrap();
        assert!(places.try_take(batch(9)).is_none());
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
    async fn a_batch_that_comes_beside_a_large_one_gets_every_place_until_it_holds_as_many() {
        let places = Places::new(Concurrency::of(6));
        let mut of_large: Vec<_> = (0..6).map(|_| places.try_take(batch(1)).unwrap()).collect();
        let mut queue = tokio::task::JoinSet::new();
        for of in [1, 1, 1, 1, 2, 2, 2, 2] {
            let places = places.clone();
            queue.spawn(async move { places.take(batch(of)).await });
            // Begun one after the other, so that they queue in this order.
            tokio::task::yield_now().await;
        }
        let mut came = Vec::new();
        let mut held = Vec::new();
        for _ in 0..5 {
            drop(of_large.pop());
            let place = queue.join_next().await.unwrap().unwrap();
            came.push(place.batch);
            held.push(place);
        }
        // Three each after three; then the large one is one below, and after that they are even again.
        assert_eq!(came, [2, 2, 2, 1, 1].map(batch));
        drop((of_large, held));
        queue.join_all().await;
        assert!(places.inner.lock().held.is_empty());
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn few_calls_have_no_reserve_and_many_a_small_one() {
        let reserves = [0, 1, 15, 16, 40, 64, 256, 512].map(|calls| Concurrency::with_reserve(calls).reserve);
        assert_eq!(reserves, [0, 0, 0, 4, 10, 16, 16, 32]);
    }

    #[tokio::test]
    async fn a_batch_that_waits_and_falls_below_the_reserve_goes_on() {
        let places = Places::new(Concurrency { calls: 2, reserve: 2 });
        let take = |of: u8| places.try_take(batch(of));
        let mut of_one: Vec<_> = (0..2).map(|_| take(1).unwrap()).collect();
        let of_two = take(2).unwrap();
        let mut gone = Box::pin(places.take(batch(1)));
        let mut next = Box::pin(places.take(batch(1)));
        assert!(poll_once(&mut gone).await.is_none() && poll_once(&mut next).await.is_none());
        // Three of four are held, and this batch held as many as the reserve has until now. Who gave up is passed over.
        drop(gone);
        drop(of_one.pop());
        let next = poll_once(&mut next).await.unwrap();
        assert_eq!(places.taken(), 3);
        drop((of_one, of_two, next));
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn one_that_comes_beside_a_large_one_gets_places_of_the_reserve_and_a_large_one_gets_none() {
        let places = Places::new(Concurrency { calls: 4, reserve: 2 });
        let take = |of: u8| places.try_take(batch(of));
        let mut of_large: Vec<_> = (0..4).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        let mut large = Box::pin(places.take(batch(1)));
        assert!(poll_once(&mut large).await.is_none());
        let mut of_small: Vec<_> = (0..2).map(|_| take(2).unwrap()).collect();
        assert!(take(2).is_none() && take(3).is_none(), "the reserve is used up");
        let mut third = Box::pin(places.take(batch(3)));
        assert!(poll_once(&mut third).await.is_none());
        // The next place is for the one that holds none, and what is free of the reserve then is not for the large one.
        drop(of_large.pop());
        let third = poll_once(&mut third).await.unwrap();
        drop(of_small.pop());
        assert!(poll_once(&mut large).await.is_none());
        assert_eq!(places.taken(), 5);
        // One below the count it may go on.
        drop((third, of_small.pop()));
        let large = poll_once(&mut large).await.unwrap();
        assert_eq!(places.taken(), 4);
        drop((of_large, large));
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn a_place_given_to_one_who_gave_up_goes_on_to_the_next() {
        let places = Places::new(Concurrency::of(1));
        let held = places.try_take(batch(9)).unwrap();
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
        let held = places.try_take(batch(9)).unwrap();
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
