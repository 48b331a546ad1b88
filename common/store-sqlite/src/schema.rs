//! The tables, how a connection is set up, and how an older file is brought forward.
//!
//! The version stands in SQLite's own `user_version`, which changes in the same transaction as the tables. A step of
//! [`STEPS`] is never edited once released; a change is a further step.

use std::path::Path;
use std::time::Duration;

use promptmill_ports::StoreError;
use rusqlite::{Connection, OpenFlags};

use crate::fault::Fault;

/// Marks the file as ours, so that another program's database is refused and not changed ("pmil").
const APPLICATION_ID: i32 = 0x706d_696c;

/// Step `i` brings a file from version `i` to `i + 1`.
///
/// Keys are integers: a batch has a number that is never given twice, a head is `num << 32 | n`, an outcome `num << 32 |
/// index`, so that inserts go to the end of a tree and a batch is one range. Large columns stand last in their row.
/// `heads.state` and `batches.phase` are the numbers in `heads.rs` and `batches.rs`.
const STEPS: &[&str] = &["
    CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('changes', 0);

    CREATE TABLE batches(
        num INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, idem_key TEXT,
        phase INTEGER NOT NULL, state TEXT NOT NULL, ver INTEGER NOT NULL, priority INTEGER NOT NULL,
        total INTEGER NOT NULL, created_ms INTEGER NOT NULL, limits TEXT NOT NULL, final_counts TEXT, spec TEXT NOT NULL);
    CREATE UNIQUE INDEX batches_key ON batches(tenant, idem_key) WHERE idem_key IS NOT NULL;
    CREATE INDEX batches_tenant ON batches(tenant, id);
    CREATE INDEX batches_phase ON batches(phase, id);

    CREATE TABLE parts(
        num INTEGER NOT NULL, part INTEGER NOT NULL, upload BLOB NOT NULL, blocks INTEGER NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (num, part)) WITHOUT ROWID;

    CREATE TABLE row_blocks(
        id INTEGER PRIMARY KEY, num INTEGER NOT NULL, upload BLOB NOT NULL, seq INTEGER NOT NULL, len INTEGER NOT NULL,
        bytes BLOB NOT NULL);
    CREATE UNIQUE INDEX row_blocks_key ON row_blocks(num, upload, seq);

    CREATE TABLE heads(
        id INTEGER PRIMARY KEY, first INTEGER NOT NULL, state INTEGER NOT NULL, owner BLOB, token BLOB, due INTEGER,
        ver INTEGER NOT NULL, settles INTEGER NOT NULL, kills INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        upload BLOB NOT NULL, seq INTEGER NOT NULL, skip INTEGER NOT NULL, trying_offset INTEGER, trying_kills INTEGER,
        calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost INTEGER NOT NULL,
        lane TEXT NOT NULL, parked_len INTEGER NOT NULL, done BLOB NOT NULL, parked TEXT);
    CREATE UNIQUE INDEX heads_first ON heads(first);
    CREATE INDEX heads_open ON heads(state, id) WHERE state < 4;
    CREATE INDEX heads_owner ON heads(owner) WHERE owner IS NOT NULL;
    CREATE INDEX heads_due ON heads(due) WHERE due IS NOT NULL;

    CREATE TABLE outcomes(id INTEGER PRIMARY KEY, code INTEGER NOT NULL, body BLOB NOT NULL);

    CREATE TABLE sessions(id BLOB PRIMARY KEY, label TEXT NOT NULL, beat INTEGER NOT NULL, alive INTEGER NOT NULL)
        WITHOUT ROWID;
"];

/// Statements kept prepared per connection; there are fewer in this crate.
const STATEMENTS: usize = 96;

/// Opens the file for the writer, creating it when it is missing.
pub(crate) fn connect_writer(
    file: &Path,
    cache_kib: u32,
    max_pages: Option<u32>,
) -> Result<Connection, Fault> {
    let db = Connection::open_with_flags(
        file,
        flags() | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    )?;
    set_up(&db, cache_kib)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // A commit that was answered survives a power cut.
    db.pragma_update(None, "synchronous", "FULL")?;
    // A checkpoint syncs the database, so fewer of them, and a log that is cut back after a burst.
    db.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    db.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    if let Some(pages) = max_pages {
        db.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(db)
}

/// Opens the file for a reader; the writer has opened it before.
pub(crate) fn connect_reader(file: &Path, cache_kib: u32) -> Result<Connection, Fault> {
    let db = Connection::open_with_flags(file, flags() | OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    set_up(&db, cache_kib)?;
    Ok(db)
}

fn flags() -> OpenFlags {
    // Each connection stays on one thread, so SQLite's own mutexes are not needed.
    OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn set_up(db: &Connection, cache_kib: u32) -> Result<(), Fault> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "foreign_keys", false)?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    Ok(())
}

/// Brings the file to this program's version, each step in one transaction.
///
/// # Errors
/// `Conflict` when a newer promptmill or another program wrote the file.
pub(crate) fn migrate(db: &mut Connection) -> Result<(), Fault> {
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        return Err(Fault::conflict("the database file belongs to another program"));
    }
    let Ok(from) = usize::try_from(version) else {
        return Err(Fault::corrupt("the schema version is negative"));
    };
    if from > STEPS.len() {
        return Err(Fault::Store(StoreError::Conflict(format!(
            "the database has schema version {from}, this promptmill knows up to {}; use a newer promptmill",
            STEPS.len()
        ))));
    }
    for (step, number) in STEPS.iter().zip(1i64..).skip(from) {
        let transaction = db.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}
