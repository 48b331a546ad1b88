//! `RowSets`: rows that are stored to be run again and again.
//!
//! Blocks are `kept` from the step on in which a version names their upload until the one in which none does any more; what is not kept is
//! swept.

use async_trait::async_trait;
use promptmill_domain::{RowSetId, TenantId, UploadId};
use promptmill_ports::{RowBlock, RowSet, RowSets, StoreError, StoreResult};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{from_json, int, to_json};
use crate::fault::Fault;

/// What the tables gained for row sets.
pub(crate) const STEP: &str = "
    CREATE TABLE row_sets(
        id BLOB PRIMARY KEY, tenant TEXT NOT NULL, ver INTEGER NOT NULL, named INTEGER NOT NULL, row_set TEXT NOT NULL)
        WITHOUT ROWID;
    CREATE INDEX row_sets_tenant ON row_sets(tenant, id) WHERE named = 1;

    CREATE TABLE set_blocks(
        id INTEGER PRIMARY KEY, set_id BLOB NOT NULL, upload BLOB NOT NULL, seq INTEGER NOT NULL, tenant TEXT NOT NULL,
        kept INTEGER NOT NULL, touched_ms INTEGER NOT NULL, len INTEGER NOT NULL, ids BLOB NOT NULL, bytes BLOB NOT NULL);
    CREATE UNIQUE INDEX set_blocks_key ON set_blocks(set_id, upload, seq);
    CREATE INDEX set_blocks_touched ON set_blocks(touched_ms) WHERE kept = 0;

    CREATE TRIGGER set_blocks_counted AFTER INSERT ON set_blocks BEGIN
        INSERT INTO stored_bytes(tenant, bytes) SELECT NEW.tenant, 0
            WHERE NOT EXISTS (SELECT 1 FROM stored_bytes WHERE tenant = NEW.tenant);
        UPDATE stored_bytes SET bytes = bytes + length(NEW.bytes) WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER set_blocks_uncounted AFTER DELETE ON set_blocks BEGIN
        UPDATE stored_bytes SET bytes = max(bytes - length(OLD.bytes), 0) WHERE tenant = OLD.tenant;
    END;
";

/// About what a record costs in a group.
const SMALL: usize = 512;

#[async_trait]
impl RowSets for SqliteStore {
    async fn put_set_blocks(
        &self,
        tenant: &TenantId,
        set: RowSetId,
        upload: UploadId,
        blocks: Vec<RowBlock>,
        now_ms: u64,
    ) -> StoreResult<()> {
        let tenant = tenant.clone();
        let size = blocks.iter().map(|block| block.bytes.len() + block.ids.len()).sum();
        self.write(size, move |db| {
            let sql = "INSERT INTO set_blocks(set_id, upload, seq, tenant, kept, touched_ms, len, ids, bytes)
                VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";
            let mut insert = db.prepare_cached(sql)?;
            let (set, upload, touched) = (set.as_bytes(), upload.as_bytes(), int(now_ms));
            for RowBlock { seq, len, bytes, ids } in &blocks {
                let (ids, bytes) = (&ids[..], &bytes[..]);
                insert.execute(params![set, upload, seq, tenant.as_str(), touched, len, ids, bytes])?;
            }
            // All of the upload are as young as the youngest.
            let sql = "UPDATE set_blocks SET touched_ms = ?3 WHERE set_id = ?1 AND upload = ?2 AND kept = 0";
            db.prepare_cached(sql)?.execute(params![set, upload, touched])?;
            Ok(())
        })
        .await
    }

    async fn put_row_set(&self, set: &RowSet, now_ms: u64) -> StoreResult<bool> {
        let (set, json) = (set.clone(), to_json(set));
        self.write(SMALL + json.len(), move |db| {
            let sql = match set.ver {
                0 | 1 => {
                    "INSERT INTO row_sets(id, tenant, ver, named, row_set) VALUES (?1, ?2, ?3, ?4, ?5)
                        ON CONFLICT DO NOTHING"
                }
                _ => {
                    "UPDATE row_sets SET ver = ?3, named = ?4, row_set = ?5
                        WHERE id = ?1 AND tenant = ?2 AND ver = ?3 - 1"
                }
            };
            let (id, tenant) = (set.id.as_bytes(), set.tenant.as_str());
            let values = params![id, tenant, int(set.ver), set.name.is_some(), json];
            if db.prepare_cached(sql)?.execute(values)? == 0 {
                return Ok(false);
            }
            keep(db, &set, now_ms)?;
            Ok(true)
        })
        .await
    }

    async fn row_set(&self, tenant: &TenantId, id: RowSetId) -> StoreResult<RowSet> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT row_set FROM row_sets WHERE id = ?1 AND tenant = ?2";
            let known = params![id.as_bytes(), tenant.as_str()];
            let found = db.prepare_cached(sql)?.query_row(known, |row| row.get::<_, String>(0)).optional()?;
            from_json(&found.ok_or(Fault::Store(StoreError::NotFound))?, "a row set")
        })
        .await
    }

    async fn row_sets(
        &self,
        tenant: &TenantId,
        after: Option<RowSetId>,
        limit: u32,
    ) -> StoreResult<Vec<RowSet>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT row_set FROM row_sets WHERE tenant = ?1 AND named = 1 AND id > ?2
                ORDER BY id LIMIT ?3";
            let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
            let mut statement = db.prepare_cached(sql)?;
            let found = statement.query_map(params![tenant.as_str(), after, limit], |row| row.get(0))?;
            found.map(|text| from_json(&text.map(|text: String| text)?, "a row set")).collect()
        })
        .await
    }

    async fn set_blocks(
        &self,
        tenant: &TenantId,
        set: RowSetId,
        upload: UploadId,
        from: u32,
        bytes: usize,
    ) -> StoreResult<Vec<RowBlock>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT seq, len, ids, bytes FROM set_blocks
                WHERE set_id = ?1 AND upload = ?2 AND seq >= ?3 AND tenant = ?4 ORDER BY seq";
            let mut statement = db.prepare_cached(sql)?;
            let which = params![set.as_bytes(), upload.as_bytes(), from, tenant.as_str()];
            let mut found = statement.query(which)?;
            let (mut blocks, mut size) = (Vec::new(), 0);
            while let Some(row) = found.next()? {
                let block = RowBlock {
                    seq: row.get(0)?,
                    len: row.get(1)?,
                    ids: row.get::<_, Vec<u8>>(2)?.into(),
                    bytes: row.get::<_, Vec<u8>>(3)?.into(),
                };
                size += block.bytes.len() + block.ids.len();
                if size > bytes && !blocks.is_empty() {
                    break;
                }
                blocks.push(block);
            }
            Ok(blocks)
        })
        .await
    }

    async fn delete_row_set(&self, tenant: &TenantId, id: RowSetId) -> StoreResult<bool> {
        let tenant = tenant.clone();
        self.write(SMALL, move |db| {
            let sql = "DELETE FROM row_sets WHERE id = ?1 AND tenant = ?2";
            let was_there = db.prepare_cached(sql)?.execute(params![id.as_bytes(), tenant.as_str()])? == 1;
            if was_there {
                // They go with the next sweeps, a few at a time.
                let sql = "UPDATE set_blocks SET kept = 0, touched_ms = 0 WHERE set_id = ?1";
                db.prepare_cached(sql)?.execute([id.as_bytes()])?;
            }
            Ok(was_there)
        })
        .await
    }

    async fn drop_set_uploads(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        self.write(SMALL, move |db| {
            let sql = "DELETE FROM set_blocks WHERE id IN
                (SELECT id FROM set_blocks WHERE kept = 0 AND touched_ms < ?1 ORDER BY touched_ms LIMIT ?2)";
            let removed = db.prepare_cached(sql)?.execute(params![int(before_ms), limit])?;
            Ok(u32::try_from(removed).unwrap_or(u32::MAX))
        })
        .await
    }
}

/// Keeps the blocks of the uploads that the set names, and gives up those it does not.
///
/// # Errors
/// `Conflict` when an upload has fewer blocks than its version.
fn keep(db: &Connection, set: &RowSet, now_ms: u64) -> Result<(), Fault> {
    let id = set.id.as_bytes();
    let mut uploads =
        db.prepare_cached("SELECT DISTINCT upload FROM set_blocks WHERE set_id = ?1 AND kept = 1")?;
    let kept = uploads.query_map([id], |row| row.get(0).map(UploadId::from_bytes))?;
    let kept = kept.collect::<Result<Vec<_>, _>>()?;
    let tenant = set.tenant.as_str();
    let mark =
        "UPDATE set_blocks SET kept = ?3, touched_ms = ?4 WHERE set_id = ?1 AND upload = ?2 AND tenant = ?5";
    for upload in kept.iter().filter(|upload| !set.names(**upload)) {
        db.prepare_cached(mark)?.execute(params![id, upload.as_bytes(), false, 0, tenant])?;
    }
    for version in set.versions.iter().filter(|version| !kept.contains(&version.upload)) {
        let marked = params![id, version.upload.as_bytes(), true, int(now_ms), tenant];
        if db.prepare_cached(mark)?.execute(marked)? != usize::try_from(version.blocks).unwrap_or(usize::MAX)
        {
            return Err(Fault::conflict("the rows of the upload are not all there"));
        }
    }
    Ok(())
}
