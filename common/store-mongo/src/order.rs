//! The order in which outcomes settled: a log for each batch, in documents that are filled one after the other.
//!
//! A head carries the last of its changes that gave items their outcome, numbered, in the same write as the items. It is then put in the
//! log under a mark of chunk and number, which is in the log at most once: within a document by the condition of the write, across documents by a
//! unique index. The next document is begun only when the last is full, so whoever has read to the end of the log misses nothing. A head
//! forgets a change only for the next one, after making sure that it is in the log; what a crash kept from the log gets there with
//! the next change of the head, or before its batch closes. A settle leaves its changes for [`catch_up`], which goes on beside the
//! next one's bodies.
//!
//! A cursor is the number of a document and how many of its items were given.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{BatchId, ChunkId};
use promptmill_ports::{PageLimit, SettledCursor, SettledPage, StoreError, StoreResult};

use crate::MongoStore;
use crate::batches;
use crate::bodies::{Part, Where, part_of};
use crate::codec::{Fields, binary, corrupt, key, number_of, range};
use crate::collections::{HEADS, SETTLED};
use crate::commands::{Commands, Concern, Query, Update, encode};
use crate::heads::{self, Stored};
use crate::read::Page;

/// Items from which on a document takes no more.
const FULL: i64 = 2_048;
/// Items of one write; with [`FULL`] far below what a cursor can number.
const ITEMS_TOGETHER: usize = 16_384;
/// Changes of one write.
const CHANGES_TOGETHER: usize = 512;
/// Bytes of one item in a change: its offset in the chunk, and its code. A chunk has at most 256 items.
const ITEM: usize = 2;
/// Bytes of the numbers of a change's bundles: the first, and the one after the last.
const BUNDLES: usize = 8;
/// How often a write is tried while others fill the same log.
const TRIES: u32 = 64;
/// Batches and chunks remembered.
const REMEMBERED: usize = 50_000;
/// Documents of a log that are read at a time.
const READ_TOGETHER: u32 = 2;
/// How long changes are left before their batches may have been ended and deleted by others.
const LEFT_FOR_LONG: Duration = Duration::from_millis(500);

/// Where the bodies of a change's items are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChangeBodies {
    /// In these bundles.
    Bundles(Range<u32>),
    /// In the head.
    InHead,
}

/// A change of a head that gave items their outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The chunk's changes are numbered from 0.
    pub(crate) number: u32,
    /// Where the bodies of the items are, of those that have one.
    pub(crate) bodies: ChangeBodies,
    /// Offset and code of each item.
    pub(crate) items: Vec<u8>,
}

impl Change {
    /// Its bundles and items as bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BUNDLES + self.items.len());
        // No chunk has as many bundles.
        let (start, end) = match &self.bodies {
            ChangeBodies::Bundles(bundles) => (bundles.start, bundles.end),
            ChangeBodies::InHead => (u32::MAX, u32::MAX),
        };
        bytes.extend_from_slice(&start.to_be_bytes());
        bytes.extend_from_slice(&end.to_be_bytes());
        bytes.extend_from_slice(&self.items);
        bytes
    }

    /// The change of that number, of its bytes.
    pub(crate) fn of(number: u32, bytes: &[u8]) -> StoreResult<Self> {
        let damaged = || corrupt("a change of a chunk");
        let (start, bytes) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let (end, items) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let bodies = match (u32::from_be_bytes(*start), u32::from_be_bytes(*end)) {
            (u32::MAX, u32::MAX) => ChangeBodies::InHead,
            (start, end) => ChangeBodies::Bundles(start..end),
        };
        Ok(Self { number, bodies, items: items.to_vec() })
    }
}

/// A change to be put in the log.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Which chunk.
    pub(crate) chunk: ChunkId,
    /// Index of its first item.
    pub(crate) base: u32,
    /// What changed.
    pub(crate) change: Change,
}

impl Record {
    /// By which it is in the log at most once.
    pub(crate) fn mark(&self) -> [u8; 24] {
        let mut mark = [0; 24];
        mark[..20].copy_from_slice(&key(self.chunk.batch, self.chunk.n));
        mark[20..].copy_from_slice(&self.change.number.to_be_bytes());
        mark
    }

    fn entry(&self) -> Vec<u8> {
        let mut entry = self.base.to_be_bytes().to_vec();
        entry.extend(self.change.to_bytes());
        entry
    }

    fn items(&self) -> usize {
        self.change.items.len() / ITEM
    }
}

/// What this process knows of the logs: which document is the last, and up to which change a chunk is in; and what it has for them.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    known: Mutex<Known>,
    /// Held by whoever writes to logs, so that who needs a change there waits for it and does not write it as well.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    last: HashMap<BatchId, u32>,
    logged: HashMap<ChunkId, u32>,
    left: Left,
}

/// Changes that are written and not in a log yet.
#[derive(Debug, Default)]
struct Left {
    records: Vec<Record>,
    /// Since when there are some.
    since: Option<Instant>,
}

impl Logs {
    fn with<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_logged(&self, record: &Record) -> bool {
        self.with(|known| {
            known.logged.get(&record.chunk).is_some_and(|number| *number >= record.change.number)
        })
    }

    fn note_logged(&self, record: &Record) {
        self.with(|known| {
            if known.logged.len() >= REMEMBERED {
                known.logged.clear();
            }
            let number = known.logged.entry(record.chunk).or_default();
            *number = record.change.number.max(*number);
        });
    }

    fn last(&self, batch: BatchId) -> Option<u32> {
        self.with(|known| known.last.get(&batch).copied())
    }

    fn note_last(&self, batch: BatchId, number: u32) {
        self.with(|known| {
            if known.last.len() >= REMEMBERED {
                known.last.clear();
            }
            known.last.insert(batch, number);
        });
    }

    /// Forgets a batch that is being deleted: another one may be made under its id.
    pub(crate) fn forget(&self, batch: BatchId) {
        self.with(|known| {
            known.last.remove(&batch);
            known.logged.retain(|chunk, _| chunk.batch != batch);
            known.left.records.retain(|record| record.chunk.batch != batch);
        });
    }

    /// Leaves a change for [`catch_up`], unless it is in its log.
    pub(crate) fn leave(&self, record: Option<Record>) {
        let Some(record) = record.filter(|record| !self.is_logged(record)) else { return };
        self.with(|known| {
            if known.left.records.iter().all(|other| other.mark() != record.mark()) {
                known.left.since.get_or_insert_with(Instant::now);
                known.left.records.push(record);
            }
        });
    }

    fn take_left(&self) -> Left {
        self.with(|known| std::mem::take(&mut known.left))
    }
}

/// Puts the changes that were left in the logs of their batches.
pub(crate) async fn catch_up(store: &MongoStore) -> StoreResult<()> {
    let _writing = store.logs().writing.lock().await;
    write_left_and(store, Vec::new()).await
}

/// Puts changes in the logs of their batches, each once, behind those that were left. Repeatable.
pub(crate) async fn append(store: &MongoStore, records: Vec<Record>) -> StoreResult<()> {
    if records.iter().all(|record| store.logs().is_logged(record)) {
        return Ok(());
    }
    let _writing = store.logs().writing.lock().await;
    write_left_and(store, records).await
}

async fn write_left_and(store: &MongoStore, mut more: Vec<Record>) -> StoreResult<()> {
    let logs = store.logs();
    let Left { records: left, since } = logs.take_left();
    more.retain(|record| left.iter().all(|other| other.mark() != record.mark()));
    let all = async {
        let mut records = match since.is_some_and(|since| since.elapsed() > LEFT_FOR_LONG) {
            true => of_batches_that_are(store, &left).await?,
            false => left.clone(),
        };
        records.extend(more.iter().cloned());
        write(store, records).await
    };
    match all.await {
        Err(error @ StoreError::Unavailable(_)) => {
            logs.with(|known| {
                // In front of what was left meanwhile.
                known.left.records.splice(0..0, left);
                known.left.since = since.or(known.left.since);
            });
            Err(error)
        }
        Err(error) => {
            // One batch is damaged, and keeps no other from its log; its closing tells of it.
            tracing::error!(%error, "the order of a batch cannot be written");
            for record in left {
                let _ = write(store, vec![record]).await;
            }
            write(store, more).await
        }
        Ok(()) => Ok(()),
    }
}

async fn of_batches_that_are(store: &MongoStore, records: &[Record]) -> StoreResult<Vec<Record>> {
    let batches: HashSet<BatchId> = records.iter().map(|record| record.chunk.batch).collect();
    let there = batches::are_there(store.commands(), batches).await?;
    Ok(records.iter().filter(|record| there.contains(&record.chunk.batch)).cloned().collect())
}

/// The first changes of batches whose logs seem not to be there begin them all in one command, and changes for logs whose last document is known go
/// there in one. What that does not do, each batch does for itself ([`append_some`]).
async fn write(store: &MongoStore, records: Vec<Record>) -> StoreResult<()> {
    let (mut fresh, mut known, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for (batch, records) in by_batch(store, records) {
        let is_one_write = fitting(&records) == records.len();
        match store.logs().last(batch) {
            Some(last) if is_one_write => known.push((batch, last, records)),
            // Nothing of these chunks was ever logged, so perhaps nothing of their batch.
            None if is_one_write && records.iter().all(|record| record.change.number == 0) => {
                fresh.push((batch, 0, records));
            }
            Some(_) | None => alone.push((batch, 0, records)),
        }
    }
    for (these, is_new) in [(fresh, true), (known, false)] {
        // One alone finds its way with as few commands.
        if these.len() > 1 || is_new {
            alone.extend(append_each(store, these, is_new).await?);
        } else {
            alone.extend(these);
        }
    }
    for (batch, _, mut records) in alone {
        while !records.is_empty() {
            let rest = records.split_off(fitting(&records));
            append_some(store, batch, std::mem::replace(&mut records, rest)).await?;
        }
    }
    Ok(())
}

fn by_batch(store: &MongoStore, records: Vec<Record>) -> HashMap<BatchId, Vec<Record>> {
    let mut by_batch: HashMap<BatchId, Vec<Record>> = HashMap::new();
    for record in records {
        if !store.logs().is_logged(&record) {
            by_batch.entry(record.chunk.batch).or_default().push(record);
        }
    }
    by_batch
}

/// How many of the records go in one write.
fn fitting(records: &[Record]) -> usize {
    let mut items = 0;
    let fits = records.iter().take(CHANGES_TOGETHER).take_while(|record| {
        items += record.items();
        items <= ITEMS_TOGETHER
    });
    fits.count().max(1)
}

/// Changes for one document of a batch's log.
type ForLog = (BatchId, u32, Vec<Record>);

/// Begins these documents, or adds to them, in one command. Answers those of which it is not sure.
async fn append_each(store: &MongoStore, these: Vec<ForLog>, is_new: bool) -> StoreResult<Vec<ForLog>> {
    if these.is_empty() {
        return Ok(these);
    }
    let (commands, logs) = (store.commands(), store.logs());
    let is_unsure: Vec<bool> = if is_new {
        let documents = these.iter().map(|(batch, last, records)| encode(&beginning(*batch, *last, records)));
        let there = commands.insert(SETTLED, documents.collect::<StoreResult<_>>()?).await?.duplicates;
        (0..these.len()).map(|at| there.contains(&at)).collect()
    } else {
        let pushes = these.iter().map(|(batch, last, records)| pushing(*batch, *last, records));
        let written = commands.update(SETTLED, pushes.collect()).await?;
        vec![written.n != these.len() as u64 || !written.duplicates.is_empty(); these.len()]
    };
    let mut unsure = Vec::new();
    for ((batch, last, records), is_unsure) in these.into_iter().zip(is_unsure) {
        if is_unsure {
            unsure.push((batch, last, records));
        } else {
            records.iter().for_each(|record| logs.note_logged(record));
            logs.note_last(batch, last);
        }
    }
    Ok(unsure)
}

async fn append_some(store: &MongoStore, batch: BatchId, mut records: Vec<Record>) -> StoreResult<()> {
    let (commands, logs) = (store.commands(), store.logs());
    let mut last = match logs.last(batch) {
        Some(last) => last,
        None => last_document(commands, batch).await?,
    };
    for _ in 0..TRIES {
        if records.is_empty() {
            return Ok(());
        }
        if push(commands, batch, last, &records).await? {
            records.iter().for_each(|record| logs.note_logged(record));
            logs.note_last(batch, last);
            return Ok(());
        }
        // The document is full or not there yet, or one of the changes is in the log.
        let logged = logged_of(commands, &records).await?;
        if !logged.is_empty() {
            let (there, left) =
                records.into_iter().partition(|record| logged.contains(record.mark().as_slice()));
            let there: Vec<Record> = there;
            there.iter().for_each(|record| logs.note_logged(record));
            records = left;
            continue;
        }
        match count(commands, batch, last).await? {
            Some(count) if count >= FULL => last += 1,
            Some(_) => {}
            None if begin(commands, batch, last, &records).await? => {
                records.iter().for_each(|record| logs.note_logged(record));
                logs.note_last(batch, last);
                return Ok(());
            }
            None => {}
        }
    }
    Err(StoreError::unavailable("the order of a batch is written by too many at once"))
}

async fn last_document(commands: &Commands, batch: BatchId) -> StoreResult<u32> {
    let query = Query::of(doc! { "_id": range(batch.as_bytes(), 20) }).fields(doc! { "_id": 1 });
    let last = commands.find_one(SETTLED, query.sort(doc! { "_id": -1 }), Concern::Local).await?;
    last.map_or(Ok(0), |last| Ok(number_of(Fields(&last).bytes("_id")?)))
}

fn lists(records: &[Record]) -> (Vec<Bson>, Vec<Bson>, i64) {
    let marks = records.iter().map(|record| binary(record.mark())).collect();
    let entries = records.iter().map(|record| binary(record.entry())).collect();
    let items: usize = records.iter().map(Record::items).sum();
    (marks, entries, i64::try_from(items).unwrap_or(i64::MAX))
}

/// Adds the changes to a document that is not full; answers whether it did.
async fn push(commands: &Commands, batch: BatchId, number: u32, records: &[Record]) -> StoreResult<bool> {
    let written = commands.update(SETTLED, vec![pushing(batch, number, records)]).await?;
    Ok(written.n == 1 && written.duplicates.is_empty())
}

/// The update that does.
fn pushing(batch: BatchId, number: u32, records: &[Record]) -> Update {
    let (marks, entries, items) = lists(records);
    let filter = doc! {
        "_id": binary(key(batch, number)), "count": { "$lt": FULL }, "marks": { "$nin": marks.clone() },
    };
    let change = doc! {
        "$push": { "entries": { "$each": entries }, "marks": { "$each": marks } }, "$inc": { "count": items },
    };
    Update::one(filter, change)
}

/// Begins a document with the changes; answers whether it did.
async fn begin(commands: &Commands, batch: BatchId, number: u32, records: &[Record]) -> StoreResult<bool> {
    commands.insert_one(SETTLED, &beginning(batch, number, records)).await
}

/// The document that is begun.
fn beginning(batch: BatchId, number: u32, records: &[Record]) -> Document {
    let (marks, entries, items) = lists(records);
    doc! { "_id": binary(key(batch, number)), "count": items, "entries": entries, "marks": marks }
}

async fn count(commands: &Commands, batch: BatchId, number: u32) -> StoreResult<Option<i64>> {
    let query = Query::of(doc! { "_id": binary(key(batch, number)) }).fields(doc! { "count": 1 });
    let found = commands.find_one(SETTLED, query, Concern::Local).await?;
    found.map(|found| Ok(crate::codec::int(Fields(&found).uint("count")?))).transpose()
}

/// The marks of those of the changes that are in the log.
async fn logged_of(commands: &Commands, records: &[Record]) -> StoreResult<HashSet<Vec<u8>>> {
    let asked: HashSet<Vec<u8>> = records.iter().map(|record| record.mark().to_vec()).collect();
    let marks: Vec<_> = asked.iter().map(|mark| binary(mark.clone())).collect();
    let query = Query::of(doc! { "marks": { "$in": marks } }).fields(doc! { "marks": 1 });
    let mut logged = marks_of(&commands.find(SETTLED, query, Concern::Local).await?)?;
    logged.retain(|mark| asked.contains(mark));
    Ok(logged)
}

fn marks_of(documents: &[Document]) -> StoreResult<HashSet<Vec<u8>>> {
    let mut marks = HashSet::new();
    for document in documents {
        for mark in document.get_array("marks").map_err(|_| corrupt("the order of a batch"))? {
            let Bson::Binary(mark) = mark else { return Err(corrupt("the order of a batch")) };
            marks.insert(mark.bytes.clone());
        }
    }
    Ok(marks)
}

/// The marks in the first documents of these batches' logs.
pub(crate) async fn first_marks(commands: &Commands, batches: &[BatchId]) -> StoreResult<HashSet<Vec<u8>>> {
    if batches.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<_> = batches.iter().map(|batch| binary(key(*batch, 0))).collect();
    let query = Query::of(doc! { "_id": { "$in": ids } }).fields(doc! { "marks": 1 });
    marks_of(&commands.find(SETTLED, query, Concern::Local).await?)
}

/// Puts in the log what a crash kept from it. To be called when no chunk of the batch changes any more.
pub(crate) async fn complete(store: &MongoStore, batch: BatchId) -> StoreResult<()> {
    let commands = store.commands();
    let all = doc! { "_id": range(batch.as_bytes(), 20) };
    let marks = Query::of(all.clone()).fields(doc! { "marks": 1 });
    let heads = Query::of(all).fields(doc! { "change": 1, "alone": 1 });
    // No change comes while they are read.
    let (marks, heads) = tokio::join!(
        commands.find(SETTLED, marks, Concern::Local),
        commands.find(HEADS, heads, Concern::Local),
    );
    let logged = marks_of(&marks?)?;
    let mut missing = Vec::new();
    for head in heads? {
        let id: [u8; 20] = Fields(&head).id("_id")?;
        if !Fields(&head).has("change") || Fields(&head).flag("alone") {
            continue;
        }
        let mut mark = id.to_vec();
        mark.extend_from_slice(&Fields(&head).small("change")?.to_be_bytes());
        if !logged.contains(&mark) {
            missing.push(ChunkId { batch, n: number_of(&id) });
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut heads: Vec<Stored> = heads::load(commands, &missing).await?.into_values().collect();
    heads.sort_by_key(|stored| stored.head.chunk);
    append(store, heads.iter().filter_map(heads::record).collect()).await
}

/// The outcomes behind a cursor, as far as `limit` allows.
pub(crate) async fn page(
    commands: &Commands,
    epoch: u16,
    batch: BatchId,
    after: SettledCursor,
    limit: PageLimit,
) -> StoreResult<SettledPage> {
    let (number, given) = after.place_in(epoch)?;
    let behind = doc! { "$gte": binary(key(batch, number)), "$lte": binary(key(batch, u32::MAX)) };
    let query = Query::of(doc! { "_id": behind }).fields(doc! { "entries": 1 }).sort(doc! { "_id": 1 });
    let is_first = after == SettledCursor::default();
    let alone = async { if is_first { alone(commands, batch).await } else { Ok(None) } };
    let log = commands.stream(SETTLED, query, Concern::Majority, READ_TOGETHER);
    let (log, alone) = tokio::join!(log, alone);
    let (mut rows, alone) = (log?, alone?);
    let mut page = Page::new(commands, batch, limit);
    let mut cursors = Vec::new();
    let mut caught_up = true;
    while let Some(row) = rows.next().await? {
        let document = Document::try_from(row).map_err(|_| corrupt("the order of a batch"))?;
        let this = number_of(Fields(&document).bytes("_id")?);
        let skipped = if this == number { given } else { 0 };
        let mut parts = parts_of(&document)?;
        let mut left = usize::from(skipped);
        for part in &mut parts {
            left -= part.items.drain(..left.min(part.items.len())).len();
        }
        let taken = page.fill(&parts).await?;
        cursors.extend(
            (skipped..=u16::MAX).skip(1).take(taken).map(|position| SettledCursor::at(epoch, this, position)),
        );
        let items: usize = parts.iter().map(|part| part.items.len()).sum();
        if taken < items {
            caught_up = false;
            break;
        }
    }
    if let Some(part) = alone {
        let taken = page.fill(&[part]).await?;
        cursors.extend((1..=u16::MAX).take(taken).map(|position| SettledCursor::at(epoch, 0, position)));
    }
    let next = cursors.last().copied().unwrap_or(after);
    let outcomes = page.outcomes.into_iter().zip(cursors).collect();
    Ok(SettledPage { outcomes, next, caught_up })
}

/// The item of a batch that has one alone, if it has its outcome: there is no log of it.
async fn alone(commands: &Commands, batch: BatchId) -> StoreResult<Option<Part>> {
    let query = Query::of(doc! { "_id": binary(key(batch, 0)), "alone": true });
    let Some(found) = commands.find_one(HEADS, query, Concern::Majority).await? else { return Ok(None) };
    part_of(&found, 0).map(Some)
}

/// The items of a document, in their order.
fn parts_of(document: &Document) -> StoreResult<Vec<Part>> {
    let damaged = || corrupt("the order of a batch");
    let mut parts = Vec::new();
    for entry in document.get_array("entries").map_err(|_| damaged())? {
        let Bson::Binary(entry) = entry else { return Err(damaged()) };
        let (base, change) = entry.bytes.split_first_chunk().ok_or_else(damaged)?;
        let base = u32::from_be_bytes(*base);
        let change = Change::of(0, change)?;
        let items =
            change.items.chunks_exact(ITEM).map(|item| (base + u32::from(item[0]), item[1])).collect();
        parts.push(Part { base, bodies: change.bodies.into(), items });
    }
    Ok(parts)
}

impl From<ChangeBodies> for Where {
    fn from(bodies: ChangeBodies) -> Self {
        match bodies {
            ChangeBodies::Bundles(bundles) => Self::Bundles(bundles),
            ChangeBodies::InHead => Self::InHead,
        }
    }
}
