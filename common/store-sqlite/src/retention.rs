//! `Retention`: what was kept long enough, and whether there is room for more.

use std::path::Path;

use async_trait::async_trait;
use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{Retention, StoreError, StoreResult};
use rusqlite::{Connection, params};

use crate::batches::{int, parse_tenant};
use crate::fault::Fault;
use crate::{SqliteStore, delete, uploads};

/// Below this much free space the store takes no more.
const LOW_WATER_BYTES: u64 = 64 * 1024 * 1024;
/// The share of a small file limit (one in so many pages) that is kept free instead.
const LOW_WATER_SHARE: u64 = 16;

/// Steps of one call that drops stale uploads: with [`uploads::BLOCKS`] each about 1,000 blocks.
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
        self.read(move |db| outlived(db, now_ms, default_ms, drafts_before_ms, limit)).await
    }

    async fn has_room(&self) -> StoreResult<bool> {
        let (folder, max_pages) = (self.folder().to_owned(), self.max_pages());
        self.read(move |db| has_room(db, free_bytes(&folder)?, max_pages)).await
    }
}

/// Which batches are to be deleted: those whose deletion was begun and left lying (they are gone for everyone already), those whose
/// own retention is over, those for which the default is, and drafts nobody sends to. A plus keeps SQLite from the index of phases,
/// which would read every final batch.
const OUTLIVED: [&str; 4] = [
    "SELECT tenant, id FROM batches WHERE phase = 3 AND ?1 IS NOT NULL LIMIT ?2",
    "SELECT tenant, id FROM batches WHERE kept_until_ms <= ?1 AND +phase = 2 ORDER BY kept_until_ms LIMIT ?2",
    "SELECT tenant, id FROM batches WHERE finished_ms <= ?1 AND kept_until_ms IS NULL AND +phase = 2
        ORDER BY finished_ms LIMIT ?2",
    "SELECT tenant, id FROM batches b WHERE phase = 0 AND created_ms < ?1
        AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.num = b.num AND u.touched_ms >= ?1) LIMIT ?2",
];

fn outlived(
    db: &Connection,
    now_ms: u64,
    default_ms: u64,
    drafts_before_ms: u64,
    limit: u32,
) -> Result<Vec<(TenantId, BatchId)>, Fault> {
    let bounds = [0, now_ms, now_ms.saturating_sub(default_ms), drafts_before_ms];
    let mut found = Vec::new();
    for (sql, bound) in OUTLIVED.into_iter().zip(bounds) {
        let room = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit));
        let mut statement = db.prepare_cached(sql)?;
        let some = statement.query_map(params![int(bound), room], |row| {
            Ok((row.get::<_, String>(0)?, BatchId::from_bytes(row.get(1)?)))
        })?;
        for batch in some {
            let (tenant, batch) = batch?;
            found.push((parse_tenant(&tenant)?, batch));
        }
    }
    Ok(found)
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
    use super::*;

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
        for (sql, index) in OUTLIVED.into_iter().zip(indexes) {
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
}
