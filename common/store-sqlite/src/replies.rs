//! `Replies`: the reply cache, one row each. Its bytes are counted by triggers.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_ports::{Outlived, Replies, ReplyKey, StoreError, StoreResult};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{self, BatchNum, int};
use crate::delete::{Room, some};
use crate::fault::Fault;

/// What the tables gained for the reply cache, and for counting what it gave. `replies.num` is the batch a reply goes with, 0 where it serves the
/// whole tenant.
pub(crate) const STEP: &str = "
    ALTER TABLE heads ADD COLUMN cached INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE replies(
        id INTEGER PRIMARY KEY, num INTEGER NOT NULL, tenant TEXT NOT NULL, kept_ms INTEGER NOT NULL, digest BLOB NOT NULL,
        body BLOB NOT NULL);
    CREATE UNIQUE INDEX replies_digest ON replies(digest);
    CREATE INDEX replies_kept ON replies(kept_ms);
    CREATE INDEX replies_tenant ON replies(tenant, kept_ms);
    CREATE INDEX replies_batch ON replies(num) WHERE num > 0;
    CREATE TRIGGER replies_counted AFTER INSERT ON replies BEGIN
        INSERT INTO stored_bytes(tenant, bytes) SELECT NEW.tenant, 0
            WHERE NOT EXISTS (SELECT 1 FROM stored_bytes WHERE tenant = NEW.tenant);
        UPDATE stored_bytes SET bytes = bytes + length(NEW.body) WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER replies_uncounted AFTER DELETE ON replies BEGIN
        UPDATE stored_bytes SET bytes = max(bytes - length(OLD.body), 0) WHERE tenant = OLD.tenant;
    END;
";

/// Replies that are removed in one step.
const PER_STEP: usize = 1_000;

/// About what one of them costs in a group beside its body.
const SMALL: usize = 256;

#[async_trait]
impl Replies for SqliteStore {
    async fn replies(&self, keys: &[ReplyKey]) -> StoreResult<Vec<Option<Bytes>>> {
        let keys = keys.to_vec();
        self.read(move |db| keys.iter().map(|key| find(db, key)).collect()).await
    }

    async fn keep_replies(&self, replies: Vec<(ReplyKey, Bytes)>, now_ms: u64) -> StoreResult<()> {
        let bytes = replies.iter().map(|(_, body)| SMALL + body.len()).sum();
        self.write(bytes, move |db| {
            let sql = "INSERT INTO replies(num, tenant, kept_ms, digest, body) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";
            let mut insert = db.prepare_cached(sql)?;
            for (key, body) in &replies {
                if let Some(num) = number(db, key)? {
                    insert.execute(params![num, key.tenant.as_str(), int(now_ms), key.digest, body.as_ref()])?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn forget_replies(&self, which: &Outlived) -> StoreResult<u32> {
        let (which, by_request) = (which.clone(), matches!(which, Outlived::OfTenant(_)));
        let found = self.write(crate::delete::STEP_BYTES, move |db| forget_some(db, &which)).await?;
        // Who asked for it wants it readable nowhere.
        if by_request && found == 0 {
            self.clear_log().await?;
        }
        Ok(found)
    }
}

fn forget_some(db: &Connection, which: &Outlived) -> Result<u32, Fault> {
    let mut room = Room::records(PER_STEP);
    let found = match which {
        Outlived::Before(before_ms) => some(db, BEFORE, [int(*before_ms)], &mut room)?.0,
        Outlived::OfTenant(tenant) => some(db, OF_TENANT, [tenant.as_str()], &mut room)?.0,
        Outlived::OfBatch(tenant, batch) => match batches::owned(db, tenant, *batch) {
            Ok(batch) => some(db, OF_BATCH, [batch.num.0], &mut room)?.0,
            Err(Fault::Store(StoreError::NotFound)) => Vec::new(),
            Err(fault) => return Err(fault),
        },
    };
    remove(db, &found)
}

/// What finds replies to be forgotten, each by an index.
const BEFORE: &str = "SELECT id, length(body) FROM replies WHERE kept_ms < ?1 ORDER BY kept_ms";
const OF_TENANT: &str = "SELECT id, length(body) FROM replies WHERE tenant = ?1 ORDER BY kept_ms";
/// The second condition is what the index asks for.
const OF_BATCH: &str = "SELECT id, length(body) FROM replies WHERE num = ?1 AND num > 0";

/// The number that stands for what the reply goes with; `None` where that is not there.
fn number(db: &Connection, key: &ReplyKey) -> Result<Option<i64>, Fault> {
    let Some(batch) = key.batch else { return Ok(Some(0)) };
    let sql = "SELECT num FROM batches WHERE id = ?1 AND tenant = ?2 AND phase < 3";
    let known = params![batch.as_bytes(), key.tenant.as_str()];
    Ok(db.prepare_cached(sql)?.query_row(known, |row| row.get(0)).optional()?)
}

fn find(db: &Connection, key: &ReplyKey) -> Result<Option<Bytes>, Fault> {
    let Some(num) = number(db, key)? else { return Ok(None) };
    let sql = "SELECT body FROM replies WHERE digest = ?1 AND tenant = ?2 AND num = ?3";
    let known = params![key.digest, key.tenant.as_str(), num];
    let found = db.prepare_cached(sql)?.query_row(known, |row| row.get::<_, Vec<u8>>(0)).optional()?;
    Ok(found.map(Bytes::from))
}

/// Removes some of those of a batch; answers whether all of them are gone.
pub(crate) fn remove_some(db: &Connection, num: BatchNum) -> Result<bool, Fault> {
    let (found, all) = some(db, OF_BATCH, [num.0], &mut Room::records(PER_STEP))?;
    remove(db, &found)?;
    Ok(all)
}

fn remove(db: &Connection, found: &[(i64, u64)]) -> Result<u32, Fault> {
    let mut delete = db.prepare_cached("DELETE FROM replies WHERE id = ?1")?;
    for (id, _) in found {
        delete.execute([id])?;
    }
    Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_for_replies_to_forget_reads_no_others() {
        let mut db = Connection::open_in_memory().unwrap();
        crate::schema::migrate(&mut db).unwrap();
        for (sql, index) in
            [(BEFORE, "replies_kept"), (OF_TENANT, "replies_tenant"), (OF_BATCH, "replies_batch")]
        {
            let explain = format!("EXPLAIN QUERY PLAN {sql}");
            let plan: String = db.query_row(&explain, [0], |row| row.get(3)).unwrap();
            assert!(plan.contains("SEARCH") && plan.contains(index), "{plan}");
        }
    }
}
