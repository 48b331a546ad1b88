//! `Admission`: which chunks may run, and which wait to be hinted again.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use async_trait::async_trait;
use mongodb::bson::doc;
use promptmill_domain::{Batch, BatchEvent, BatchId, BatchState, ChunkId, Head, HeadEvent};
use promptmill_ports::{Admission, StoreResult};

use crate::batches::{Look, Phase, Standing};
use crate::codec::{binary, int, key, to_json};
use crate::collections::BATCHES;
use crate::commands::{Commands, Concern, Query, Update, fresh_mark};
use crate::heads::{self, READY, WAITING};
use crate::{MongoStore, batches, sessions, unwritten};

#[async_trait]
impl Admission for MongoStore {
    async fn open_batches(&self) -> StoreResult<Vec<Batch>> {
        self.known_open_batches().load(self.commands()).await
    }

    async fn open_among(&self, batches: &[BatchId]) -> StoreResult<Vec<Batch>> {
        self.known_open_batches().load_among(self.commands(), batches).await
    }

    async fn waiting(&self, batch: BatchId, limit: u32) -> StoreResult<Vec<ChunkId>> {
        waiting(self.commands(), batch, limit).await
    }

    async fn admit(&self, chunks: &[ChunkId], _now_ms: u64) -> StoreResult<Vec<ChunkId>> {
        admit(self, chunks).await
    }

    async fn wake(&self, limit: u32, now_ms: u64) -> StoreResult<Vec<ChunkId>> {
        // Whoever wakes comes round every moment, and nobody else looks after these.
        if self.strays().are_due(Instant::now()) {
            sessions::take_strays(self, now_ms).await?;
        }
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

/// Heads that wait, and those that are not there.
async fn waiting(commands: &Commands, batch: BatchId, limit: u32) -> StoreResult<Vec<ChunkId>> {
    let query = Query::of(heads::in_states(batch, &[WAITING])).sort(doc! { "_id": 1 });
    let mut waiting = heads::ids(commands, query.limit(limit), Concern::Majority).await?;
    if waiting.len() < limit as usize
        && let Some(small) = unwritten::small(commands, batch, Concern::Majority).await?
    {
        waiting.extend(small.absent(commands).await?);
        waiting.sort_unstable();
        waiting.dedup();
        waiting.truncate(limit as usize);
    }
    Ok(waiting)
}

/// Takes as many commands for chunks of many batches as of one. A crash may leave a batch queued whose chunks are ready, and a single row is
/// worked on before it is admitted; the batch runs all the same, and whoever admits of it next, or closes it, moves it on.
async fn admit(store: &MongoStore, chunks: &[ChunkId]) -> StoreResult<Vec<ChunkId>> {
    let commands = store.commands();
    let mut unknown: HashSet<_> = chunks.iter().map(|chunk| chunk.batch).collect();
    let mut standing = store.known_open_batches().take_standing(&unknown);
    unknown.retain(|batch| !standing.contains_key(batch));
    if !unknown.is_empty() {
        let now = Instant::now();
        let read = batches::standing(commands, unknown, Look::Standing).await?;
        let go_on = read.iter().filter(|(_, batch)| batch.goes_on());
        store.known_open_batches().note_standing(now, go_on.map(|(id, batch)| (*id, batch.clone())));
        standing.extend(read);
    }
    // A batch that is known to be paused or closing admits nothing; who claims a chunk of it knows for sure.
    let admits = |chunk: &ChunkId| {
        standing.get(&chunk.batch).is_some_and(|batch| batch.state.decide(&BatchEvent::Admit).is_ok())
    };
    let mut seen = HashSet::new();
    let wanted: Vec<_> =
        chunks.iter().filter(|chunk| seen.insert(**chunk) && admits(chunk)).copied().collect();
    let (run, moved) =
        tokio::join!(run_batches(commands, &wanted, &standing), move_heads(commands, &wanted, &standing));
    run?;
    moved
}

/// Makes ready what waits, and answers it. Chunks of small batches seldom have a head by then, but for single rows.
async fn move_heads(
    commands: &Commands,
    chunks: &[ChunkId],
    standing: &HashMap<BatchId, Standing>,
) -> StoreResult<Vec<ChunkId>> {
    let small = |chunk: &ChunkId| {
        let small = standing.get(&chunk.batch)?.small.as_ref()?;
        (chunk.n < small.total()).then_some((small, *chunk))
    };
    let mut unwritten: Vec<_> = chunks.iter().filter_map(small).collect();
    // Of a single row the chunk may have been taken as it was hinted.
    let lone = unwritten.iter().filter(|(small, _)| small.total() == 1).map(|(_, chunk)| *chunk);
    let written = heads::states(commands, &lone.collect::<Vec<_>>()).await?;
    unwritten.retain(|(_, chunk)| !written.contains_key(chunk));
    let (mut moved, mut there) = heads::write_ready(commands, &unwritten).await?;
    let waits = |chunk: &ChunkId| {
        written.get(chunk).map_or_else(|| small(chunk).is_none(), |state| *state == WAITING)
    };
    there.extend(chunks.iter().filter(|chunk| waits(chunk)));
    moved.extend(heads::admit(commands, &there).await?);
    Ok(moved)
}

/// Moves queued batches of the chunks to `running`, unless they were stopped meanwhile.
async fn run_batches(
    commands: &Commands,
    chunks: &[ChunkId],
    standing: &HashMap<BatchId, Standing>,
) -> StoreResult<()> {
    let is_queued =
        |batch: &BatchId| standing.get(batch).is_some_and(|batch| batch.state == BatchState::Queued);
    let queued: HashSet<_> = chunks.iter().map(|chunk| chunk.batch).filter(is_queued).collect();
    if queued.is_empty() {
        return Ok(());
    }
    let next = BatchState::Queued.decide(&BatchEvent::Admit)?;
    let ids: Vec<_> = queued.iter().map(|batch| binary(*batch.as_bytes())).collect();
    let filter = doc! {
        "_id": { "$in": ids }, "phase": Phase::Open.number(), "state": to_json(&BatchState::Queued),
    };
    let mut set = batches::set_state(&next, 0);
    set.remove("ver");
    set.insert("mark", fresh_mark());
    let change = doc! { "$set": set, "$inc": { "ver": 1_i64, "rev": 1_i64 } };
    commands.update(BATCHES, vec![Update::these(filter, change)]).await.map(|_| ())
}
