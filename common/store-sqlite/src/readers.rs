//! The readers: threads with a read-only connection each, that answer every call from one snapshot.
//!
//! A call that begins after a write was answered sees that write.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use promptmill_ports::{StoreError, StoreResult};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::fault::Fault;
use crate::schema;

/// Calls that may wait for a reader.
const WAITING: usize = 256;

/// How long a reader keeps its page cache.
const CACHE_KEPT: Duration = Duration::from_secs(2);

/// The async side of the reader threads.
#[derive(Debug)]
pub(crate) struct Readers {
    calls: Option<mpsc::Sender<Call>>,
    threads: Vec<JoinHandle<()>>,
}

/// A call; answers whether the connection is still good.
type Call = Box<dyn FnOnce(Result<&Connection, Fault>) -> bool + Send>;

impl Readers {
    /// Starts `count` threads on the file; each opens it at its first call.
    pub(crate) fn start(file: &Path, count: usize, cache_kib: u32) -> std::io::Result<Self> {
        let (calls, queue) = mpsc::channel(WAITING);
        let queue = Arc::new(Mutex::new(queue));
        let spawn = |number: usize| {
            let (queue, file) = (Arc::clone(&queue), file.to_owned());
            let name = format!("store-reader-{number}");
            std::thread::Builder::new().name(name).spawn(move || {
                ReaderThread { db: None, given_back: Instant::now(), file, cache_kib, queue }.run();
            })
        };
        let threads = (0..count.max(1)).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { calls: Some(calls), threads })
    }

    /// Runs `work` on one snapshot.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> StoreResult<T> {
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |db| {
            let result = db.and_then(|db| in_snapshot(db, work));
            let good = !result.as_ref().is_err_and(Fault::taints_connection);
            // Nobody waits any more when the caller was dropped; a read changes nothing.
            drop(reply.send(result.map_err(StoreError::from)));
            good
        });
        let Some(calls) = &self.calls else {
            return Err(readers_ended());
        };
        calls.send(call).await.map_err(|_| readers_ended())?;
        answer.await.map_err(|_| readers_ended())?
    }

    /// Lets the threads finish what waits, and waits for that.
    pub(crate) fn stop(&mut self) {
        self.calls = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reader of the store ended by a panic");
            }
        }
    }
}

fn readers_ended() -> StoreError {
    StoreError::unavailable("the store's readers have ended")
}

fn in_snapshot<T>(db: &Connection, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
    // Rolled back when dropped, which for a reader only ends the snapshot.
    let snapshot = db.unchecked_transaction()?;
    work(&snapshot)
}

struct ReaderThread {
    db: Option<Connection>,
    /// When the page cache was given back last.
    given_back: Instant,
    file: PathBuf,
    cache_kib: u32,
    queue: Arc<Mutex<mpsc::Receiver<Call>>>,
}

impl ReaderThread {
    fn run(mut self) {
        loop {
            let call = self.queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(call) = call else { return };
            let good = match self.connection() {
                Ok(db) => call(Ok(db)),
                Err(fault) => call(Err(fault)),
            };
            if !good {
                self.db = None;
            }
            self.give_back_cache();
        }
    }

    /// Gives the page cache back now and then: it is as large after a batch as in its midst, and is soon filled again from the system's.
    fn give_back_cache(&mut self) {
        if self.given_back.elapsed() < CACHE_KEPT {
            return;
        }
        self.given_back = Instant::now();
        if let Some(db) = &self.db
            && let Err(error) = db.execute_batch("PRAGMA shrink_memory")
        {
            tracing::debug!(error = %error, "a reader's cache could not be given back");
        }
    }

    fn connection(&mut self) -> Result<&Connection, Fault> {
        let db = match self.db.take() {
            Some(db) => db,
            None => schema::connect_reader(&self.file, self.cache_kib)?,
        };
        Ok(self.db.insert(db))
    }
}
