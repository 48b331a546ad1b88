//! Commands as we send them: every one with its write or read concern and `maxTimeMS`, which the driver's `run_command` takes
//! from nowhere, with a limit on the wait for its answer, and repeated while its failure is one that passes.
//!
//! A write that is repeated may have taken effect before. Every step of this crate allows for that: inserts find their document
//! there, deletes find nothing, and a compare-and-set that matched nothing is read again for its mark ([`fresh_mark`]).

mod query;
mod write;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mongodb::bson::raw::{CStr, cstr};
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocument, RawDocumentBuf, Timestamp, doc, rawdoc};
use mongodb::{Cursor, Database};
use promptmill_ports::{StoreError, StoreResult};

use crate::codec::{binary, corrupt};
use crate::endpoints::Told;
use crate::fault::Fault;
use crate::kept_usage::KeptUsage;
use crate::usage::Unwritten;

pub(crate) use query::{Concern, Query};
pub(crate) use write::{Update, Written};

use query::find_command;
use write::{parts, written};

/// How often a command is repeated, each time after the next of these.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
];
/// Beyond the server's own time for a command, this long until a connection that says nothing is given up.
const GRACE: Duration = Duration::from_secs(5);
/// A command that writes, and the name of its list.
const INSERT: (&CStr, &CStr) = (cstr!("insert"), cstr!("documents"));
const UPDATE: (&CStr, &CStr) = (cstr!("update"), cstr!("updates"));
const DELETE: (&CStr, &CStr) = (cstr!("delete"), cstr!("deletes"));

/// A random mark that a compare-and-set leaves in its document, so that it knows its own work when the answer was lost.
pub(crate) fn fresh_mark() -> Bson {
    binary(rand::random::<[u8; 12]>())
}

/// The database, as the steps of this crate use it.
#[derive(Debug)]
pub(crate) struct Commands {
    database: Database,
    time: Duration,
    epoch: Instant,
    /// When a write failed last, milliseconds since `epoch`, plus one; zero when none did.
    failed: AtomicU64,
    /// When a write succeeded last, likewise.
    succeeded: AtomicU64,
    /// Commands that were sent.
    sent: AtomicU64,
    kept_usage: KeptUsage,
    unwritten_usage: Unwritten,
    told: Told,
}

impl Commands {
    /// Over this database, each command with so much time.
    pub(crate) fn new(database: Database, time: Duration) -> Self {
        let (failed, succeeded) = (AtomicU64::new(0), AtomicU64::new(0));
        let (sent, kept_usage) = (AtomicU64::new(0), KeptUsage::default());
        let (unwritten_usage, told) = (Unwritten::default(), Told::default());
        let epoch = Instant::now();
        Self { database, time, epoch, failed, succeeded, sent, kept_usage, unwritten_usage, told }
    }

    /// What was read of usage a moment ago.
    pub(crate) const fn kept_usage(&self) -> &KeptUsage {
        &self.kept_usage
    }

    /// What was added to usage and is not in the database yet.
    pub(crate) const fn unwritten_usage(&self) -> &Unwritten {
        &self.unwritten_usage
    }

    /// Which tenants had endpoints a moment ago.
    pub(crate) const fn told(&self) -> &Told {
        &self.told
    }

    /// How many commands were sent, repeated ones each time, and those not that fetch more of an answer.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether the last write failed.
    pub(crate) fn last_write_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed) > self.succeeded.load(Ordering::Relaxed)
    }

    /// Whether a write failed within this time.
    pub(crate) fn write_failed_within(&self, time: Duration) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        failed > 0 && self.now().saturating_sub(failed) <= millis(time)
    }

    fn now(&self) -> u64 {
        millis(self.epoch.elapsed()) + 1
    }

    fn max_time(&self) -> i64 {
        i64::try_from(self.time.as_millis()).unwrap_or(i64::MAX)
    }

    fn write_concern(&self) -> Document {
        doc! { "w": "majority", "j": true, "wtimeout": self.max_time() }
    }

    /// Runs a command that writes nothing, or whose write needs no words of ours.
    pub(crate) async fn run(&self, mut command: Document) -> StoreResult<Document> {
        command.insert("maxTimeMS", self.max_time());
        let command = encode(&command)?;
        self.repeat(&command).await.map_err(StoreError::from)
    }

    /// Runs a command that writes and answers something else than counts.
    pub(crate) async fn run_write(&self, mut command: Document) -> StoreResult<Document> {
        command.insert("writeConcern", self.write_concern());
        let answer = self.run(command).await;
        self.note(&answer);
        answer
    }

    /// Inserts what is not there yet; what is stays as it is.
    pub(crate) async fn insert(
        &self,
        collection: &str,
        documents: Vec<RawDocumentBuf>,
    ) -> StoreResult<Written> {
        let mut all = Written::default();
        let mut done = 0;
        for part in parts(documents, |document| document.as_bytes().len()) {
            let count = part.len();
            let mut array = RawArrayBuf::new();
            part.into_iter().for_each(|document| array.push(document));
            let written = self.write(INSERT, collection, array).await?;
            all.n += written.n;
            all.duplicates.extend(written.duplicates.into_iter().map(|at| at + done));
            done += count;
        }
        Ok(all)
    }

    /// Inserts one document; answers whether it is new.
    pub(crate) async fn insert_one(&self, collection: &str, document: &Document) -> StoreResult<bool> {
        Ok(self.insert(collection, vec![encode(document)?]).await?.n == 1)
    }

    /// Updates; answers how many documents matched.
    pub(crate) async fn update(&self, collection: &str, updates: Vec<Update>) -> StoreResult<Written> {
        let entries = updates.into_iter().map(|update| encode(&update.into_document()));
        let mut all = Written::default();
        let mut done = 0;
        for part in parts(entries.collect::<StoreResult<Vec<_>>>()?, |entry| entry.as_bytes().len()) {
            let count = part.len();
            let mut array = RawArrayBuf::new();
            part.into_iter().for_each(|entry| array.push(entry));
            let written = self.write(UPDATE, collection, array).await?;
            all.n += written.n;
            all.duplicates.extend(written.duplicates.into_iter().map(|at| at + done));
            done += count;
        }
        Ok(all)
    }

    /// Removes every document that matches; answers how many.
    pub(crate) async fn delete(&self, collection: &str, filter: Document) -> StoreResult<u64> {
        let mut array = RawArrayBuf::new();
        array.push(encode(&doc! { "q": filter, "limit": 0 })?);
        Ok(self.write(DELETE, collection, array).await?.n)
    }

    async fn write(
        &self,
        (verb, list): (&CStr, &CStr),
        collection: &str,
        entries: RawArrayBuf,
    ) -> StoreResult<Written> {
        let mut command = RawDocumentBuf::new();
        let write_concern = encode(&self.write_concern())?;
        command.append(verb, collection);
        command.append(list, entries);
        let rest = rawdoc! { "ordered": false, "writeConcern": write_concern, "maxTimeMS": self.max_time() };
        append_all(&mut command, &rest)?;
        let answer = self.repeat(&command).await.and_then(|reply| written(&reply)).map_err(StoreError::from);
        self.note(&answer);
        answer
    }

    /// Changes one document and answers what it was before, or is `after` the change.
    pub(crate) async fn find_and_modify(
        &self,
        collection: &str,
        filter: Document,
        change: Document,
        after: bool,
        upsert: bool,
    ) -> StoreResult<Option<Document>> {
        let command = doc! {
            "findAndModify": collection, "query": filter, "update": change, "new": after, "upsert": upsert,
        };
        let mut reply = self.run_write(command).await?;
        match reply.remove("value") {
            Some(Bson::Document(found)) => Ok(Some(found)),
            None | Some(Bson::Null) => Ok(None),
            Some(_) => Err(corrupt("an answer")),
        }
    }

    /// The documents a query names.
    pub(crate) async fn find(
        &self,
        collection: &str,
        query: Query,
        concern: Concern,
    ) -> StoreResult<Vec<Document>> {
        // The server takes no limit of zero for one.
        if query.limit == Some(0) {
            return Ok(Vec::new());
        }
        self.collect(find_command(collection, query), concern).await
    }

    /// The first document a query names.
    pub(crate) async fn find_one(
        &self,
        collection: &str,
        query: Query,
        concern: Concern,
    ) -> StoreResult<Option<Document>> {
        Ok(self.find(collection, query.limit(1), concern).await?.pop())
    }

    /// What a pipeline gives.
    pub(crate) async fn aggregate(
        &self,
        collection: &str,
        pipeline: Vec<Document>,
        concern: Concern,
    ) -> StoreResult<Vec<Document>> {
        let command = doc! { "aggregate": collection, "pipeline": pipeline, "cursor": {} };
        self.collect(command, concern).await
    }

    /// What a command lists that takes no read concern.
    pub(crate) async fn list(&self, command: Document) -> StoreResult<Vec<Document>> {
        self.gather(self.open(command, None).await?).await
    }

    async fn collect(&self, mut command: Document, concern: Concern) -> StoreResult<Vec<Document>> {
        command.insert("readConcern", concern.document());
        self.gather(self.open(command, None).await?).await
    }

    async fn gather(&self, mut rows: Rows) -> StoreResult<Vec<Document>> {
        let mut found = Vec::new();
        while let Some(row) = rows.next().await? {
            found.push(Document::try_from(row).map_err(|_| corrupt("a document"))?);
        }
        Ok(found)
    }

    /// The first document a query names, and the moment of which that is ([`Concern::SnapshotAt`]).
    pub(crate) async fn find_one_with_moment(
        &self,
        collection: &str,
        query: Query,
    ) -> StoreResult<Option<(Document, Timestamp)>> {
        let mut command = find_command(collection, query.limit(1));
        command.insert("readConcern", Concern::Snapshot.document());
        let mut reply = self.run(command).await?;
        let cursor = reply.get_document_mut("cursor").map_err(|_| corrupt("an answer"))?;
        let moment = cursor.get_timestamp("atClusterTime").map_err(|_| corrupt("an answer"))?;
        let batch = cursor.get_array_mut("firstBatch").map_err(|_| corrupt("an answer"))?;
        match batch.pop() {
            Some(Bson::Document(found)) => Ok(Some((found, moment))),
            None => Ok(None),
            Some(_) => Err(corrupt("an answer")),
        }
    }

    /// The documents a query names one after the other, so many at a time: for those that are large.
    pub(crate) async fn stream(
        &self,
        collection: &str,
        query: Query,
        concern: Concern,
        batch: u32,
    ) -> StoreResult<Rows> {
        let mut command = find_command(collection, query);
        command.insert("readConcern", concern.document());
        command.insert("batchSize", batch);
        self.open(command, Some(batch)).await
    }

    async fn open(&self, mut command: Document, batch: Option<u32>) -> StoreResult<Rows> {
        command.insert("maxTimeMS", self.max_time());
        let mut pauses = PAUSES.iter();
        loop {
            self.sent.fetch_add(1, Ordering::Relaxed);
            let mut opening = self.database.run_cursor_command(command.clone());
            if let Some(batch) = batch {
                opening = opening.batch_size(batch);
            }
            let fault = match tokio::time::timeout(self.patience(), opening).await {
                Ok(Ok(cursor)) => return Ok(Rows { cursor, patience: self.patience() }),
                Ok(Err(error)) => Fault::of(&error),
                Err(_) => Fault::Unanswered,
            };
            pause(fault, &mut pauses).await?;
        }
    }

    async fn repeat(&self, command: &RawDocumentBuf) -> Result<Document, Fault> {
        let mut pauses = PAUSES.iter();
        loop {
            self.sent.fetch_add(1, Ordering::Relaxed);
            let running = self.database.run_raw_command(command.clone());
            let fault = match tokio::time::timeout(self.patience(), running).await {
                Ok(Ok(reply)) => match Fault::of_reply(&reply) {
                    None => return Ok(reply),
                    Some(fault) => fault,
                },
                Ok(Err(error)) => Fault::of(&error),
                Err(_) => Fault::Unanswered,
            };
            pause(fault, &mut pauses).await?;
        }
    }

    /// A server that answers does so within its time for the command and that for the write concern.
    fn patience(&self) -> Duration {
        2 * self.time + GRACE
    }

    fn note<T>(&self, answer: &StoreResult<T>) {
        match answer {
            Ok(_) => self.succeeded.store(self.now(), Ordering::Relaxed),
            Err(StoreError::Unavailable(_)) => self.failed.store(self.now(), Ordering::Relaxed),
            Err(_) => {}
        }
    }
}

/// Documents that come one after the other.
pub(crate) struct Rows {
    cursor: Cursor<Document>,
    patience: Duration,
}

impl Rows {
    /// The next one.
    pub(crate) async fn next(&mut self) -> StoreResult<Option<&RawDocument>> {
        match tokio::time::timeout(self.patience, self.cursor.advance()).await {
            Ok(Ok(true)) => Ok(Some(self.cursor.current())),
            Ok(Ok(false)) => Ok(None),
            Ok(Err(error)) => Err(Fault::of(&error).into()),
            Err(_) => Err(Fault::Unanswered.into()),
        }
    }
}

/// Waits before a command is sent again, or tells that it is not.
async fn pause(fault: Fault, pauses: &mut std::slice::Iter<'_, Duration>) -> Result<(), Fault> {
    match pauses.next() {
        Some(pause) if fault.may_pass() => {
            tracing::debug!(error = %fault, "a command of the store is repeated");
            tokio::time::sleep(*pause).await;
            Ok(())
        }
        _ => Err(fault),
    }
}

fn append_all(command: &mut RawDocumentBuf, rest: &RawDocument) -> StoreResult<()> {
    for element in rest {
        let (name, value) = element.map_err(|_| corrupt("a command"))?;
        command.append(name, value);
    }
    Ok(())
}

/// A document as it is sent.
pub(crate) fn encode(document: &Document) -> StoreResult<RawDocumentBuf> {
    RawDocumentBuf::try_from(document)
        .map_err(|_| StoreError::Conflict("a value cannot be stored".to_owned()))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl std::fmt::Debug for Rows {
    /// Shows nothing of the documents.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").finish_non_exhaustive()
    }
}
