//! The store as its user holds it: opening, the folder's lock, and the two ways into the database.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use promptmill_ports::{StoreError, StoreResult};
use rusqlite::Connection;

use crate::batches::{BatchNum, OpenBatches};
use crate::engine::{Writer, WriterFile};
use crate::fault::Fault;
use crate::readers::Readers;
use crate::{delete, schema, sessions, transfer};

/// The database in its folder.
const DATABASE: &str = "promptmill.db";
/// The file whose lock says that the folder is in use.
const LOCK: &str = "promptmill.lock";

/// How a [`SqliteStore`] is set up.
#[derive(Debug, Clone, Copy)]
pub struct SqliteOptions {
    /// Threads that read; at least one.
    pub readers: usize,
    /// Page cache of each connection, KiB.
    pub cache_kib: u32,
    /// The most 4 KiB pages the file may have; `None` leaves SQLite's own limit.
    pub max_pages: Option<u32>,
}

impl Default for SqliteOptions {
    /// Two readers, 8 MiB of cache each, no limit.
    fn default() -> Self {
        Self { readers: 2, cache_kib: 8 * 1024, max_pages: None }
    }
}

/// A store in one folder, implementing every store port.
///
/// Dropping it waits until what was handed in is written, closes the file and gives the folder free. Share it as
/// `Arc<SqliteStore>`.
#[derive(Debug)]
pub struct SqliteStore {
    /// `None` where the store was opened to be read.
    writer: Option<Writer>,
    readers: Readers,
    open_batches: Arc<OpenBatches>,
    folder: PathBuf,
    max_pages: Option<u32>,
    // Dropped last: the threads have ended by then.
    _lock: Option<File>,
}

impl SqliteStore {
    /// Opens the store in `folder`, making both when they are missing, and brings its schema forward. Blocks.
    ///
    /// Sessions of before are dead: their leases are revoked and counted as deaths.
    ///
    /// # Errors
    /// `Conflict` when another process uses the folder, or a newer promptmill or another program wrote the file; `Corrupt`
    /// when it is no database; `Unavailable` when the folder cannot be used.
    pub fn open(folder: &Path, options: SqliteOptions) -> StoreResult<Self> {
        std::fs::create_dir_all(folder).map_err(StoreError::unavailable)?;
        let lock = lock(folder)?;
        let SqliteOptions { readers, cache_kib, max_pages } = options;
        let file = folder.join(DATABASE);
        let writer_file = WriterFile { file: file.clone(), cache_kib, max_pages };
        let mut db = writer_file.connect()?;
        schema::migrate(&mut db)?;
        transfer::check_import(&db)?;
        let leftovers = start_anew(&mut db)?;
        // A kill may have left there what was deleted just before.
        schema::clear_log(&db)?;
        let writer = Writer::start(db, writer_file, leftovers).map_err(StoreError::unavailable)?;
        let readers = Readers::start(&file, readers, cache_kib).map_err(StoreError::unavailable)?;
        let (open_batches, folder) = (Arc::default(), folder.to_owned());
        Ok(Self { writer: Some(writer), readers, open_batches, folder, max_pages, _lock: Some(lock) })
    }

    /// Opens the store in `folder` to be read, beside a process that uses it too. Blocks.
    ///
    /// Every call that writes is a `Conflict`.
    ///
    /// # Errors
    /// `Conflict` when there is none, or this program would have to bring its schema forward; others as for [`open`](Self::open).
    pub fn open_to_read(folder: &Path, options: SqliteOptions) -> StoreResult<Self> {
        let SqliteOptions { readers, cache_kib, max_pages } = options;
        let file = folder.join(DATABASE);
        if !file.is_file() {
            return Err(StoreError::Conflict(format!("there is no store in {}", folder.display())));
        }
        let db = schema::connect_reader(&file, cache_kib)?;
        schema::check_current(&db)?;
        transfer::check_import(&db)?;
        let readers = Readers::start(&file, readers, cache_kib).map_err(StoreError::unavailable)?;
        let (open_batches, folder) = (Arc::default(), folder.to_owned());
        Ok(Self { writer: None, readers, open_batches, folder, max_pages, _lock: None })
    }

    fn writer(&self) -> StoreResult<&Writer> {
        self.writer.as_ref().ok_or_else(|| StoreError::Conflict("the store was opened to be read".to_owned()))
    }

    /// Runs `work` on the writer thread; answers once it is durable. `bytes` is about what it writes.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> StoreResult<T> {
        self.writer()?.run(bytes, work).await
    }

    /// Empties the log, so that what was deleted is readable nowhere.
    pub(crate) async fn clear_log(&self) -> StoreResult<()> {
        self.writer()?.clear_log().await
    }

    /// Whether the last group of writes was not committed.
    pub(crate) fn last_write_failed(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::last_write_failed)
    }

    /// Whether a group of writes was not committed within this time.
    pub(crate) fn write_failed_within(&self, time: Duration) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.write_failed_within(time))
    }

    /// The open batches as they were read last.
    pub(crate) fn known_open_batches(&self) -> Arc<OpenBatches> {
        Arc::clone(&self.open_batches)
    }

    /// Where the store is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The most pages the file may have.
    pub(crate) const fn max_pages(&self) -> Option<u32> {
        self.max_pages
    }

    /// Runs `work` on a snapshot.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> StoreResult<T> {
        self.readers.run(work).await
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.readers.stop();
        if let Some(writer) = &mut self.writer {
            writer.stop();
        }
    }
}

fn lock(folder: &Path) -> StoreResult<File> {
    let lock = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK));
    let lock = lock.map_err(StoreError::unavailable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Conflict(format!("another process uses the data folder {}", folder.display())))
        }
        Err(TryLockError::Error(error)) => Err(StoreError::unavailable(error)),
    }
}

/// Takes the chunks of all sessions of before, and answers the deletions that were cut short.
fn start_anew(db: &mut Connection) -> Result<Vec<BatchNum>, Fault> {
    let transaction = db.transaction()?;
    // Only parked items compare with it; a wall clock that jumped makes them due early or late, never lost.
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let revoked = sessions::bury_all(&transaction, now_ms)?;
    let leftovers = delete::leftovers(&transaction)?;
    transaction.commit()?;
    if revoked > 0 {
        tracing::info!(chunks = revoked, "took the chunks of sessions that did not end as planned");
    }
    Ok(leftovers)
}
