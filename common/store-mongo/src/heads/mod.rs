//! Heads: read, apply one event, write; but where it is known what stands there: an
//! admission ([`admit`]), and heads that are not there yet ([`write_ready`], [`write_leased`]). Nothing else in this crate changes a head.
//!
//! A write is a compare-and-set on `ver` that leaves a random mark. Writes of several heads go in one command, which answers only how many
//! matched; on a shortfall the marks are read again, and heads that someone else changed are tried once more from what they are now.

mod document;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use promptmill_domain::{
    ChunkId, ChunkState, Head, HeadEvent, ItemCode, LeaseToken, ParkedItem, Refusal, SessionId,
};
use promptmill_ports::{StoreError, StoreResult};

pub(crate) use document::{DONE, LEASED, PARKED, READY, Stored, WAITING, fresh, totals};

use crate::MongoStore;
use crate::codec::{Fields, binary, corrupt, from_json, int, key, range, to_json};
use crate::collections::HEADS;
use crate::commands::{Commands, Concern, Query, Update, encode, fresh_mark};
use crate::order::{self, Change, ChangeBodies, Record};
use crate::slices::{self, Sliced};
use crate::unwritten::Small;

/// How often the writing of heads is tried while others change them.
const TRIES: u32 = 64;
/// Heads read or written in one command.
const TOGETHER: usize = 500;
/// Histories of parked items above this stand beside the head: there are up to 256 of them, of up to 4 MiB each.
const INLINE_HISTORY: usize = 2 * 1024;

/// What became of an event.
#[derive(Debug)]
pub(crate) enum Changed {
    /// It is written; the head as it is now.
    Applied(Box<Stored>),
    /// The head refused it.
    Refused(Refusal),
    /// There is no such chunk.
    Missing,
}

impl Changed {
    /// Whether it is written.
    pub(crate) const fn is_applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }
}

/// The heads of these chunks, those that exist.
pub(crate) async fn load(commands: &Commands, chunks: &[ChunkId]) -> StoreResult<HashMap<ChunkId, Stored>> {
    load_fields(commands, chunks, Document::new()).await
}

/// The same without the bodies that stand in heads, for those who change nothing.
pub(crate) async fn load_without_bodies(
    commands: &Commands,
    chunks: &[ChunkId],
) -> StoreResult<HashMap<ChunkId, Stored>> {
    load_fields(commands, chunks, doc! { "body": 0 }).await
}

async fn load_fields(
    commands: &Commands,
    chunks: &[ChunkId],
    fields: Document,
) -> StoreResult<HashMap<ChunkId, Stored>> {
    let mut loaded = HashMap::with_capacity(chunks.len());
    for some in chunks.chunks(TOGETHER) {
        let ids: Vec<_> = some.iter().map(|chunk| binary(key(chunk.batch, chunk.n))).collect();
        let query = Query::of(doc! { "_id": { "$in": ids } }).fields(fields.clone());
        for found in commands.find(HEADS, query, Concern::Local).await? {
            let stored = Stored::of(&found)?;
            loaded.insert(stored.head.chunk, stored);
        }
    }
    Ok(loaded)
}

/// The ids of the chunks a query names, in its order.
pub(crate) async fn ids(commands: &Commands, query: Query, concern: Concern) -> StoreResult<Vec<ChunkId>> {
    let found = commands.find(HEADS, query.fields(doc! { "_id": 1 }), concern).await?;
    found.iter().map(chunk_of).collect()
}

/// The states of the chunks' heads, of those that are there.
pub(crate) async fn states(commands: &Commands, chunks: &[ChunkId]) -> StoreResult<HashMap<ChunkId, i32>> {
    let mut states = HashMap::with_capacity(chunks.len());
    for some in chunks.chunks(TOGETHER) {
        let ids: Vec<_> = some.iter().map(|chunk| binary(key(chunk.batch, chunk.n))).collect();
        let query = Query::of(doc! { "_id": { "$in": ids } }).fields(doc! { "state": 1 });
        for found in commands.find(HEADS, query, Concern::Local).await? {
            states
                .insert(chunk_of(&found)?, i32::try_from(Fields(&found).small("state")?).unwrap_or(i32::MAX));
        }
    }
    Ok(states)
}

fn chunk_of(found: &Document) -> StoreResult<ChunkId> {
    let id: [u8; 20] = Fields(found).id("_id")?;
    let batch = promptmill_domain::BatchId::from_bytes(id.first_chunk().copied().unwrap_or_default());
    Ok(ChunkId { batch, n: crate::codec::number_of(&id) })
}

/// The filter for chunks of a batch in one of these states.
pub(crate) fn in_states(batch: promptmill_domain::BatchId, states: &[i32]) -> Document {
    doc! { "state": { "$in": states }, "_id": range(batch.as_bytes(), 20) }
}

/// When what a change gave gets its place in the order of settling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placing {
    /// Before the change is answered.
    Now,
    /// Whoever asked for the change leaves it for [`order::catch_up`].
    Later,
}

/// Applies an event to each of the chunks and writes them. `apply` is given the position in `chunks` and the stored head, and answers which of the
/// items it left parked have a new history; it may be asked again when someone else changes the head at that moment.
pub(crate) async fn change(
    store: &MongoStore,
    chunks: &[ChunkId],
    mut known: HashMap<ChunkId, Stored>,
    placing: Placing,
    mut apply: impl FnMut(usize, &mut Stored) -> Result<Vec<u32>, Refusal>,
) -> StoreResult<Vec<Changed>> {
    let commands = store.commands();
    let mut answers: Vec<Option<Changed>> = chunks.iter().map(|_| None).collect();
    for _ in 0..TRIES {
        let left: Vec<_> = (0..chunks.len()).filter(|at| answers[*at].is_none()).collect();
        if left.is_empty() {
            break;
        }
        let unknown: Vec<_> =
            left.iter().map(|at| chunks[*at]).filter(|chunk| !known.contains_key(chunk)).collect();
        known.extend(load(commands, &unknown).await?);
        let mut writes = Vec::with_capacity(left.len());
        let mark = fresh_mark();
        for at in left {
            match known.remove(&chunks[at]) {
                None => answers[at] = Some(Changed::Missing),
                Some(before) => {
                    let mut after = before.clone();
                    match apply(at, &mut after) {
                        Err(refusal) => answers[at] = Some(Changed::Refused(refusal)),
                        Ok(new_histories) => {
                            writes.push(Write { at, before, after, new_histories, mark: mark.clone() })
                        }
                    }
                }
            }
        }
        for write in write_all(store, writes, placing).await? {
            answers[write.at] = Some(Changed::Applied(Box::new(write.after)));
        }
    }
    let tangled = || StoreError::unavailable("a chunk is changed by too many at once");
    answers.into_iter().map(|answer| answer.ok_or_else(tangled)).collect()
}

/// Moves those of the chunks that wait to ready, and answers them. Nothing of a head that waits is to be known for that: nobody worked on it.
pub(crate) async fn admit(commands: &Commands, chunks: &[ChunkId]) -> StoreResult<Vec<ChunkId>> {
    let mut moved = Vec::with_capacity(chunks.len());
    for some in chunks.chunks(TOGETHER) {
        let ids: Vec<_> = some.iter().map(|chunk| binary(key(chunk.batch, chunk.n))).collect();
        let mark = fresh_mark();
        let waiting = doc! { "_id": { "$in": ids.clone() }, "state": WAITING };
        let change = doc! { "$set": { "state": READY, "mark": mark.clone() }, "$inc": { "ver": 1_i64 } };
        if commands.update(HEADS, vec![Update::these(waiting, change)]).await?.n == some.len() as u64 {
            moved.extend_from_slice(some);
            continue;
        }
        // Not all of them wait, or the answer to our own write was lost.
        let mine = Query::of(doc! { "_id": { "$in": ids }, "mark": mark });
        let mine: HashSet<_> = self::ids(commands, mine, Concern::Local).await?.into_iter().collect();
        moved.extend(some.iter().filter(|chunk| mine.contains(chunk)));
    }
    Ok(moved)
}

/// Writes heads that are not there, as ready ones. Answers the chunks whose heads it wrote, and the others.
pub(crate) async fn write_ready(
    commands: &Commands,
    chunks: &[(&Small, ChunkId)],
) -> StoreResult<(Vec<ChunkId>, Vec<ChunkId>)> {
    let mark = fresh_mark();
    let ready = chunks.iter().map(|(small, chunk)| {
        let mut head = small.head(chunk.n);
        head.extend(doc! { "state": READY, "ver": 1_i64, "mark": mark.clone() });
        encode(&head)
    });
    let ready = ready.collect::<StoreResult<_>>()?;
    let chunks: Vec<_> = chunks.iter().map(|(_, chunk)| *chunk).collect();
    let there = insert(commands, &chunks, ready, &mark).await?;
    Ok(chunks.into_iter().partition(|chunk| !there.contains(chunk)))
}

/// Writes heads that are not there, as those of chunks that `owner` works on. Answers those it wrote, and the others, each with its token.
pub(crate) async fn write_leased(
    commands: &Commands,
    owner: SessionId,
    chunks: &[(&Small, ChunkId, LeaseToken)],
    now_ms: u64,
) -> StoreResult<(Vec<(Stored, LeaseToken)>, Vec<(ChunkId, LeaseToken)>)> {
    let mark = fresh_mark();
    let (mut leased, mut documents) = (Vec::with_capacity(chunks.len()), Vec::with_capacity(chunks.len()));
    for (small, chunk, token) in chunks {
        let waiting = small.head(chunk.n);
        let mut stored = Stored::of(&waiting)?;
        let taken = take(&mut stored.head, owner, *token, now_ms);
        taken.map_err(|_| corrupt("the head of a chunk that was just made"))?;
        documents.push(encode(&stored.document(waiting, mark.clone()))?);
        leased.push((stored, *token));
    }
    let ids: Vec<_> = chunks.iter().map(|(_, chunk, _)| *chunk).collect();
    let there = insert(commands, &ids, documents, &mark).await?;
    let (leased, others): (Vec<_>, Vec<_>) =
        leased.into_iter().partition(|(stored, _)| !there.contains(&stored.head.chunk));
    Ok((leased, others.into_iter().map(|(stored, token)| (stored.head.chunk, token)).collect()))
}

/// Leases the chunk of a batch of a single row, which need not have been admitted.
pub(crate) fn take(head: &mut Head, owner: SessionId, token: LeaseToken, now_ms: u64) -> Result<(), Refusal> {
    if head.state == ChunkState::Waiting {
        head.apply(HeadEvent::Admit, now_ms)?;
    }
    head.apply(HeadEvent::Claim { owner, token }, now_ms)
}

/// Inserts these documents of heads; answers those of the chunks that have another one.
async fn insert(
    commands: &Commands,
    chunks: &[ChunkId],
    documents: Vec<RawDocumentBuf>,
    mark: &Bson,
) -> StoreResult<HashSet<ChunkId>> {
    if documents.is_empty() {
        return Ok(HashSet::new());
    }
    let there = commands.insert(HEADS, documents).await?.duplicates;
    let mut there: HashSet<_> = there.into_iter().filter_map(|at| chunks.get(at)).copied().collect();
    if !there.is_empty() {
        // The answer to our own insert may have been lost.
        let ids: Vec<_> = there.iter().map(|chunk| binary(key(chunk.batch, chunk.n))).collect();
        let mine = Query::of(doc! { "_id": { "$in": ids }, "mark": mark });
        for chunk in self::ids(commands, mine, Concern::Local).await? {
            there.remove(&chunk);
        }
    }
    Ok(there)
}

/// [`change`] for events that leave no new histories.
pub(crate) async fn change_plain(
    store: &MongoStore,
    chunks: &[ChunkId],
    mut apply: impl FnMut(usize, &mut Head) -> Result<(), Refusal>,
) -> StoreResult<Vec<Changed>> {
    let apply = |at, stored: &mut Stored| apply(at, &mut stored.head).map(|()| Vec::new());
    change(store, chunks, HashMap::new(), Placing::Now, apply).await
}

struct Write {
    at: usize,
    before: Stored,
    after: Stored,
    new_histories: Vec<u32>,
    mark: Bson,
}

/// Writes heads, and gives those that are written their place in the order of settling. Answers which are.
async fn write_all(store: &MongoStore, mut writes: Vec<Write>, placing: Placing) -> StoreResult<Vec<Write>> {
    let commands = store.commands();
    // What the change before gave must be in the order before it is forgotten.
    let before: Vec<_> = writes
        .iter()
        .filter(|write| write.settles_more())
        .filter_map(|write| record(&write.before))
        .collect();
    order::append(store, before).await?;
    for write in &mut writes {
        write.note_change();
        write.store_histories(commands).await?;
    }
    let mut written = Vec::with_capacity(writes.len());
    while !writes.is_empty() {
        let rest = writes.split_off(writes.len().min(TOGETHER));
        written.extend(write_some(commands, std::mem::replace(&mut writes, rest)).await?);
    }
    let settled: Vec<_> = written
        .iter()
        .filter(|write| write.settles_more())
        .filter_map(|write| record(&write.after))
        .collect();
    if placing == Placing::Now {
        order::append(store, settled).await?;
    }
    for write in &written {
        write.remove_histories(commands).await;
    }
    Ok(written)
}

async fn write_some(commands: &Commands, writes: Vec<Write>) -> StoreResult<Vec<Write>> {
    let matched = commands.update(HEADS, updates(&writes)?).await?.n;
    if usize::try_from(matched).is_ok_and(|matched| matched == writes.len()) {
        return Ok(writes);
    }
    // Someone else was first somewhere, or the answer to our own writes was lost.
    let ids: Vec<_> = writes
        .iter()
        .map(|write| binary(key(write.before.head.chunk.batch, write.before.head.chunk.n)))
        .collect();
    let query = Query::of(doc! { "_id": { "$in": ids } }).fields(doc! { "mark": 1 });
    let mut marks = HashMap::new();
    for mut found in commands.find(HEADS, query, Concern::Local).await? {
        let chunk = chunk_of(&found)?;
        marks.insert(chunk, found.remove("mark"));
    }
    let is_mine =
        |write: &Write| marks.get(&write.before.head.chunk).and_then(Option::as_ref) == Some(&write.mark);
    Ok(writes.into_iter().filter(is_mine).collect())
}

/// The updates for these writes. Heads of one version that change in the same way are one update.
fn updates(writes: &[Write]) -> StoreResult<Vec<Update>> {
    let mut alike: HashMap<(u64, Vec<u8>), usize> = HashMap::new();
    let mut updates: Vec<(Vec<Bson>, u64, Document)> = Vec::new();
    for write in writes {
        let head = &write.before.head;
        let change = write.after.operators(&write.before, write.mark.clone());
        let id = binary(key(head.chunk.batch, head.chunk.n));
        match alike.entry((head.ver, encode(&change)?.into_bytes())) {
            Entry::Occupied(at) => updates[*at.get()].0.push(id),
            Entry::Vacant(place) => {
                place.insert(updates.len());
                updates.push((vec![id], head.ver, change));
            }
        }
    }
    let update = |(ids, ver, change): (Vec<Bson>, u64, Document)| match <[Bson; 1]>::try_from(ids) {
        Ok([id]) => Update::this(doc! { "_id": id, "ver": int(ver) }, change),
        Err(ids) => Update::these(doc! { "_id": { "$in": ids }, "ver": int(ver) }, change),
    };
    Ok(updates.into_iter().map(update).collect())
}

impl Write {
    /// Whether items got their outcome.
    fn settles_more(&self) -> bool {
        self.before.head.done != self.after.head.done
    }

    fn note_change(&mut self) {
        if !self.settles_more() {
            return;
        }
        let number = self.before.last.as_ref().map_or(0, |last| last.number + 1);
        let open = ItemCode::Open.byte();
        let items = (0u8..=u8::MAX)
            .zip(&self.after.head.done)
            .zip(&self.before.head.done)
            .filter(|((_, now), before)| **before == open && **now != open)
            .flat_map(|((offset, now), _)| [offset, *now])
            .collect();
        let bodies = match (&self.before.body, &self.after.body) {
            (None, Some(_)) => ChangeBodies::InHead,
            _ => ChangeBodies::Bundles(self.before.bundles..self.after.bundles),
        };
        self.after.last = Some(Change { number, bodies, items });
    }

    /// Stores new histories that are too large for the head. One that is kept is where it was.
    async fn store_histories(&mut self, commands: &Commands) -> StoreResult<()> {
        let batch = self.after.head.chunk.batch;
        let offsets: Vec<_> = self.after.head.parked.iter().map(|item| item.offset).collect();
        self.after.histories.retain(|offset, _| offsets.contains(offset));
        for item in self.after.head.parked.iter().filter(|item| self.new_histories.contains(&item.offset)) {
            self.after.histories.remove(&item.offset);
            let history = to_json(&item.attempts);
            if history.len() > INLINE_HISTORY {
                let sliced = slices::store(commands, &[(batch, history.as_bytes())]).await?;
                self.after.histories.extend(sliced.into_iter().map(|sliced| (item.offset, sliced)));
            }
        }
        Ok(())
    }

    /// Removes histories that the head does not name any more. What stays after a failure goes with the batch.
    async fn remove_histories(&self, commands: &Commands) {
        let kept: Vec<Sliced> = self.after.histories.values().copied().collect();
        for gone in self.before.histories.values().filter(|sliced| !kept.contains(sliced)) {
            if let Err(error) = slices::remove(commands, self.after.head.chunk.batch, gone).await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "a history that is not needed any more stays until its batch goes");
            }
        }
    }
}

/// The record of a head's last change, to be put in the order; none where the head is all there is to be ordered.
pub(crate) fn record(stored: &Stored) -> Option<Record> {
    let change = stored.last.clone().filter(|_| !stored.alone)?;
    Some(Record { chunk: stored.head.chunk, base: stored.head.base, change })
}

/// Makes the head whole: with the histories that stand beside it.
pub(crate) async fn with_histories(commands: &Commands, mut stored: Stored) -> StoreResult<Head> {
    for item in &mut stored.head.parked {
        if let Some(sliced) = stored.histories.get(&item.offset) {
            let json = slices::load(commands, stored.head.chunk.batch, sliced, Concern::Local).await?;
            item.attempts = history(&json)?;
        }
    }
    Ok(stored.head)
}

fn history(json: &[u8]) -> StoreResult<Vec<promptmill_domain::Attempt>> {
    let text = std::str::from_utf8(json).map_err(|_| crate::codec::corrupt("a history"))?;
    from_json(text, "a history")
}

/// The offsets of the items an event parks.
pub(crate) fn offsets(parked: &[ParkedItem]) -> Vec<u32> {
    parked.iter().map(|item| item.offset).collect()
}
