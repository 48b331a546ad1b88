//! `Admission`: which chunks may run, and which wait to be hinted again.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use mongodb::bson::doc;
use promptmill_domain::{
    Batch, BatchEvent, BatchId, BatchState, ChunkId, ChunkState, Head, HeadEvent, TenantId,
};
use promptmill_ports::{Admission, StoreResult};

use crate::batches::Phase;
use crate::codec::{Fields, binary, int, key, to_json};
use crate::collections::BATCHES;
use crate::commands::{Commands, Concern, Query, Update, fresh_mark};
use crate::heads::{self, READY, WAITING};
use crate::{MongoStore, batches, sessions};

#[async_trait]
impl Admission for MongoStore {
    async fn open_batches(&self) -> StoreResult<Vec<Batch>> {
        self.known_open_batches().load(self.commands()).await
    }

    async fn waiting(&self, batch: BatchId, limit: u32) -> StoreResult<Vec<ChunkId>> {
        let query = Query::of(heads::in_states(batch, &[WAITING])).sort(doc! { "_id": 1 });
        heads::ids(self.commands(), query.limit(limit), Concern::Majority).await
    }

    /// A number of commands that does not depend on how many batches the chunks are of. A crash between the two updates leaves batches that run and whose
    /// chunks wait still, to be admitted by whoever comes next.
    async fn admit(&self, chunks: &[ChunkId], now_ms: u64) -> StoreResult<Vec<ChunkId>> {
        admit(self, chunks, now_ms).await
    }

    async fn wake(&self, limit: u32, now_ms: u64) -> StoreResult<Vec<ChunkId>> {
        // Whoever wakes comes round every moment, and nobody else looks after these.
        sessions::take_strays(self, now_ms).await?;
        let query = Query::of(doc! { "due": { "$lte": int(now_ms) } }).sort(doc! { "due": 1 });
        let due = heads::ids(self.commands(), query.limit(limit), Concern::Local).await?;
        let wake = |_, head: &mut Head| head.apply(HeadEvent::Wake, now_ms);
        let changed = heads::change_plain(self, &due, wake).await?;
        Ok(due
            .into_iter()
            .zip(changed)
            .filter(|(_, changed)| changed.is_applied())
            .map(|(id, _)| id)
            .collect())
    }

    async fn ready(&self, after: Option<ChunkId>, limit: u32) -> StoreResult<Vec<ChunkId>> {
        let mut filter = doc! { "state": READY };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": binary(key(after.batch, after.n)) });
        }
        let query = Query::of(filter).sort(doc! { "_id": 1 });
        heads::ids(self.commands(), query.limit(limit), Concern::Majority).await
    }
}

/// Takes as many commands for chunks of many batches as of one. A crash between the two updates leaves batches that run and whose chunks wait
/// still, for whoever admits next.
async fn admit(store: &MongoStore, chunks: &[ChunkId], now_ms: u64) -> StoreResult<Vec<ChunkId>> {
    let commands = store.commands();
    if chunks.is_empty() {
        return Ok(Vec::new());
    }
    let mut seen = HashSet::new();
    let asked: Vec<_> = chunks.iter().filter(|chunk| seen.insert(**chunk)).copied().collect();
    let (states, known) = tokio::join!(
        batches::states(commands, asked.iter().map(|chunk| chunk.batch)),
        heads::load(commands, &asked),
    );
    let (states, known) = (states?, known?);
    // A paused or closing batch admits nothing.
    let admits = |chunk: &ChunkId| {
        states.get(&chunk.batch).is_some_and(|(_, state)| state.decide(&BatchEvent::Admit).is_ok())
    };
    let waits =
        |chunk: &ChunkId| known.get(chunk).is_some_and(|stored| stored.head.state == ChunkState::Waiting);
    let wanted: Vec<_> = asked.into_iter().filter(|chunk| admits(chunk) && waits(chunk)).collect();
    // The batch first: one that runs with nothing admitted yet means no harm, one that is queued for ever would.
    let stopped = run_batches(commands, &wanted, &states).await?;
    let wanted: Vec<_> = wanted.into_iter().filter(|chunk| !stopped.contains(&chunk.batch)).collect();
    let admit = |_, head: &mut Head| head.apply(HeadEvent::Admit, now_ms).map(|()| Vec::new());
    let changed = heads::change(store, &wanted, known, admit).await?;
    Ok(wanted
        .into_iter()
        .zip(changed)
        .filter(|(_, changed)| changed.is_applied())
        .map(|(id, _)| id)
        .collect())
}

/// Moves queued batches of the chunks to `running`; answers those that were stopped meanwhile.
async fn run_batches(
    commands: &Commands,
    chunks: &[ChunkId],
    states: &HashMap<BatchId, (TenantId, BatchState)>,
) -> StoreResult<HashSet<BatchId>> {
    let is_queued = |batch: &BatchId| matches!(states.get(batch), Some((_, BatchState::Queued)));
    let mut queued: HashSet<_> = chunks.iter().map(|chunk| chunk.batch).filter(is_queued).collect();
    if queued.is_empty() {
        return Ok(queued);
    }
    let next = BatchState::Queued.decide(&BatchEvent::Admit)?;
    let ids: Vec<_> = queued.iter().map(|batch| binary(*batch.as_bytes())).collect();
    let these = doc! { "_id": { "$in": ids }, "phase": Phase::Open.number() };
    let mut filter = these.clone();
    filter.insert("state", to_json(&BatchState::Queued));
    let mut set = batches::set_state(&next, 0);
    set.remove("ver");
    set.insert("mark", fresh_mark());
    let change = doc! { "$set": set, "$inc": { "ver": 1_i64, "rev": 1_i64 } };
    if commands.update(BATCHES, vec![Update::many(filter, change)]).await?.n == queued.len() as u64 {
        return Ok(HashSet::new());
    }
    // Someone else admitted of some of them, or they were stopped, or the answer to our own update was lost.
    let query = Query::of(these).fields(doc! { "state": 1 });
    for found in commands.find(BATCHES, query, Concern::Local).await? {
        if batches::state_of(&found)?.decide(&BatchEvent::Admit).is_ok() {
            queued.remove(&BatchId::from_bytes(Fields(&found).id("_id")?));
        }
    }
    Ok(queued)
}
