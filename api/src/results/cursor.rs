//! Where a reading goes on: opaque to the client, checked when it comes back.
//!
//! A cursor is the URL-safe base64 of a version, what it is about, a mark of the batch, a position and a checksum. The checksum
//! is against slips, not against malice: a made-up position reads nothing that the caller may not read.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use promptmill_domain::BatchId;
use sha2::{Digest as _, Sha256};

const VERSION: u8 = 1;
const LEN: usize = 18;

/// What a position counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// The index of an item: what is in the order of the rows.
    Index = 1,
    /// A place in the order in which items settled.
    Settled = 2,
}

/// A text that is not the cursor that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidCursor {
    /// Not one of ours, or damaged.
    #[error("not a cursor of this service; begin without one")]
    Unknown,
    /// One of another batch.
    #[error("a cursor of another batch")]
    OtherBatch,
    /// One of another list or order.
    #[error("a cursor of another order")]
    OtherOrder,
}

/// The cursor of a position in a batch.
pub(crate) fn encode(batch: BatchId, kind: Position, position: u64) -> String {
    URL_SAFE_NO_PAD.encode(bytes(batch, kind as u8, position))
}

/// The position a cursor of `batch` stands for.
pub(crate) fn decode(text: &str, batch: BatchId, kind: Position) -> Result<u64, InvalidCursor> {
    if text.len() > 4 * LEN {
        return Err(InvalidCursor::Unknown);
    }
    let given = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor::Unknown)?;
    let given: [u8; LEN] = given.try_into().map_err(|_| InvalidCursor::Unknown)?;
    if given[0] != VERSION || given[14..] != checksum(&given[..14]) {
        return Err(InvalidCursor::Unknown);
    }
    if given[2..6] != mark(batch) {
        return Err(InvalidCursor::OtherBatch);
    }
    if given[1] != kind as u8 {
        return Err(InvalidCursor::OtherOrder);
    }
    let mut position = [0; 8];
    position.copy_from_slice(&given[6..14]);
    Ok(u64::from_be_bytes(position))
}

fn bytes(batch: BatchId, kind: u8, position: u64) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[0] = VERSION;
    bytes[1] = kind;
    bytes[2..6].copy_from_slice(&mark(batch));
    bytes[6..14].copy_from_slice(&position.to_be_bytes());
    let checksum = checksum(&bytes[..14]);
    bytes[14..].copy_from_slice(&checksum);
    bytes
}

/// Four bytes by which batches are told apart.
fn mark(batch: BatchId) -> [u8; 4] {
    first_four(Sha256::digest(batch.as_bytes()).as_slice())
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    first_four(Sha256::new().chain_update(b"promptmill cursor").chain_update(bytes).finalize().as_slice())
}

fn first_four(digest: &[u8]) -> [u8; 4] {
    let mut four = [0; 4];
    four.copy_from_slice(&digest[..4]);
    four
}

#[cfg(test)]
mod tests;
