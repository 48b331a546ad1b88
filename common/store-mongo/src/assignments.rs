//! What workers must know of the batches of their chunks: many small ones in two commands.

use std::collections::HashMap;

use futures_util::future::join_all;
use mongodb::bson::Document;
use promptmill_domain::chunk::SPREAD;
use promptmill_domain::{Batch, BatchId, ChunkId, Counts};
use promptmill_ports::{Assignment, StoreError, StoreResult};

use crate::commands::Commands;
use crate::heads::Stored;
use crate::unwritten::Small;
use crate::{batches, counts, heads};

/// Of those of the batches that exist.
pub(crate) async fn load(commands: &Commands, ids: &[BatchId]) -> StoreResult<Vec<Assignment>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // The first row of a job that is alone should not wait for one read after the other.
    let only: Vec<_> = match ids {
        [batch] => (0..SPREAD).map(|n| ChunkId { batch: *batch, n }).collect(),
        _ => Vec::new(),
    };
    let mut fields = batches::all_fields();
    fields.insert("lane", 1);
    let (found, heads_of_only) = tokio::join!(
        batches::those_there(commands, ids.iter().copied(), fields),
        heads::load_without_bodies(commands, &only),
    );
    let (found, mut heads) = (found?, heads_of_only?);
    let decode = |found: &Document| Ok((batches::decode(found)?, Small::of(found)?.is_some()));
    let found: Vec<(Batch, bool)> = found.iter().map(decode).collect::<StoreResult<_>>()?;
    if only.is_empty() {
        let few = found.iter().filter(|(batch, _)| batch.total <= SPREAD && batch.final_counts.is_none());
        let chunks: Vec<_> = few.flat_map(|(batch, _)| chunks_of(batch)).collect();
        heads = heads::load_without_bodies(commands, &chunks).await?;
    }
    let count = |(batch, is_small)| count(commands, batch, is_small, &heads);
    let counted = join_all(found.into_iter().map(count)).await;
    counted.into_iter().filter_map(Result::transpose).collect()
}

/// The batch with its counts; nothing when it was deleted just now.
async fn count(
    commands: &Commands,
    batch: Batch,
    is_small: bool,
    heads: &HashMap<ChunkId, Stored>,
) -> StoreResult<Option<Assignment>> {
    if let Some(counts) = batch.final_counts.clone() {
        return Ok(Some(Assignment { batch, counts }));
    }
    // Where each row is a chunk, as in a small batch, they are all among these.
    let mut counts = Counts::default();
    chunks_of(&batch).filter_map(|chunk| heads.get(&chunk)).for_each(|stored| counts.add(&stored.head));
    if is_small {
        // Those that are not there wait.
        counts.waiting += u64::from(batch.total).saturating_sub(counts.total());
    }
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
