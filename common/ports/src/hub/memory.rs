//! Queue and signals in memory, and the hub that joins them with the limiter.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::rate::{LaneLimits, Learned};
use promptmill_domain::{ChunkId, LaneId};
use tokio::sync::{Notify, broadcast};

use super::limiter::Lanes;
use crate::hub_ports::{CallNeed, Denied, HubError, LaneReport, Limiter, Permit, Queue, Signal, Signals};

/// Signals kept for a slow subscriber before it loses the oldest.
const SIGNAL_BUFFER: usize = 1024;

#[derive(Debug, Default)]
struct Hints {
    /// By (larger priority first, then arrival).
    order: BTreeMap<(i32, u64), ChunkId>,
    queued: HashMap<ChunkId, (i32, u64)>,
    arrivals: u64,
}

/// The hub of one process.
#[derive(Debug)]
pub struct MemoryHub {
    hints: Mutex<Hints>,
    arrived: Notify,
    lanes: Lanes,
    signals: broadcast::Sender<Signal>,
}

impl Default for MemoryHub {
    fn default() -> Self {
        Self {
            hints: Mutex::default(),
            arrived: Notify::new(),
            lanes: Lanes::default(),
            signals: broadcast::Sender::new(SIGNAL_BUFFER),
        }
    }
}

impl MemoryHub {
    /// An empty hub.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets every hint, as a hub that lost its memory would.
    pub(super) fn forget(&self) {
        *self.lock() = Hints::default();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Hints> {
        // A panic while the lock is held leaves a map of hints, and any map of hints is a correct one.
        self.hints.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take(&self, limit: usize) -> Vec<(ChunkId, i16)> {
        let mut hints = self.lock();
        let mut taken = Vec::new();
        while taken.len() < limit {
            let Some(((order, _), chunk)) = hints.order.pop_first() else { break };
            hints.queued.remove(&chunk);
            // It was made of one.
            taken.push((chunk, i16::try_from(-order).unwrap_or_default()));
        }
        taken
    }
}

#[async_trait]
impl Queue for MemoryHub {
    async fn push(&self, hints: &[(ChunkId, i16)]) -> Result<(), HubError> {
        {
            let mut queue = self.lock();
            for (chunk, priority) in hints {
                let order = -i32::from(*priority);
                let arrival = match queue.queued.get(chunk).copied() {
                    Some(key) if key.0 == order => continue,
                    Some(key) => {
                        queue.order.remove(&key);
                        key.1
                    }
                    None => {
                        queue.arrivals += 1;
                        queue.arrivals
                    }
                };
                let key = (order, arrival);
                queue.order.insert(key, *chunk);
                queue.queued.insert(*chunk, key);
            }
        }
        self.arrived.notify_waiters();
        Ok(())
    }

    async fn pop(&self, limit: usize, wait: Duration) -> Result<Vec<(ChunkId, i16)>, HubError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            // Registered before looking, so that a push in between is not missed.
            let arrived = self.arrived.notified();
            let taken = self.take(limit);
            if !taken.is_empty() || limit == 0 {
                return Ok(taken);
            }
            if tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return Ok(self.take(limit));
            }
        }
    }

    async fn depth(&self) -> Result<usize, HubError> {
        Ok(self.lock().order.len())
    }
}

#[async_trait]
impl Limiter for MemoryHub {
    async fn acquire(&self, lane: &LaneId, need: CallNeed, now_ms: u64) -> Result<Permit, Denied> {
        self.lanes.acquire(lane, need, now_ms).await
    }

    async fn pause(&self, lane: &LaneId, until_ms: u64) -> Result<(), HubError> {
        self.lanes.pause(lane, until_ms);
        self.publish(Signal::LanePaused { lane: lane.clone(), until_ms }).await
    }

    async fn set_concurrency(&self, lane: &LaneId, limit: Option<u32>) -> Result<(), HubError> {
        self.lanes.set_concurrency(lane, limit);
        Ok(())
    }

    fn set_rules(&self, lane: &LaneId, limits: LaneLimits, learned: Learned) {
        self.lanes.set_rules(lane, limits, &learned);
    }

    fn lanes(&self) -> Vec<LaneReport> {
        self.lanes.reports()
    }
}

#[async_trait]
impl Signals for MemoryHub {
    async fn publish(&self, signal: Signal) -> Result<(), HubError> {
        // Without a subscriber there is nobody to tell.
        let _ = self.signals.send(signal);
        Ok(())
    }

    fn subscribe(&self) -> broadcast::Receiver<Signal> {
        self.signals.subscribe()
    }
}
