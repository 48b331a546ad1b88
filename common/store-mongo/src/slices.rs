//! Values that are too large for the document they belong to, in slices under a random key of their batch.
//!
//! The slices are written before the document that names them; those that nobody names go with their batch.

use bytes::{Bytes, BytesMut};
use mongodb::bson::raw::cstr;
use mongodb::bson::{Document, doc};
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

    /// As a field of a document.
    pub(crate) fn document(&self) -> Document {
        doc! { "id": crate::codec::binary(self.id), "bytes": i64::from(self.bytes) }
    }

    /// Read back.
    pub(crate) fn of(document: &Document) -> StoreResult<Self> {
        Ok(Self { id: Fields(document).id("id")?, bytes: Fields(document).small("bytes")? })
    }

    fn prefix(&self, batch: BatchId) -> [u8; 28] {
        let mut prefix = [0; 28];
        prefix[..16].copy_from_slice(batch.as_bytes());
        prefix[16..].copy_from_slice(&self.id);
        prefix
    }
}

/// Stores a value.
pub(crate) async fn store(commands: &Commands, batch: BatchId, value: &[u8]) -> StoreResult<Sliced> {
    let bytes = u32::try_from(value.len())
        .map_err(|_| crate::codec::conflict("a value is larger than the store can keep"))?;
    let sliced = Sliced { id: rand::random(), bytes };
    let prefix = sliced.prefix(batch);
    let documents = value.chunks(SLICE).zip(0u32..).map(|(slice, number)| {
        let mut key = prefix.to_vec();
        key.extend_from_slice(&number.to_be_bytes());
        raw_document(&[(cstr!("_id"), raw_binary(&key)), (cstr!("bytes"), raw_binary(slice))])
    });
    commands.insert(SLICES, documents.collect()).await?;
    Ok(sliced)
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
