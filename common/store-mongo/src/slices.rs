//! Values that are too large for the document they belong to, in slices under a random key of their batch.
//!
//! The slices are written before the document that names them; those that nobody names go with their batch.

use bytes::{Bytes, BytesMut};
use mongodb::bson::doc;
use mongodb::bson::raw::cstr;
use promptmill_domain::BatchId;
use promptmill_ports::StoreResult;
use serde::{Deserialize, Serialize};

use crate::codec::{Fields, corrupt, range, raw_binary, raw_document};
use crate::collections::SLICES;
use crate::commands::{Commands, Concern, Query};

/// Bytes of one slice.
const SLICE: usize = 4 * 1024 * 1024;
/// Bytes of a key: the batch's, random ones, the number of the slice.
const KEY: usize = 32;

/// A value in slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sliced {
    id: [u8; 12],
    bytes: u32,
}

impl Sliced {
    /// Length of the value.
    pub(crate) const fn len(&self) -> usize {
        self.bytes as usize
    }

    /// As bytes.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..12].copy_from_slice(&self.id);
        bytes[12..].copy_from_slice(&self.bytes.to_be_bytes());
        bytes
    }

    /// Of its bytes.
    pub(crate) fn of(bytes: [u8; 16]) -> Self {
        let [id @ .., b0, b1, b2, b3] = bytes;
        Self { id, bytes: u32::from_be_bytes([b0, b1, b2, b3]) }
    }

    fn prefix(&self, batch: BatchId) -> [u8; 28] {
        let mut prefix = [0; 28];
        prefix[..16].copy_from_slice(batch.as_bytes());
        prefix[16..].copy_from_slice(&self.id);
        prefix
    }
}

/// Stores values, each for its batch.
pub(crate) async fn store(commands: &Commands, values: &[(BatchId, &[u8])]) -> StoreResult<Vec<Sliced>> {
    let mut all = Vec::with_capacity(values.len());
    let mut documents = Vec::new();
    for (batch, value) in values {
        let bytes = u32::try_from(value.len())
            .map_err(|_| crate::codec::conflict("a value is larger than the store can keep"))?;
        let sliced = Sliced { id: rand::random(), bytes };
        let prefix = sliced.prefix(*batch);
        documents.extend(value.chunks(SLICE).zip(0u32..).map(|(slice, number)| {
            let mut key = prefix.to_vec();
            key.extend_from_slice(&number.to_be_bytes());
            raw_document(&[(cstr!("_id"), raw_binary(&key)), (cstr!("bytes"), raw_binary(slice))])
        }));
        all.push(sliced);
    }
    if !documents.is_empty() {
        commands.insert(SLICES, documents).await?;
    }
    Ok(all)
}

/// Reads a value.
pub(crate) async fn load(
    commands: &Commands,
    batch: BatchId,
    sliced: &Sliced,
    concern: Concern,
) -> StoreResult<Bytes> {
    let query = Query::of(doc! { "_id": range(&sliced.prefix(batch), KEY) }).sort(doc! { "_id": 1 });
    let mut value = BytesMut::with_capacity(sliced.len());
    for slice in commands.find(SLICES, query, concern).await? {
        value.extend_from_slice(Fields(&slice).bytes("bytes")?);
    }
    if value.len() == sliced.len() { Ok(value.freeze()) } else { Err(corrupt("a value in slices")) }
}

/// Removes a value that nothing names any more.
pub(crate) async fn remove(commands: &Commands, batch: BatchId, sliced: &Sliced) -> StoreResult<()> {
    commands.delete(SLICES, doc! { "_id": range(&sliced.prefix(batch), KEY) }).await.map(|_| ())
}
