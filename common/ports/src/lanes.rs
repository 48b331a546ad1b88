//! What is kept of lanes, so that processes that begin anew, or a hub that lost its memory, need not learn it again.

use async_trait::async_trait;
use promptmill_domain::LaneId;
use promptmill_domain::rate::Learned;
use serde::{Deserialize, Serialize};

use crate::StoreResult;

/// One lane as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneRecord {
    /// Which lane.
    pub lane: LaneId,
    /// What it learned.
    pub learned: Learned,
    /// Until when it stands still, Unix milliseconds; 0 where it does not.
    pub paused_until_ms: u64,
    /// When this was written, Unix milliseconds.
    pub at_ms: u64,
}

/// What is kept of lanes.
#[async_trait]
pub trait Lanes: Send + Sync {
    /// Every lane there is something of.
    async fn lanes(&self) -> StoreResult<Vec<LaneRecord>>;

    /// Writes these, each atomically. Of two writes of a lane the one with the later `at_ms` stays, but a pause is not shortened by what
    /// was learned at the same time elsewhere: the later end of both is kept.
    async fn keep_lanes(&self, lanes: &[LaneRecord]) -> StoreResult<()>;
}
