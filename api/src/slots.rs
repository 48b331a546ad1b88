//! Values about batches that one caller at a time makes for all who ask, so that many watchers cost as much as one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use promptmill_domain::BatchId;
use tokio::time::Instant;

/// Batches that are remembered before those nobody asked for lately are forgotten, unless it is said otherwise.
const MOST: usize = 4096;

/// What was made longer ago is of no use to anybody.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// A value that is made anew when it is too old for whoever asks.
pub(crate) struct Slot<T>(tokio::sync::Mutex<Option<(Instant, T)>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(None))
    }
}

impl<T: Clone> Slot<T> {
    /// The value, if whoever asks is content with one whose making began then; otherwise what `make` comes to. A failure is not kept.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) async fn get<E>(
        &self,
        is_good: impl Fn(Instant) -> bool,
        make: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut held = self.0.lock().await;
        if let Some((_, value)) = held.as_ref().filter(|(begun, _)| is_good(*begun)) {
            return Ok(value.clone());
        }
        let begun = Instant::now();
        let value = make.await?;
        *held = Some((begun, value.clone()));
        Ok(value)
    }

    /// Whether nobody needs it: nobody is at it, and what it holds is too old.
    fn is_idle(&self) -> bool {
        self.0.try_lock().is_ok_and(|held| held.as_ref().is_none_or(|(begun, _)| begun.elapsed() >= KEPT_FOR))
    }
}

/// A slot for each batch.
pub(crate) struct Slots<T> {
    most: usize,
    by_batch: Mutex<HashMap<BatchId, Arc<Slot<T>>>>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { most: MOST, by_batch: Mutex::default() }
    }
}

impl<T: Clone> Slots<T> {
    /// About so many, where values are large.
    pub(crate) fn with_most(most: usize) -> Self {
        Self { most, by_batch: Mutex::default() }
    }

    /// That of this batch.
    pub(crate) fn of(&self, batch: BatchId) -> Arc<Slot<T>> {
        let mut slots = self.by_batch.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= self.most && !slots.contains_key(&batch) {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !slot.is_idle());
            // So many within a second: forgetting some costs making them again.
            if slots.len() >= self.most {
                slots.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
        }
        slots.entry(batch).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_the_same_time_cost_one_making() {
        let slot: Slot<u32> = Slot::default();
        let made = AtomicU32::new(0);
        let get = || {
            let lasts_a_second = |begun: Instant| begun.elapsed() < Duration::from_secs(1);
            slot.get(lasts_a_second, async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed))
            })
        };
        let all = futures_util::future::join_all((0..100).map(|_| get())).await;
        assert!(all.into_iter().all(|value| value == Ok(0)));
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(get().await, Ok(0));
        // Its age counts from when it was begun: what it says is at most a second old.
        tokio::time::advance(Duration::from_millis(101)).await;
        assert_eq!(get().await, Ok(1));
        assert!(!slot.is_idle());
        tokio::time::advance(Duration::from_millis(701)).await;
        assert!(slot.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_and_not_kept() {
        let slot: Slot<u32> = Slot::default();
        assert_eq!(slot.get(|_| true, async { Err("away") }).await, Err("away"));
        assert_eq!(slot.get(|_| true, async { Ok::<_, ()>(1) }).await, Ok(1));
    }

    #[test]
    fn batches_that_nobody_asks_for_are_forgotten_when_there_are_too_many() {
        let slots: Slots<u32> = Slots::with_most(100);
        let batch = |n: usize| BatchId::from_bytes((n as u128).to_be_bytes());
        let held = slots.of(batch(0));
        (1..300).for_each(|n| drop(slots.of(batch(n))));
        assert!(slots.by_batch.lock().unwrap().len() <= 100);
        assert!(Arc::ptr_eq(&held, &slots.of(batch(0))));
    }
}
