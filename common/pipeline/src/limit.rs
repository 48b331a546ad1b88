//! How many calls of one batch may run at the same time, changeable while it runs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The calls of one batch, and how many there may be.
#[derive(Debug, Default)]
pub(crate) struct CallLimit {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    most: Option<u32>,
    held: u32,
}

/// Leave of the batch for one call; given back when dropped.
#[derive(Debug)]
pub(crate) struct BatchPlace<'a>(&'a CallLimit);

impl CallLimit {
    /// Sets the limit, at least one. Calls under way end above a lower one.
    pub(crate) fn set(&self, most: Option<u32>) {
        self.lock().most = most.map(|most| most.max(1));
        self.freed.notify_waiters();
    }

    /// The limit.
    pub(crate) fn most(&self) -> Option<u32> {
        self.lock().most
    }

    /// Whether no more places are held than the limit allows; not so after it was lowered.
    pub(crate) fn is_kept(&self) -> bool {
        let state = self.lock();
        state.most.is_none_or(|most| state.held <= most)
    }

    /// Waits until the batch may make one more call.
    pub(crate) async fn place(&self) -> BatchPlace<'_> {
        loop {
            // Registered before looking, so that a place given back in between is not missed.
            let freed = self.freed.notified();
            {
                let mut state = self.lock();
                if state.most.is_none_or(|most| state.held < most) {
                    state.held += 1;
                    return BatchPlace(self);
                }
            }
            freed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers only: a panic in between leaves them usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BatchPlace<'_> {
    fn drop(&mut self) {
        let limited = {
            let mut state = self.0.lock();
            state.held -= 1;
            state.most.is_some()
        };
        // Without a limit nobody waits, and a stored wake-up would only wake the first who ever does for nothing.
        if limited {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn waits(limit: &CallLimit) -> bool {
        tokio::time::timeout(Duration::from_secs(1), limit.place()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_counts_the_calls_that_began_before_it_was_set() {
        let limit = CallLimit::default();
        let (first, second) = (limit.place().await, limit.place().await);
        limit.set(Some(1));
        drop(first);
        assert!(waits(&limit).await);
        drop(second);
        let third = limit.place().await;
        assert!(waits(&limit).await);
        limit.set(Some(0));
        drop(third);
        drop(limit.place().await);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_goes_on_when_the_limit_is_raised_or_lifted() {
        for most in [Some(2), None] {
            let limit = CallLimit::default();
            limit.set(Some(1));
            let held = limit.place().await;
            let waiting = limit.place();
            tokio::pin!(waiting);
            assert!(tokio::time::timeout(Duration::from_secs(1), &mut waiting).await.is_err());
            limit.set(most);
            assert!(tokio::time::timeout(Duration::from_secs(1), &mut waiting).await.is_ok());
            drop(held);
        }
    }
}
