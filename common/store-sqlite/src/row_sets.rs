//! `RowSets`: rows that are stored to be run again and again.
//!
//! An upload is `kept` from the step on in which a version names it until the one in which none does any more; what is not kept is swept, a few blocks at a
//! time. That stands in a record of the upload, so that no step reads or writes blocks but those it is about.

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

    CREATE TABLE set_uploads(
        num INTEGER PRIMARY KEY, set_id BLOB NOT NULL, upload BLOB NOT NULL, tenant TEXT NOT NULL, kept INTEGER NOT NULL,
        touched_ms INTEGER NOT NULL, blocks INTEGER NOT NULL);
    CREATE UNIQUE INDEX set_uploads_key ON set_uploads(set_id, upload);
    CREATE INDEX set_uploads_touched ON set_uploads(touched_ms) WHERE kept = 0;

    CREATE TABLE set_blocks(
        id INTEGER PRIMARY KEY, num INTEGER NOT NULL, seq INTEGER NOT NULL, len INTEGER NOT NULL, size INTEGER NOT NULL,
        ids BLOB NOT NULL, bytes BLOB NOT NULL);
    CREATE UNIQUE INDEX set_blocks_key ON set_blocks(num, seq);

    CREATE TRIGGER set_blocks_counted AFTER INSERT ON set_blocks BEGIN
        INSERT INTO stored_bytes(tenant, bytes) SELECT tenant, 0 FROM set_uploads u WHERE u.num = NEW.num
            AND NOT EXISTS (SELECT 1 FROM stored_bytes s WHERE s.tenant = u.tenant);
        UPDATE stored_bytes SET bytes = bytes + NEW.size WHERE tenant = (SELECT tenant FROM set_uploads WHERE num = NEW.num);
        UPDATE set_uploads SET blocks = blocks + 1 WHERE num = NEW.num;
    END;
    CREATE TRIGGER set_blocks_uncounted AFTER DELETE ON set_blocks BEGIN
        UPDATE stored_bytes SET bytes = max(bytes - OLD.size, 0) WHERE tenant = (SELECT tenant FROM set_uploads WHERE num = OLD.num);
    END;

    CREATE TRIGGER row_sets_counted AFTER INSERT ON row_sets BEGIN
        INSERT INTO stored_bytes(tenant, bytes) SELECT NEW.tenant, 0
            WHERE NOT EXISTS (SELECT 1 FROM stored_bytes WHERE tenant = NEW.tenant);
        UPDATE stored_bytes SET records = records + octet_length(NEW.row_set) WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER row_sets_recounted AFTER UPDATE OF row_set ON row_sets BEGIN
        UPDATE stored_bytes SET records = records + octet_length(NEW.row_set) - octet_length(OLD.row_set)
            WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER row_sets_uncounted AFTER DELETE ON row_sets BEGIN
        UPDATE stored_bytes SET records = records - octet_length(OLD.row_set) WHERE tenant = OLD.tenant;
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
            let (set, upload) = (set.as_bytes(), upload.as_bytes());
            let sql = "INSERT INTO set_uploads(set_id, upload, tenant, kept, touched_ms, blocks) VALUES (?1, ?2, ?3, 0, ?4, 0)
                ON CONFLICT DO UPDATE SET touched_ms = max(touched_ms, excluded.touched_ms) WHERE tenant = excluded.tenant
                RETURNING num";
            let known = params![set, upload, tenant.as_str(), int(now_ms)];
            let num: Option<i64> = db.prepare_cached(sql)?.query_row(known, |row| row.get(0)).optional()?;
            let num = num.ok_or_else(|| Fault::conflict("the upload is another tenant's"))?;
            let sql = "INSERT INTO set_blocks(num, seq, len, size, ids, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT DO NOTHING";
            let mut insert = db.prepare_cached(sql)?;
            for RowBlock { seq, len, bytes, ids } in &blocks {
                insert.execute(params![num, seq, len, int(bytes.len() as u64), &ids[..], &bytes[..]])?;
            }
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
                WHERE num = (SELECT num FROM set_uploads WHERE set_id = ?1 AND upload = ?2 AND tenant = ?4) AND seq >= ?3
                ORDER BY seq";
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
                // Their blocks go with the next sweeps, a few at a time.
                let sql = "UPDATE set_uploads SET kept = 0, touched_ms = 0 WHERE set_id = ?1";
                db.prepare_cached(sql)?.execute([id.as_bytes()])?;
            }
            Ok(was_there)
        })
        .await
    }

    async fn drop_set_uploads(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        self.write(SMALL, move |db| {
            let mut removed = 0;
            while removed < limit {
                let sql = "SELECT num FROM set_uploads WHERE kept = 0 AND touched_ms < ?1 ORDER BY touched_ms LIMIT 1";
                let num = db.prepare_cached(sql)?.query_row([int(before_ms)], |row| row.get::<_, i64>(0)).optional()?;
                let Some(num) = num else { break };
                let sql = "DELETE FROM set_blocks WHERE id IN (SELECT id FROM set_blocks WHERE num = ?1 LIMIT ?2)";
                let room = limit - removed;
                let some = u32::try_from(db.prepare_cached(sql)?.execute(params![num, room])?).unwrap_or(room);
                removed += some;
                if some < room {
                    db.prepare_cached("DELETE FROM set_uploads WHERE num = ?1")?.execute([num])?;
                } else {
                    // No version may become this upload any more.
                    let sql = "UPDATE set_uploads SET blocks = blocks - ?2 WHERE num = ?1";
                    db.prepare_cached(sql)?.execute([num, i64::from(some)])?;
                }
            }
            Ok(removed)
        })
        .await
    }
}

/// Keeps the uploads that the set names, and gives up those it does not.
///
/// # Errors
/// `Conflict` when an upload has fewer blocks than its version.
fn keep(db: &Connection, set: &RowSet, now_ms: u64) -> Result<(), Fault> {
    let (id, tenant) = (set.id.as_bytes(), set.tenant.as_str());
    let mut uploads = db.prepare_cached("SELECT upload FROM set_uploads WHERE set_id = ?1 AND kept = 1")?;
    let kept = uploads.query_map([id], |row| row.get(0).map(UploadId::from_bytes))?;
    let kept = kept.collect::<Result<Vec<_>, _>>()?;
    for upload in kept.iter().filter(|upload| !set.names(**upload)) {
        let sql = "UPDATE set_uploads SET kept = 0, touched_ms = 0 WHERE set_id = ?1 AND upload = ?2";
        db.prepare_cached(sql)?.execute(params![id, upload.as_bytes()])?;
    }
    for version in set.versions.iter().filter(|version| !kept.contains(&version.upload)) {
        let sql = "UPDATE set_uploads SET kept = 1, touched_ms = ?3
            WHERE set_id = ?1 AND upload = ?2 AND tenant = ?4 AND blocks = ?5";
        let marked = params![id, version.upload.as_bytes(), int(now_ms), tenant, version.blocks];
        if db.prepare_cached(sql)?.execute(marked)? != 1 {
            return Err(Fault::conflict("the rows of the upload are not all there"));
        }
    }
    Ok(())
}
