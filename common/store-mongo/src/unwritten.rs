//! Small batches that were accepted whole: their rows stand in the document of the batch, and a chunk of theirs has no head until it is
//! admitted, or leased if it is the only one. A head that is not there is one that waits.
//!
//! So such a batch is one document until something of it runs. Each of its rows is a chunk, so what a head that is not there would say
//! follows from the batch.

use bytes::Bytes;
use mongodb::bson::{Document, doc};
use promptmill_domain::chunk::{ChunkCut, SPREAD};
use promptmill_domain::{BatchId, ChunkId, LaneId, RowsRef, TenantId, UploadId};
use promptmill_ports::{RowBlock, StoreResult};

use crate::codec::{Fields, binary, corrupt, int, range};
use crate::collections::{BATCHES, HEADS};
use crate::commands::{Commands, Concern, Query, encode};
use crate::{batches, heads};

/// Bytes of rows and of hashes of their custom ids that a batch's document takes in.
const MOST: usize = 16 * 1024;

/// What is to be known of such a batch to know its chunks.
#[derive(Debug, Clone)]
pub(crate) struct Small {
    tenant: TenantId,
    batch: BatchId,
    lane: LaneId,
    total: u32,
}

/// The rows in a batch's document.
#[derive(Debug, Clone)]
pub(crate) struct OwnRows {
    /// The block.
    pub(crate) bytes: Bytes,
    /// Hashes of its custom ids.
    pub(crate) ids: Bytes,
    /// How many rows.
    pub(crate) len: u32,
}

/// Whether a batch of this block alone is small.
pub(crate) fn is_small(rows: &RowBlock) -> bool {
    (1..=SPREAD).contains(&rows.len) && rows.bytes.len() + rows.ids.len() <= MOST
}

/// What the document of a small batch has more than another one.
pub(crate) fn fields_of(lane: &LaneId, rows: &RowBlock) -> Document {
    doc! {
        "lane": lane.as_str(), "rows": binary(rows.bytes.to_vec()), "row_ids": binary(rows.ids.to_vec()),
        "size": int(rows.bytes.len() as u64),
    }
}

impl Small {
    /// The fields it is read from.
    pub(crate) fn fields() -> Document {
        doc! { "tenant": 1, "lane": 1, "total": 1 }
    }

    /// Of a batch's document with those fields; `None` when the batch is not one.
    pub(crate) fn of(found: &Document) -> StoreResult<Option<Self>> {
        let fields = Fields(found);
        let Some(lane) = fields.maybe_text("lane")? else { return Ok(None) };
        Ok(Some(Self {
            tenant: fields.tenant("tenant")?,
            batch: BatchId::from_bytes(fields.id("_id")?),
            lane: LaneId::from_stored(lane.to_owned()),
            total: fields.small("total")?,
        }))
    }

    /// How many chunks it has, each of one row.
    pub(crate) const fn total(&self) -> u32 {
        self.total
    }

    /// The document of a chunk's head, which waits.
    pub(crate) fn head(&self, n: u32) -> Document {
        let upload = UploadId::from_bytes(*self.batch.as_bytes());
        let cut = ChunkCut { n, base: n, len: 1, rows: RowsRef { upload, seq: 0, skip: n } };
        let mut head = heads::fresh(&self.tenant, self.batch, &self.lane, &cut);
        if self.total == 1 {
            head.insert("alone", true);
        }
        head
    }

    /// The chunks whose heads are not there, in order.
    pub(crate) async fn absent(&self, commands: &Commands) -> StoreResult<Vec<ChunkId>> {
        let all = Query::of(doc! { "_id": range(self.batch.as_bytes(), 20) });
        let there = heads::ids(commands, all, Concern::Local).await?;
        let chunks = (0..self.total).map(|n| ChunkId { batch: self.batch, n });
        Ok(chunks.filter(|chunk| !there.contains(chunk)).collect())
    }
}

/// The batch, if it is small and there.
pub(crate) async fn small(
    commands: &Commands,
    batch: BatchId,
    concern: Concern,
) -> StoreResult<Option<Small>> {
    let mut filter = batches::existing(batch);
    filter.insert("lane", doc! { "$exists": true });
    let found = commands.find_one(BATCHES, Query::of(filter).fields(Small::fields()), concern).await?;
    found.map_or(Ok(None), |found| Small::of(&found))
}

/// Writes those heads of a small batch that are not there, as waiting ones. Answers whether there were any.
pub(crate) async fn write(commands: &Commands, small: &Small) -> StoreResult<bool> {
    let absent = small.absent(commands).await?;
    let documents = absent.iter().map(|chunk| encode(&small.head(chunk.n)));
    if absent.is_empty() {
        return Ok(false);
    }
    commands.insert(HEADS, documents.collect::<StoreResult<_>>()?).await.map(|_| true)
}

impl OwnRows {
    /// The fields they are read from.
    pub(crate) fn fields() -> Document {
        doc! { "rows": 1, "row_ids": 1, "total": 1 }
    }

    /// Of a batch's document; `None` when its rows stand elsewhere.
    pub(crate) fn of(found: &mut Document) -> StoreResult<Option<Self>> {
        if !Fields(found).has("rows") {
            return Ok(None);
        }
        let len = Fields(found).small("total")?;
        let mut taken = |name: &str| match found.get_binary_generic_mut(name) {
            Ok(bytes) => Ok(Bytes::from(std::mem::take(bytes))),
            Err(_) => Err(corrupt("the rows of a batch")),
        };
        Ok(Some(Self { bytes: taken("rows")?, ids: taken("row_ids")?, len }))
    }
}
