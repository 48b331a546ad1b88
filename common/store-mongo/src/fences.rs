//! Heads of no batch that stand between the states of heads in the index of open ones.
//!
//! The server keeps the entries of what left a state for as long as it serves reads of the past (`minSnapshotHistoryWindowInSeconds`, 300 by
//! default: MongoDB's manual, "Server Parameters"), and whoever looks behind the last head of a state passes over all of them until it
//! meets one that is there: with one of these behind each state it passes over those of that state alone.

use mongodb::bson::doc;
use promptmill_ports::StoreResult;

use crate::codec::binary;
use crate::collections::HEADS;
use crate::commands::{Commands, encode};
use crate::heads::{LEASED, READY, WAITING};

/// Behind every batch: their ids begin with a time.
const NOBODY: [u8; 16] = [255; 16];

/// Puts up those that are missing. No query of a state, of a batch or of an owner answers one.
pub(crate) async fn ensure(commands: &Commands) -> StoreResult<()> {
    let fence = |(n, state): (u32, i32)| {
        let id = [&NOBODY[..], &n.to_be_bytes()].concat();
        encode(&doc! { "_id": binary(id), "state": f64::from(state) + 0.5 })
    };
    let all = (0..).zip([WAITING, READY, LEASED]).map(fence).collect::<StoreResult<_>>()?;
    commands.insert(HEADS, all).await.map(|_| ())
}
