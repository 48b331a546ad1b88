//! The writer: one thread that runs commands in groups, one transaction and one sync a group.
//!
//! A command that fails takes nothing of the others with it: each but the first runs under a savepoint. Nobody is answered
//! before the commit; a failed commit answers `Unavailable` to the whole group. After an error of the disk the connection
//! is opened anew, so the store recovers without a restart when the disk does.
//! After a deletion the thread also empties the log, which would otherwise keep what was deleted until it is written over.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use promptmill_ports::{StoreError, StoreResult};
use rusqlite::Connection;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::batches::BatchNum;
use crate::fault::Fault;
use crate::{delete, schema};

/// Commands of one transaction.
const GROUP: usize = 64;
/// Bytes of one transaction after which it is closed.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Commands that may wait for the writer.
const WAITING: usize = 256;
/// KiB of commands that may wait for the writer; a single larger one waits alone.
const WAITING_KIB: u32 = 64 * 1024;

/// How long clearing the log rests after a reader stood in its way.
const CLEAR_LOG_EVERY: Duration = Duration::from_secs(1);

/// A group of so many bytes is work. Between spells of work there are only beats and looks, of a few hundred bytes each.
const WORK_BYTES: usize = 32 * 1024;

/// How long after the last work the page cache is given back.
const CACHE_KEPT: Duration = Duration::from_millis(250);

/// The async side of the writer thread.
#[derive(Debug)]
pub(crate) struct Writer {
    commands: Option<mpsc::Sender<Box<dyn Command>>>,
    room: Arc<Semaphore>,
    log_is_stale: Arc<AtomicBool>,
    health: Arc<Health>,
    thread: Option<JoinHandle<()>>,
}

/// When writes failed.
#[derive(Debug, Default)]
struct Health(Mutex<Failures>);

#[derive(Debug, Default, Clone, Copy)]
struct Failures {
    /// The last group was not committed.
    failing: bool,
    /// When the last group ended that was not.
    last: Option<Instant>,
}

impl Health {
    fn note(&self, committed: bool) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.failing = !committed;
        if !committed {
            failures.last = Some(Instant::now());
        }
    }

    fn failures(&self) -> Failures {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the writer thread needs to open its connection again.
#[derive(Debug)]
pub(crate) struct WriterFile {
    /// The database file.
    pub(crate) file: PathBuf,
    /// Page cache, KiB.
    pub(crate) cache_kib: u32,
    /// The most pages the file may have; `None` is SQLite's own limit.
    pub(crate) max_pages: Option<u32>,
}

impl WriterFile {
    /// Opens the connection.
    pub(crate) fn connect(&self) -> Result<Connection, Fault> {
        schema::connect_writer(&self.file, self.cache_kib, self.max_pages)
    }
}

impl Writer {
    /// Starts the thread on an open connection. `leftovers` are batches whose deletion a crash cut short; they are deleted
    /// while nothing else is to do.
    pub(crate) fn start(db: Connection, file: WriterFile, leftovers: Vec<BatchNum>) -> std::io::Result<Self> {
        let (commands, queue) = mpsc::channel(WAITING);
        let log_is_stale = Arc::new(AtomicBool::new(false));
        let health = Arc::<Health>::default();
        let (stale, noted) = (Arc::clone(&log_is_stale), Arc::clone(&health));
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            let (db, log_is_stale, health) = (Some(db), stale, noted);
            let (worked, log_cleared) = (None, None);
            WriterThread { db, file, queue, leftovers, log_is_stale, health, log_cleared, worked }.run();
        })?;
        let room = Arc::new(Semaphore::new(WAITING_KIB as usize));
        Ok(Self { commands: Some(commands), room, log_is_stale, health, thread: Some(thread) })
    }

    /// Whether the last group was not committed.
    pub(crate) fn last_write_failed(&self) -> bool {
        self.health.failures().failing
    }

    /// Whether a group was not committed within this time.
    pub(crate) fn write_failed_within(&self, time: Duration) -> bool {
        self.health.failures().last.is_some_and(|last| last.elapsed() < time)
    }

    /// Runs `work` in the next group and answers once it is committed. `bytes` is about what it writes.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> StoreResult<T> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(WAITING_KIB).min(WAITING_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(StoreError::unavailable)?;
        let (reply, answer) = oneshot::channel();
        let pending = Pending { work: Some(work), result: None, reply, bytes, _room: room };
        let Some(commands) = &self.commands else {
            return Err(writer_ended());
        };
        commands.send(Box::new(pending)).await.map_err(|_| writer_ended())?;
        answer.await.map_err(|_| writer_ended())?
    }

    /// Empties the log once what it holds is in the file, so that nothing deleted stays readable in it. It is done when this
    /// returns, unless a reader stands in the way; then it is done soon.
    pub(crate) async fn clear_log(&self) -> StoreResult<()> {
        self.log_is_stale.store(true, Ordering::Release);
        self.run(0, |_| Ok(())).await
    }

    /// Lets the thread finish what waits, and waits for that.
    pub(crate) fn stop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer ended by a panic");
        }
    }
}

fn writer_ended() -> StoreError {
    StoreError::unavailable("the store's writer has ended")
}

/// A step of the writer, its result held back until the commit.
trait Command: Send {
    fn bytes(&self) -> usize;
    /// Does the work. `Err` says that it failed and whether the connection is to be opened anew.
    fn run(&mut self, db: &Connection) -> Result<(), Tainted>;
    fn answer(self: Box<Self>, committed: bool);
}

/// Whether an error puts the connection itself in doubt.
struct Tainted(bool);

struct Pending<T, F> {
    work: Option<F>,
    result: Option<StoreResult<T>>,
    reply: oneshot::Sender<StoreResult<T>>,
    bytes: usize,
    _room: OwnedSemaphorePermit,
}

impl<T: Send, F: FnOnce(&Connection) -> Result<T, Fault> + Send> Command for Pending<T, F> {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn run(&mut self, db: &Connection) -> Result<(), Tainted> {
        let Some(work) = self.work.take() else {
            return Err(Tainted(false));
        };
        match work(db) {
            Ok(value) => {
                self.result = Some(Ok(value));
                Ok(())
            }
            Err(fault) => {
                let tainted = Tainted(fault.taints_connection());
                self.result = Some(Err(fault.into()));
                Err(tainted)
            }
        }
    }

    fn answer(self: Box<Self>, committed: bool) {
        let Self { result, reply, .. } = *self;
        let unavailable = || Err(StoreError::unavailable("the write was not committed"));
        let answer = match result {
            // What a command of a lost group saw may never have been; its own failure is still the better word.
            Some(result @ Err(StoreError::Unavailable(_) | StoreError::Corrupt(_))) => result,
            Some(result) if committed => result,
            Some(_) | None => unavailable(),
        };
        // Nobody waits any more: the caller took the result for unknown, which the contracts allow.
        drop(reply.send(answer));
    }
}

struct WriterThread {
    db: Option<Connection>,
    file: WriterFile,
    queue: mpsc::Receiver<Box<dyn Command>>,
    leftovers: Vec<BatchNum>,
    log_is_stale: Arc<AtomicBool>,
    health: Arc<Health>,
    /// When clearing the log was last tried in vain.
    log_cleared: Option<Instant>,
    /// When there was work last, until the page cache is given back.
    worked: Option<Instant>,
}

impl WriterThread {
    fn run(mut self) {
        while let Some(first) = self.next() {
            let mut group = vec![first];
            let committed = match self.run_group(&mut group) {
                Ok(healthy) => {
                    if !healthy {
                        self.db = None;
                    }
                    true
                }
                Err(fault) => {
                    self.db = None;
                    tracing::error!(error = ?fault, commands = group.len(), "a group of writes was not committed");
                    false
                }
            };
            self.health.note(committed);
            if committed {
                self.clear_stale_log();
            }
            let bytes = group.iter().map(|command| command.bytes()).sum();
            for command in group {
                command.answer(committed);
            }
            self.give_back_cache(bytes);
        }
    }

    /// The next command, or `None` at the end. While none waits, unfinished deletions go on.
    fn next(&mut self) -> Option<Box<dyn Command>> {
        while let Some(num) = self.leftovers.last().copied() {
            match self.queue.try_recv() {
                Ok(command) => return Some(command),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => match self.delete_some(num) {
                    Ok(false) => {}
                    Ok(true) => {
                        self.leftovers.pop();
                        self.log_is_stale.store(true, Ordering::Release);
                        self.clear_stale_log();
                    }
                    Err(fault) => {
                        tracing::warn!(error = ?fault, "an unfinished deletion waits for the next start");
                        self.leftovers.clear();
                    }
                },
            }
        }
        self.queue.blocking_recv()
    }

    fn clear_stale_log(&mut self) {
        let resting = self.log_cleared.is_some_and(|tried| tried.elapsed() < CLEAR_LOG_EVERY);
        let Some(db) = self.db.as_ref().filter(|_| !resting) else {
            return;
        };
        // Taken before it is done: a deletion that ends meanwhile asks anew.
        if !self.log_is_stale.swap(false, Ordering::AcqRel) {
            return;
        }
        match schema::clear_log(db) {
            Ok(true) => self.log_cleared = None,
            Ok(false) => {
                self.log_is_stale.store(true, Ordering::Release);
                self.log_cleared = Some(Instant::now());
            }
            Err(fault) => {
                self.log_is_stale.store(true, Ordering::Release);
                self.log_cleared = Some(Instant::now());
                tracing::warn!(error = ?fault, "the store's log could not be cleared");
            }
        }
    }

    /// Gives the page cache back some time after the last work. `bytes` is what the group now ended wrote.
    fn give_back_cache(&mut self, bytes: usize) {
        if bytes >= WORK_BYTES {
            self.worked = Some(Instant::now());
        } else if self.worked.is_some_and(|worked| worked.elapsed() >= CACHE_KEPT) {
            self.worked = None;
            if let Some(db) = &self.db
                && let Err(error) = db.execute_batch("PRAGMA shrink_memory")
            {
                tracing::debug!(error = %error, "the store's cache could not be given back");
            }
        }
    }

    fn delete_some(&mut self, num: BatchNum) -> Result<bool, Fault> {
        let transaction = self.connection()?.unchecked_transaction()?;
        let gone = delete::step(&transaction, num)?;
        transaction.commit()?;
        Ok(gone)
    }

    fn connection(&mut self) -> Result<&Connection, Fault> {
        let db = match self.db.take() {
            Some(db) => db,
            None => self.file.connect()?,
        };
        Ok(self.db.insert(db))
    }

    /// Runs the first command and those that wait behind it, adding them to `group`, and commits. Answers whether the
    /// connection is still good.
    fn run_group(&mut self, group: &mut Vec<Box<dyn Command>>) -> Result<bool, Fault> {
        self.connection()?;
        let Some(db) = &self.db else {
            return Err(Fault::Store(writer_ended()));
        };
        execute(db, "BEGIN IMMEDIATE")?;
        let (mut healthy, mut undo) = (true, Undo::Transaction);
        let mut bytes = 0;
        loop {
            if let Some(command) = group.last_mut() {
                bytes += command.bytes();
                healthy &= run_one(db, command.as_mut(), undo)?;
                undo = Undo::Savepoint;
            }
            if group.len() >= GROUP || bytes >= GROUP_BYTES {
                break;
            }
            match self.queue.try_recv() {
                Ok(command) => group.push(command),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        execute(db, "COMMIT")?;
        Ok(healthy)
    }
}

/// How what a failed command did is undone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// With the transaction, which holds nothing else yet; most groups are one command, and a savepoint copies every page it changes.
    Transaction,
    /// To the savepoint before it.
    Savepoint,
}

/// Runs one command and undoes it when it fails. `Err` means that the whole transaction is lost.
fn run_one(db: &Connection, command: &mut dyn Command, undo: Undo) -> Result<bool, Fault> {
    if undo == Undo::Savepoint {
        execute(db, "SAVEPOINT command")?;
    }
    let ran = command.run(db);
    // SQLite may end the transaction by itself when the disk is full or fails.
    if db.is_autocommit() {
        return Err(Fault::Store(StoreError::unavailable("the transaction was rolled back")));
    }
    let healthy = match ran {
        Ok(()) => true,
        Err(Tainted(tainted)) => {
            match undo {
                Undo::Transaction => {
                    execute(db, "ROLLBACK")?;
                    execute(db, "BEGIN IMMEDIATE")?;
                }
                Undo::Savepoint => execute(db, "ROLLBACK TO command")?,
            }
            !tainted
        }
    };
    if undo == Undo::Savepoint {
        execute(db, "RELEASE command")?;
    }
    Ok(healthy)
}

fn execute(db: &Connection, sql: &str) -> Result<(), Fault> {
    db.prepare_cached(sql)?.execute([])?;
    Ok(())
}
