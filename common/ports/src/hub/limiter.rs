//! Lanes in memory: how many calls run on each, and until when it stands still.

use std::collections::HashMap;
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
            // Registered before looking, so that a place given back in between is not missed.
            let freed = lane.freed.notified();
            {
                let mut state = lock(&lane.state);
                if state.paused_until_ms > now_ms {
                    return Err(Denied::Paused { until_ms: state.paused_until_ms });
                }
                if state.limit.is_none_or(|limit| state.calls < limit) {
                    state.calls += 1;
                    let lane = lane.clone();
                    return Ok(Permit::new(move || {
                        lock(&lane.state).calls -= 1;
                        lane.freed.notify_one();
                    }));
                }
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
