//! What workers must know of the batches of their chunks: many small ones in two commands.

use std::collections::HashMap;

use futures_util::future::join_all;
use mongodb::bson::doc;
use promptmill_domain::chunk::SPREAD;
use promptmill_domain::{Batch, BatchId, ChunkId, Counts};
use promptmill_ports::{Assignment, StoreError, StoreResult};

use crate::codec::binary;
use crate::collections::BATCHES;
use crate::commands::{Commands, Concern, Query};
use crate::heads::Stored;
use crate::{batches, counts, heads};

/// Of those of the batches that exist.
pub(crate) async fn load(commands: &Commands, ids: &[BatchId]) -> StoreResult<Vec<Assignment>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = ids.iter().map(|id| binary(*id.as_bytes())).collect();
    let query = Query::of(doc! { "_id": { "$in": ids }, "phase": batches::there() });
    let query = query.fields(batches::all_fields());
    let found = commands.find(BATCHES, query, Concern::Local).await?;
    let found: Vec<Batch> = found.iter().map(batches::decode).collect::<StoreResult<_>>()?;
    let small = found.iter().filter(|batch| batch.total <= SPREAD && batch.final_counts.is_none());
    let chunks: Vec<_> = small.flat_map(chunks_of).collect();
    let heads = heads::load(commands, &chunks).await?;
    let counted = join_all(found.into_iter().map(|batch| count(commands, batch, &heads))).await;
    counted.into_iter().filter_map(Result::transpose).collect()
}

/// The batch with its counts; nothing when it was deleted just now.
async fn count(
    commands: &Commands,
    batch: Batch,
    heads: &HashMap<ChunkId, Stored>,
) -> StoreResult<Option<Assignment>> {
    if let Some(counts) = batch.final_counts.clone() {
        return Ok(Some(Assignment { batch, counts }));
    }
    // Where each row is a chunk, as in a small batch, they are all among these.
    let mut counts = Counts::default();
    chunks_of(&batch).filter_map(|chunk| heads.get(&chunk)).for_each(|stored| counts.add(&stored.head));
    if counts.total() == u64::from(batch.total) {
        return Ok(Some(Assignment { batch, counts }));
    }
    match counts::progress(commands, &batch.tenant, batch.id).await {
        Ok(progress) => Ok(Some(Assignment { batch, counts: progress.counts })),
        Err(StoreError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn chunks_of(batch: &Batch) -> impl Iterator<Item = ChunkId> + use<> {
    let id = batch.id;
    (0..batch.total.min(SPREAD)).map(move |n| ChunkId { batch: id, n })
}
