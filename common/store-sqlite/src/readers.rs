//! The readers: threads with a read-only connection each, that answer every call from one snapshot.
//!
//! A call that begins after a write was answered sees that write.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use promptmill_ports::{StoreError, StoreResult};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::fault::Fault;
use crate::schema;

/// Calls that may wait for a reader.
const WAITING: usize = 256;

/// How long a reader keeps its page cache, in use or not.
const CACHE_KEPT: Duration = Duration::from_secs(2);

/// The async side of the reader threads.
#[derive(Debug)]
pub(crate) struct Readers {
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
}

/// A call; answers whether the connection is still good.
type Call = Box<dyn FnOnce(Result<&Connection, Fault>) -> bool + Send>;

impl Readers {
    /// Starts `count` threads on the file; each opens it at its first call.
    pub(crate) fn start(file: &Path, count: usize, cache_kib: u32) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let spawn = |number: usize| {
            let (served, file) = (Served::by_one_more(&queue), file.to_owned());
            let name = format!("store-reader-{number}");
            std::thread::Builder::new().name(name).spawn(move || {
                ReaderThread { db: None, filled: None, file, cache_kib, served }.run();
            })
        };
        let threads = (0..count.max(1)).map(spawn).collect::<Result<_, _>>();
        let threads = threads.inspect_err(|_| queue.end())?;
        Ok(Self { queue, room: Arc::new(Semaphore::new(WAITING)), threads })
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
        let room = self.room.clone().acquire_owned().await.map_err(|_| readers_ended())?;
        self.queue.push(call, room);
        answer.await.map_err(|_| readers_ended())?
    }

    /// Lets the threads finish what waits, and waits for that.
    pub(crate) fn stop(&mut self) {
        self.queue.end();
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

/// Calls that wait for whichever thread is free, each with its room among those that may.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    calls: VecDeque<(Call, OwnedSemaphorePermit)>,
    /// Threads that serve the queue.
    threads: usize,
    /// Nothing comes any more.
    ended: bool,
}

/// What there is to do for a thread.
enum Next {
    Call(Call),
    /// Nothing came for as long as the thread was willing to wait.
    Nothing,
    Ended,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that comes too late is dropped, which its caller sees.
    fn push(&self, call: Call, room: OwnedSemaphorePermit) {
        let mut waiting = self.waiting();
        if !waiting.ended {
            waiting.calls.push_back((call, room));
            self.arrived.notify_one();
        }
    }

    fn end(&self) {
        self.waiting().ended = true;
        self.arrived.notify_all();
    }

    /// Waits for a call, until then if a time is given.
    fn next(&self, until: Option<Instant>) -> Next {
        let mut waiting = self.waiting();
        loop {
            if let Some((call, _)) = waiting.calls.pop_front() {
                return Next::Call(call);
            }
            if waiting.ended {
                return Next::Ended;
            }
            waiting = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Next::Nothing,
                Some(left) => {
                    self.arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

/// A queue as one of its threads has it. When the last one is gone, by a panic too, nobody waits in it in vain.
struct Served(Arc<Queue>);

impl Served {
    fn by_one_more(queue: &Arc<Queue>) -> Self {
        queue.waiting().threads += 1;
        Self(queue.clone())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.threads -= 1;
        if waiting.threads == 0 {
            waiting.ended = true;
            waiting.calls.clear();
        }
    }
}

struct ReaderThread {
    db: Option<Connection>,
    /// Since when the page cache may hold something.
    filled: Option<Instant>,
    file: PathBuf,
    cache_kib: u32,
    served: Served,
}

impl ReaderThread {
    fn run(mut self) {
        loop {
            match self.served.0.next(self.filled.map(|filled| filled + CACHE_KEPT)) {
                Next::Call(call) => {
                    self.filled.get_or_insert_with(Instant::now);
                    let good = match self.connection() {
                        Ok(db) => call(Ok(db)),
                        Err(fault) => call(Err(fault)),
                    };
                    if !good {
                        self.db = None;
                    }
                }
                Next::Nothing => {}
                Next::Ended => return,
            }
            self.give_back_cache();
        }
    }

    /// Gives the page cache back now and then, also when nothing is read any more: it is as large after a batch as in its midst, and is soon
    /// filled again from the system's.
    fn give_back_cache(&mut self) {
        if self.filled.is_none_or(|filled| filled.elapsed() < CACHE_KEPT) {
            return;
        }
        self.filled = None;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(threads: usize) -> (Arc<Queue>, Vec<Served>, Arc<Semaphore>) {
        let queue = Arc::new(Queue::default());
        let served = (0..threads).map(|_| Served::by_one_more(&queue)).collect();
        (queue, served, Arc::new(Semaphore::new(8)))
    }

    fn push(queue: &Queue, room: &Arc<Semaphore>) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |_| reply.send(()).is_ok());
        queue.push(call, room.clone().try_acquire_owned().unwrap());
        answer
    }

    #[test]
    fn what_waits_is_served_before_the_end_and_a_thread_may_wait_for_a_while_alone() {
        let (queue, _served, room) = queue(1);
        assert!(matches!(queue.next(Some(Instant::now())), Next::Nothing));
        let _answer = push(&queue, &room);
        queue.end();
        assert_eq!(room.available_permits(), 7);
        assert!(matches!(queue.next(None), Next::Call(_)));
        assert_eq!(room.available_permits(), 8);
        assert!(matches!(queue.next(None), Next::Ended));
    }

    #[test]
    fn when_the_last_thread_is_gone_nobody_waits_in_vain() {
        let (queue, mut served, room) = queue(2);
        let mut waiting = push(&queue, &room);
        drop(served.pop());
        assert!(waiting.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop(served.pop());
        assert!(waiting.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(push(&queue, &room).try_recv().is_err());
        assert_eq!(room.available_permits(), 8);
    }
}
