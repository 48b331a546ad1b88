//! `Admission`: which chunks may run, and which wait to be hinted again.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use promptmill_domain::{
    Batch, BatchEvent, BatchId, BatchState, ChunkId, ChunkState, Head, HeadEvent, TenantId,
};
use promptmill_ports::{Admission, StoreError, StoreResult};

use crate::codec::{Fields, binary, int, key};
use crate::commands::{Concern, Query};
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

async fn admit(store: &MongoStore, chunks: &[ChunkId], now_ms: u64) -> StoreResult<Vec<ChunkId>> {
    let commands = store.commands();
    if chunks.is_empty() {
        return Ok(Vec::new());
    }
    let states = batches::states(commands, chunks.iter().map(|chunk| chunk.batch)).await?;
    // A paused or closing batch admits nothing.
    let admits = |chunk: &ChunkId| {
        states.get(&chunk.batch).is_some_and(|(_, state)| state.decide(&BatchEvent::Admit).is_ok())
    };
    let mut seen = HashSet::new();
    let wanted: Vec<_> =
        chunks.iter().filter(|chunk| admits(chunk) && seen.insert(**chunk)).copied().collect();
    let known = heads::load(commands, &wanted).await?;
    let waits =
        |chunk: &ChunkId| known.get(chunk).is_some_and(|stored| stored.head.state == ChunkState::Waiting);
    let wanted: Vec<_> = wanted.iter().filter(|chunk| waits(chunk)).copied().collect();
    // The batch first: one that runs with nothing admitted yet means no harm, one that is queued for ever would.
    let stopped = run_batches(store, &wanted, &states).await?;
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
    store: &MongoStore,
    chunks: &[ChunkId],
    states: &HashMap<BatchId, (TenantId, BatchState)>,
) -> StoreResult<HashSet<BatchId>> {
    let mut stopped = HashSet::new();
    let ids: HashSet<_> = chunks.iter().map(|chunk| chunk.batch).collect();
    for id in ids {
        let Some((tenant, BatchState::Queued)) = states.get(&id) else { continue };
        let run = |found: &Document| {
            let state = batches::state_of(found)?;
            let next = state.decide(&BatchEvent::Admit)?;
            let ver = Fields(found).uint("ver")? + 1;
            Ok((next != state).then(|| doc! { "$set": batches::set_state(&next, ver) }))
        };
        match batches::change(store.commands(), tenant, id, doc! { "state": 1, "ver": 1 }, run).await {
            Ok(_) => {}
            Err(StoreError::Conflict(_) | StoreError::NotFound) => drop(stopped.insert(id)),
            Err(error) => return Err(error),
        }
    }
    Ok(stopped)
}
