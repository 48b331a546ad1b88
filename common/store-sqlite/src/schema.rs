//! The tables, how a connection is set up, and how an older file is brought forward.
//!
//! The version stands in SQLite's own `user_version`, which changes in the same transaction as the tables. A step of
//! [`STEPS`] is never edited once released; a change is a further step.

mod quotas;
mod records;

use std::path::Path;
use std::time::Duration;

use promptmill_ports::StoreError;
use rusqlite::{Connection, OpenFlags};

use crate::fault::Fault;
use crate::order;

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
", STEP_SERVICE, records::STEP, quotas::STEP, STEP_OWNERS, crate::lanes::STEP, crate::budgets::STEP, crate::replies::STEP, crate::endpoints::STEP, crate::schedules::STEP, crate::row_sets::STEP, crate::template_labels::STEP];

/// What the HTTP service asks of the engine's store: lists that filter, uploads that live and are dropped, custom ids, the order
/// of settling, usage, retention and the outbox.
///
/// `uploads.state` are the numbers in `uploads.rs`, `settled.items` is written in `order.rs`. Hashes of custom ids have a table of
/// their own, so that they are read without their rows.
const STEP_SERVICE: &str = "
    UPDATE batches SET limits = json_set(limits, '$.priority', priority), spec = json_set(spec, '$.lane', coalesce(
        (SELECT lane FROM heads WHERE heads.id BETWEEN num << 32 AND (num << 32) + 4294967295 LIMIT 1),
        substr(json_extract(spec, '$.model'), 1, instr(json_extract(spec, '$.model'), ':') - 1) || '/default'));
    ALTER TABLE batches DROP COLUMN priority;
    ALTER TABLE heads DROP COLUMN priority;
    ALTER TABLE batches ADD COLUMN submitted_ms INTEGER;
    ALTER TABLE batches ADD COLUMN finished_ms INTEGER;
    ALTER TABLE batches ADD COLUMN kept_until_ms INTEGER;
    ALTER TABLE batches ADD COLUMN name TEXT;
    -- When they ended was not written down; they are kept as long as if it were now.
    UPDATE batches SET finished_ms = 1000 * unixepoch() WHERE phase = 2;
    CREATE INDEX batches_name ON batches(tenant, name, id) WHERE name IS NOT NULL;
    CREATE INDEX batches_state ON batches(tenant, json_extract(state, '$.name'), id);
    CREATE INDEX batches_finished ON batches(finished_ms) WHERE finished_ms IS NOT NULL AND kept_until_ms IS NULL;
    CREATE INDEX batches_kept ON batches(kept_until_ms) WHERE kept_until_ms IS NOT NULL;

    CREATE TABLE batch_labels(
        tenant TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, id BLOB NOT NULL,
        PRIMARY KEY (tenant, key, value, id)) WITHOUT ROWID;

    CREATE TABLE uploads(
        num INTEGER NOT NULL, upload BLOB NOT NULL, state INTEGER NOT NULL, touched_ms INTEGER NOT NULL,
        PRIMARY KEY (num, upload)) WITHOUT ROWID;
    CREATE INDEX uploads_state ON uploads(state, touched_ms);
    INSERT INTO uploads SELECT p.num, p.upload, 1, max(b.created_ms) FROM parts p JOIN batches b ON b.num = p.num
        GROUP BY p.num, p.upload;
    INSERT OR IGNORE INTO uploads SELECT r.num, r.upload, 0, max(b.created_ms) FROM row_blocks r JOIN batches b ON b.num = r.num
        GROUP BY r.num, r.upload;

    ALTER TABLE parts ADD COLUMN rows INTEGER NOT NULL DEFAULT 0;
    UPDATE parts SET rows = coalesce((SELECT sum(len) FROM row_blocks r
        WHERE r.num = parts.num AND r.upload = parts.upload AND r.seq < parts.blocks), 0);
    CREATE TABLE row_ids(id INTEGER PRIMARY KEY, ids BLOB NOT NULL);

    CREATE TABLE settled(id INTEGER PRIMARY KEY, base INTEGER NOT NULL, items BLOB NOT NULL);

    CREATE TABLE submitted_rows(tenant TEXT NOT NULL, day INTEGER NOT NULL, rows INTEGER NOT NULL, PRIMARY KEY (tenant, day))
        WITHOUT ROWID;
    CREATE TABLE stored_bytes(tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO stored_bytes SELECT b.tenant, sum(length(r.bytes)) FROM row_blocks r JOIN batches b ON b.num = r.num
        GROUP BY b.tenant;

    CREATE TABLE outbox(
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, num INTEGER NOT NULL, event TEXT NOT NULL);
    CREATE INDEX outbox_batch ON outbox(num);

    ALTER TABLE sessions ADD COLUMN report TEXT;
";

/// Who runs a generation. Of those that are there already nobody does: their process is gone.
const STEP_OWNERS: &str = "
    ALTER TABLE generations ADD COLUMN owner BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
";

/// The version from which on the order of settling is written down.
const ORDER_SINCE: i64 = 2;

/// Statements kept prepared per connection; there are fewer in this crate.
const STATEMENTS: usize = 192;

/// How long a connection waits for another one's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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
    // What is deleted is overwritten, so that a deleted batch leaves no text behind in free pages.
    db.pragma_update(None, "secure_delete", true)?;
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

/// Brings what is in the log into the file and empties the log, unless a reader uses it at this moment. Answers whether it is empty.
pub(crate) fn clear_log(db: &Connection) -> Result<bool, Fault> {
    db.busy_timeout(Duration::ZERO)?;
    let busy = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    db.busy_timeout(BUSY_TIMEOUT)?;
    Ok(!busy?)
}

fn flags() -> OpenFlags {
    // Each connection stays on one thread, so SQLite's own mutexes are not needed.
    OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn set_up(db: &Connection, cache_kib: u32) -> Result<(), Fault> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.pragma_update(None, "foreign_keys", false)?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    Ok(())
}

/// That the file is of this program's version, for those who may not bring it forward.
///
/// # Errors
/// `Conflict` when an older or newer promptmill or another program wrote the file.
pub(crate) fn check_current(db: &Connection) -> Result<(), Fault> {
    let version = version_of(db)?;
    if version == STEPS.len() {
        return Ok(());
    }
    Err(Fault::conflict(format!(
        "the database has schema version {version}, and this promptmill's is {}; start this promptmill on it once",
        STEPS.len()
    )))
}

/// Brings the file to this program's version, each step in one transaction.
///
/// # Errors
/// `Conflict` when a newer promptmill or another program wrote the file.
pub(crate) fn migrate(db: &mut Connection) -> Result<(), Fault> {
    let from = version_of(db)?;
    for (step, number) in STEPS.iter().zip(1i64..).skip(from) {
        let transaction = db.transaction()?;
        transaction.execute_batch(step)?;
        if number == ORDER_SINCE {
            order::backfill(&transaction)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

/// The version of a file that is ours, or new.
fn version_of(db: &Connection) -> Result<usize, Fault> {
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
    Ok(from)
}
