//! Lanes in memory: how many calls run on each, and until when it stands still.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use promptmill_domain::LaneId;
use tokio::sync::Notify;

use crate::hub_ports::{Denied, Permit};

#[derive(Debug, Default)]
struct Lane {
    state: Mutex<LaneState>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct LaneState {
    calls: u32,
    limit: Option<u32>,
    paused_until_ms: u64,
}

impl Lane {
    /// A permit, or why there is none; `None` where one may come.
    fn ask(self: &Arc<Self>, now_ms: u64) -> Option<Result<Permit, Denied>> {
        let mut state = lock(&self.state);
        if state.paused_until_ms > now_ms {
            return Some(Err(Denied::Paused { until_ms: state.paused_until_ms }));
        }
        if state.limit.is_some_and(|limit| state.calls >= limit) {
            return None;
        }
        state.calls += 1;
        let lane = self.clone();
        Some(Ok(Permit::new(move || {
            lock(&lane.state).calls -= 1;
            lane.freed.notify_one();
        })))
    }
}

/// Every lane this process has heard of.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<LaneId, Arc<Lane>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section below leaves whole values, also when it panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    fn lane(&self, id: &LaneId) -> Arc<Lane> {
        let mut lanes = lock(&self.0);
        if let Some(lane) = lanes.get(id) {
            return lane.clone();
        }
        lanes.entry(id.clone()).or_default().clone()
    }

    pub(super) async fn acquire(&self, id: &LaneId, now_ms: u64) -> Result<Permit, Denied> {
        let lane = self.lane(id);
        loop {
            if let Some(answer) = lane.ask(now_ms) {
                return answer;
            }
            let mut freed = pin!(lane.freed.notified());
            // In line before looking again, so that of several places given back in between none stays unused.
            freed.as_mut().enable();
            if let Some(answer) = lane.ask(now_ms) {
                return answer;
            }
            freed.await;
        }
    }

    pub(super) fn pause(&self, id: &LaneId, until_ms: u64) {
        let lane = self.lane(id);
        {
            let mut state = lock(&lane.state);
            state.paused_until_ms = state.paused_until_ms.max(until_ms);
        }
        // Those who wait for a place must learn that the lane stands still.
        lane.freed.notify_waiters();
    }

    pub(super) fn set_concurrency(&self, id: &LaneId, limit: Option<u32>) {
        let lane = self.lane(id);
        lock(&lane.state).limit = limit;
        lane.freed.notify_waiters();
    }
}
