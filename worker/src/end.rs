//! What an item came to, in the form it is recorded.

use bytes::Bytes;
use promptmill_domain::{ItemCode, ParkedItem, Totals};
use promptmill_pipeline::ItemEnd;
use promptmill_ports::encode_outcome;

/// About what a kept call of a parked item takes.
const PARKED_CALL_BYTES: usize = 256;

/// The end of an item's work, ready to be recorded.
#[derive(Debug)]
pub(crate) enum End {
    /// It has its outcome.
    Settled {
        /// How it ended.
        code: ItemCode,
        /// The encoded outcome.
        body: Bytes,
        /// Calls made now.
        spent: Totals,
    },
    /// It waits for a later attempt.
    Parked {
        /// What to keep of it.
        item: Box<ParkedItem>,
        /// Calls made now.
        spent: Totals,
    },
    /// No call was made; the lane stands still until then (Unix milliseconds), or, without a time, the gate closed.
    Untouched {
        /// When the lane goes on.
        lane_paused_until_ms: Option<u64>,
    },
}

impl From<ItemEnd> for End {
    /// Encodes the outcome, which takes a while: done where the item ran, so that it spreads over the threads.
    fn from(end: ItemEnd) -> Self {
        match end {
            ItemEnd::Settled { outcome, spent } => {
                Self::Settled { code: outcome.code(), body: encode_outcome(&outcome), spent }
            }
            ItemEnd::Parked { item, spent } => Self::Parked { item: Box::new(item), spent },
            ItemEnd::Untouched { lane_paused_until_ms } => Self::Untouched { lane_paused_until_ms },
        }
    }
}

impl End {
    /// About how many bytes are written for it.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Settled { body, .. } => body.len(),
            Self::Parked { item, .. } => {
                item.attempts.iter().map(|attempt| attempt.calls.len() * PARKED_CALL_BYTES).sum()
            }
            Self::Untouched { .. } => 0,
        }
    }
}
