//! `Retention`: what was kept long enough, and whether there is room for more.

use std::path::Path;

use async_trait::async_trait;
use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{Retention, StoreError, StoreResult};
use rusqlite::{Connection, Row, params};

use crate::batches::{int, parse_tenant};
use crate::fault::Fault;
use crate::{SqliteStore, delete, uploads};

/// Below this much free space the store takes no more.
const LOW_WATER_BYTES: u64 = 64 * 1024 * 1024;
/// The share of a small file limit (one in so many pages) that is kept free instead.
const LOW_WATER_SHARE: u64 = 16;

/// About what marking drafts costs in a group.
const SMALL: usize = 512;

/// Steps of one call that drops stale uploads: with 64 blocks each about 1,000.
const STEPS: u32 = 16;

#[async_trait]
impl Retention for SqliteStore {
    async fn drop_stale_uploads(&self, before_ms: u64) -> StoreResult<u32> {
        let mut removed = 0;
        for _ in 0..STEPS {
            let step = move |db: &Connection| uploads::drop_stale(db, before_ms);
            let (blocks, last) = self.write(delete::STEP_BYTES, step).await?;
            removed += blocks;
            if last {
                break;
            }
        }
        Ok(removed)
    }

    async fn outlived(
        &self,
        now_ms: u64,
        default_ms: u64,
        drafts_before_ms: u64,
        limit: u32,
    ) -> StoreResult<Vec<(TenantId, BatchId)>> {
        let read = move |db: &Connection| outlived(db, now_ms, default_ms, drafts_before_ms, limit);
        let (mut batches, drafts) = self.read(read).await?;
        if !drafts.is_empty() {
            batches.extend(self.write(SMALL, move |db| mark_drafts(db, drafts, drafts_before_ms)).await?);
        }
        Ok(batches)
    }

    async fn has_room(&self) -> StoreResult<bool> {
        let (folder, max_pages) = (self.folder().to_owned(), self.max_pages());
        let room = self.read(move |db| has_room(db, free_bytes(&folder)?, max_pages)).await?;
        // The next write that succeeds says otherwise; a live session makes one every second.
        if room && self.last_write_failed() {
            return Err(StoreError::unavailable("the last write was not committed"));
        }
        Ok(room)
    }
}

/// Which batches are to be deleted: those whose deletion was begun and left lying (they are gone for everyone already), those whose
/// own retention is over, and those for which the default is. A plus keeps SQLite from the index of phases,
/// which would read every final batch.
const OUTLIVED: [&str; 3] = [
    "SELECT tenant, id FROM batches WHERE phase = 3 AND ?1 IS NOT NULL LIMIT ?2",
    "SELECT tenant, id FROM batches WHERE kept_until_ms <= ?1 AND +phase = 2 ORDER BY kept_until_ms LIMIT ?2",
    "SELECT tenant, id FROM batches WHERE finished_ms <= ?1 AND kept_until_ms IS NULL AND +phase = 2
        ORDER BY finished_ms LIMIT ?2",
];

/// Drafts nobody sends to.
const OUTLIVED_DRAFTS: &str = "SELECT tenant, id FROM batches b WHERE phase = 0 AND created_ms < ?1
    AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.num = b.num AND u.touched_ms >= ?1) LIMIT ?2";

/// Batches to be deleted, each with whose it is.
type Batches = Vec<(TenantId, BatchId)>;

/// What is to be deleted, and drafts that are, too, unless someone sent to them meanwhile.
fn outlived(
    db: &Connection,
    now_ms: u64,
    default_ms: u64,
    drafts_before_ms: u64,
    limit: u32,
) -> Result<(Batches, Batches), Fault> {
    let bounds = [0, now_ms, now_ms.saturating_sub(default_ms)];
    let room = |found: &Batches| limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit));
    let mut found = Vec::new();
    for (sql, bound) in OUTLIVED.into_iter().zip(bounds) {
        let some = find(db, sql, bound, room(&found))?;
        found.extend(some);
    }
    let drafts = find(db, OUTLIVED_DRAFTS, drafts_before_ms, room(&found))?;
    Ok((found, drafts))
}

fn find(db: &Connection, sql: &str, bound: u64, limit: u32) -> Result<Batches, Fault> {
    let mut statement = db.prepare_cached(sql)?;
    let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, BatchId::from_bytes(row.get(1)?)));
    let some = statement.query_map(params![int(bound), limit], read)?;
    some.map(|batch| batch.map_err(Fault::from).and_then(|(tenant, id)| Ok((parse_tenant(&tenant)?, id))))
        .collect()
}

/// Begins to delete those of the drafts that nobody sent to meanwhile, and answers them: what a draft takes after it was found, it
/// must not lose.
fn mark_drafts(db: &Connection, drafts: Batches, before_ms: u64) -> Result<Batches, Fault> {
    let mut marked = Vec::new();
    for (tenant, batch) in drafts {
        let sql = "SELECT 1 FROM batches b WHERE id = ?2 AND phase = 0 AND created_ms < ?1
            AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.num = b.num AND u.touched_ms >= ?1)";
        if db.prepare_cached(sql)?.exists(params![int(before_ms), batch.as_bytes()])? {
            delete::mark(db, &tenant, batch)?;
            marked.push((tenant, batch));
        }
    }
    Ok(marked)
}

/// Whether the disk and the file's own limit leave room for more.
fn has_room(db: &Connection, free_bytes: u64, max_pages: Option<u32>) -> Result<bool, Fault> {
    if free_bytes < LOW_WATER_BYTES {
        return Ok(false);
    }
    let Some(max_pages) = max_pages else {
        return Ok(true);
    };
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let left = u64::from(max_pages).saturating_sub(pragma("page_count")?) + pragma("freelist_count")?;
    let low_water =
        (LOW_WATER_BYTES / pragma("page_size")?.max(1)).min(u64::from(max_pages) / LOW_WATER_SHARE);
    Ok(left >= low_water)
}

#[cfg(unix)]
fn free_bytes(folder: &Path) -> Result<u64, Fault> {
    let disk = rustix::fs::statvfs(folder).map_err(StoreError::unavailable)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Elsewhere the disk is not asked; a full one is told by the write that fails.
#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Result<u64, Fault> {
    Ok(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use promptmill_domain::{BatchLimits, BatchSpec, LaneId, UploadId};
    use promptmill_ports::{Close as _, Intake as _, NewBatch, RowBlock};

    use super::*;
    use crate::SqliteOptions;

    fn file(pages_of_rows: u32) -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE filler(bytes BLOB)").unwrap();
        for _ in 0..pages_of_rows {
            db.execute("INSERT INTO filler VALUES (zeroblob(4000))", []).unwrap();
        }
        db
    }

    #[test]
    fn looking_for_what_was_outlived_reads_no_batch_that_was_not() {
        let mut db = Connection::open_in_memory().unwrap();
        crate::schema::migrate(&mut db).unwrap();
        let indexes = ["batches_phase", "batches_kept", "batches_finished", "batches_phase"];
        for (sql, index) in OUTLIVED.into_iter().chain([OUTLIVED_DRAFTS]).zip(indexes) {
            let explain = format!("EXPLAIN QUERY PLAN {sql}");
            let plan: String = db.query_row(&explain, params![0, 0], |row| row.get(3)).unwrap();
            assert!(plan.contains(index), "{plan}");
        }
    }

    #[test]
    fn a_disk_below_the_low_water_mark_has_no_room() {
        let db = file(0);
        assert!(!has_room(&db, LOW_WATER_BYTES - 1, None).unwrap());
        assert!(has_room(&db, LOW_WATER_BYTES, None).unwrap());
    }

    #[test]
    fn a_file_near_its_limit_has_no_room_until_something_is_deleted() {
        let db = file(95);
        assert!(has_room(&db, u64::MAX, Some(1_000)).unwrap());
        assert!(!has_room(&db, u64::MAX, Some(100)).unwrap());
        db.execute("DELETE FROM filler WHERE rowid > 50", []).unwrap();
        assert!(has_room(&db, u64::MAX, Some(100)).unwrap());
    }

    #[tokio::test]
    async fn a_draft_that_takes_rows_after_it_was_found_is_kept_and_one_that_was_named_takes_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap();
        let tenant = TenantId::default_tenant();
        let lane = LaneId::new("demo", "none");
        let [busy, idle] = [[1; 16], [2; 16]].map(BatchId::from_bytes);
        for id in [busy, idle] {
            let spec = BatchSpec::new("{}".to_owned(), "demo:any".parse().unwrap(), lane.clone());
            let new = NewBatch { id, spec, limits: BatchLimits::default(), idem_key: None, now_ms: 1 };
            store.create(&tenant, new).await.unwrap();
        }
        let put = async |batch| {
            let block = RowBlock { seq: 0, len: 1, bytes: Bytes::from_static(b"row"), ids: Bytes::new() };
            store.put_rows(&tenant, batch, UploadId::from_bytes([3; 16]), vec![block], 20).await
        };
        let (_, drafts) = store.read(|db| outlived(db, 20, 1_000, 10, 16)).await.unwrap();
        assert_eq!(drafts.len(), 2);
        put(busy).await.unwrap();
        let marked = store.write(0, move |db| mark_drafts(db, drafts, 10)).await.unwrap();
        assert_eq!(marked, [(tenant.clone(), idle)]);
        assert!(matches!(put(idle).await, Err(StoreError::NotFound)));

        assert_eq!(store.outlived(21, 1_000, 21, 16).await.unwrap().len(), 2);
        assert!(matches!(put(busy).await, Err(StoreError::NotFound)));
        assert!(store.delete(&tenant, busy).await.unwrap() && store.delete(&tenant, idle).await.unwrap());
    }
}
