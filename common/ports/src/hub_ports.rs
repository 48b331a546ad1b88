//! The hub ports: queue, limiter and signals. Everything in a hub may vanish at any moment; sweeps put it back.

use async_trait::async_trait;
use std::time::Duration;

use promptmill_domain::rate::{CallEnd, LaneLimits, LaneView, Learned, RateHints};
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

/// One call that wants leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallNeed {
    /// The tokens it will take, about.
    pub tokens: u32,
    /// Somebody waits for its reply: it goes before others.
    pub is_interactive: bool,
}

impl CallNeed {
    /// A call of about `tokens` tokens for which nobody waits.
    pub const fn of(tokens: u32) -> Self {
        Self { tokens, is_interactive: false }
    }
}

/// What a call said about its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallReport {
    /// How it came out.
    pub end: CallEnd,
    /// What the provider told of its limits.
    pub hints: RateHints,
    /// The tokens it really took, where that is known.
    pub tokens: Option<u64>,
}

/// How a permit came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermitEnd {
    /// No call was made with it.
    Unused,
    /// The call was given up, and nothing is known of it.
    GivenUp,
    /// The call ended.
    Ended(CallReport),
}

/// Leave to make one call now. The place it holds is given back when it is dropped.
#[must_use = "a permit that is dropped at once limits nothing"]
pub struct Permit {
    give_back: Option<Box<dyn FnOnce(PermitEnd) + Send + Sync>>,
    is_used: bool,
}

impl Permit {
    /// A permit that runs `give_back` at its end.
    pub fn new(give_back: impl FnOnce(PermitEnd) + Send + Sync + 'static) -> Self {
        Self { give_back: Some(Box::new(give_back)), is_used: false }
    }

    /// The call begins. Without that the leave counts as not used.
    pub fn begin(&mut self) {
        self.is_used = true;
    }

    /// The call ended.
    pub fn end(mut self, report: CallReport) {
        if let Some(give_back) = self.give_back.take() {
            give_back(PermitEnd::Ended(report));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(give_back) = self.give_back.take() {
            give_back(if self.is_used { PermitEnd::GivenUp } else { PermitEnd::Unused });
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

/// A lane that learns, as this process knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneReport {
    /// Which lane.
    pub lane: LaneId,
    /// How it stands.
    pub view: LaneView,
    /// What is worth keeping of what it learned.
    pub learned: Learned,
    /// Calls of this process that wait for leave.
    pub waiting: usize,
}

/// What a lane may do, for the whole fleet.
///
/// A lane that nothing was said of gives every permit, but for its pause and the number that [`set_concurrency`](Self::set_concurrency)
/// sets. One that has rules learns from the reports of its permits how often and how many calls its provider takes.
#[async_trait]
pub trait Limiter: Send + Sync {
    /// Waits for leave to make one call on the lane. Interactive calls go first.
    async fn acquire(&self, lane: &LaneId, need: CallNeed, now_ms: u64) -> Result<Permit, Denied>;

    /// Lets nobody begin a call on the lane before `until_ms`. A later pause wins over an earlier one.
    async fn pause(&self, lane: &LaneId, until_ms: u64) -> Result<(), HubError>;

    /// Sets how many calls of the lane may run at the same time; `None` for no limit. A lane that learns sets it itself.
    async fn set_concurrency(&self, lane: &LaneId, limit: Option<u32>) -> Result<(), HubError>;

    /// Makes the lane one that learns, within these limits, and that knows what was learned before. Every process of a fleet says
    /// the same of a lane before it calls on it. Repeatable.
    fn set_rules(&self, lane: &LaneId, limits: LaneLimits, learned: Learned);

    /// The lanes that learn, as far as this process used them.
    fn lanes(&self) -> Vec<LaneReport>;
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
