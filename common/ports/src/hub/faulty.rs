//! The in-memory hub, made unreliable on purpose.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::rate::{LaneLimits, Learned};
use promptmill_domain::{ChunkId, LaneId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::broadcast;

use super::MemoryHub;
use crate::hub_ports::{CallNeed, Denied, HubError, LaneReport, Limiter, Permit, Queue, Signal, Signals};

/// How often what goes wrong, as probabilities from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// A pushed hint, or a signal, is lost.
    pub drop: f64,
    /// A popped hint stays queued as well.
    pub repeat: f64,
    /// A popped hint goes back to the end instead of being given.
    pub delay: f64,
    /// A push empties the whole queue first.
    pub forget: f64,
    /// A call fails as if the hub were away.
    pub fail: f64,
}

/// [`MemoryHub`] with seeded faults: the same seed and calls give the same faults.
#[derive(Debug)]
pub struct FaultyHub {
    hub: MemoryHub,
    faults: Faults,
    dice: Mutex<StdRng>,
}

impl FaultyHub {
    /// A hub that misbehaves as told.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { hub: MemoryHub::new(), faults, dice: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    fn happens(&self, probability: f64) -> bool {
        let mut dice = self.dice.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        dice.random_bool(probability)
    }

    fn maybe_away(&self) -> Result<(), HubError> {
        if self.happens(self.faults.fail) { Err(HubError("the hub was told to fail".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Queue for FaultyHub {
    async fn push(&self, hints: &[(ChunkId, i16)]) -> Result<(), HubError> {
        self.maybe_away()?;
        if self.happens(self.faults.forget) {
            self.hub.forget();
        }
        let kept: Vec<_> = hints.iter().copied().filter(|_| !self.happens(self.faults.drop)).collect();
        self.hub.push(&kept).await
    }

    async fn pop(&self, limit: usize, wait: Duration) -> Result<Vec<(ChunkId, i16)>, HubError> {
        self.maybe_away()?;
        let mut given = Vec::new();
        for (chunk, priority) in self.hub.pop(limit, wait).await? {
            let delayed = self.happens(self.faults.delay);
            if delayed || self.happens(self.faults.repeat) {
                self.hub.push(&[(chunk, i16::MIN)]).await?;
            }
            if !delayed {
                given.push((chunk, priority));
            }
        }
        Ok(given)
    }

    async fn depth(&self) -> Result<usize, HubError> {
        self.maybe_away()?;
        self.hub.depth().await
    }
}

#[async_trait]
impl Limiter for FaultyHub {
    async fn acquire(&self, lane: &LaneId, need: CallNeed, now_ms: u64) -> Result<Permit, Denied> {
        self.maybe_away()?;
        self.hub.acquire(lane, need, now_ms).await
    }

    async fn pause(&self, lane: &LaneId, until_ms: u64) -> Result<(), HubError> {
        self.maybe_away()?;
        self.hub.pause(lane, until_ms).await
    }

    async fn set_concurrency(&self, lane: &LaneId, limit: Option<u32>) -> Result<(), HubError> {
        self.maybe_away()?;
        self.hub.set_concurrency(lane, limit).await
    }

    fn set_rules(&self, lane: &LaneId, limits: LaneLimits, learned: Learned) {
        self.hub.set_rules(lane, limits, learned);
    }

    fn lanes(&self) -> Vec<LaneReport> {
        self.hub.lanes()
    }
}

#[async_trait]
impl Signals for FaultyHub {
    async fn publish(&self, signal: Signal) -> Result<(), HubError> {
        self.maybe_away()?;
        if self.happens(self.faults.drop) {
            return Ok(());
        }
        self.hub.publish(signal).await
    }

    fn subscribe(&self) -> broadcast::Receiver<Signal> {
        self.hub.subscribe()
    }
}
