//! The hub ports: queue, limiter and signals. Everything in a hub may vanish at any moment; sweeps put it back.

use async_trait::async_trait;
use std::time::Duration;

use promptmill_domain::{BatchId, ChunkId, LaneId};
use tokio::sync::broadcast;

/// The hub cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the hub is unavailable")]
pub struct HubError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Hints that chunks may be claimed. A hint may be lost, repeated or late; the store decides.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Adds hints with their priority (larger first; first come first served within one). A chunk that is queued already keeps its place,
    /// except that another priority moves it to where it would stand had it come with that one: who changes often falls behind nobody.
    async fn push(&self, hints: &[(ChunkId, i16)]) -> Result<(), HubError>;

    /// Takes up to `limit` hints with the priority each had, waiting up to `wait` for the first. An empty answer means only that none came.
    async fn pop(&self, limit: usize, wait: Duration) -> Result<Vec<(ChunkId, i16)>, HubError>;

    /// How many hints are queued.
    async fn depth(&self) -> Result<usize, HubError>;
}

/// Leave to make one call now. The place it holds is given back when it is dropped.
#[must_use = "a permit that is dropped at once limits nothing"]
pub struct Permit(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Permit {
    /// A permit that runs `give_back` when dropped.
    pub fn new(give_back: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(give_back)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(give_back) = self.0.take() {
            give_back();
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permit")
    }
}

/// Why no permit was given.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The lane stands still until then (Unix milliseconds).
    #[error("the lane is paused")]
    Paused {
        /// When it goes on.
        until_ms: u64,
    },
    /// The hub is away; without it no new permits are given.
    #[error(transparent)]
    Unavailable(#[from] HubError),
}

/// What a lane may do, for the whole fleet.
#[async_trait]
pub trait Limiter: Send + Sync {
    /// Waits for leave to make one call of about `tokens` tokens on the lane.
    async fn acquire(&self, lane: &LaneId, tokens: u32, now_ms: u64) -> Result<Permit, Denied>;

    /// Lets nobody begin a call on the lane before `until_ms`. A later pause wins over an earlier one.
    async fn pause(&self, lane: &LaneId, until_ms: u64) -> Result<(), HubError>;

    /// Sets how many calls of the lane may run at the same time; `None` for no limit.
    async fn set_concurrency(&self, lane: &LaneId, limit: Option<u32>) -> Result<(), HubError>;
}

/// Something changed that others want to know soon. A lost signal costs a second, never more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A batch was queued: there is something to admit.
    BatchQueued(BatchId),
    /// Hints of batches that had none were queued while others run: whoever has work of those in hand looks for them.
    WorkQueued,
    /// State or limits of a batch that goes on changed.
    BatchChanged(BatchId),
    /// A batch is final.
    BatchEnded(BatchId),
    /// A chunk of the batch is done, so the batch may be.
    ChunkDone(BatchId),
    /// A lane stands still.
    LanePaused {
        /// Which lane.
        lane: LaneId,
        /// Until when, Unix milliseconds.
        until_ms: u64,
    },
}

/// Publish and subscribe.
#[async_trait]
pub trait Signals: Send + Sync {
    /// Tells every subscriber, as far as possible.
    async fn publish(&self, signal: Signal) -> Result<(), HubError>;

    /// What is published from now on. A slow reader loses the oldest.
    fn subscribe(&self) -> broadcast::Receiver<Signal>;
}
