//! `Close`: sealing chunks, closing and deleting batches.

use async_trait::async_trait;
use promptmill_domain::{BatchEvent, BatchId, Counts, HeadEvent, TenantId};
use promptmill_ports::{Close, StoreResult};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{self, BatchNum, Found, from_json, int, to_json};
use crate::fault::Fault;
use crate::heads::{self, Changed};
use crate::outbox::{self, Change};
use crate::{counts, delete};

/// About what sealing a chunk costs in a group.
const HEAD: usize = 1024;

#[async_trait]
impl Close for SqliteStore {
    async fn seal(&self, tenant: &TenantId, batch: BatchId, limit: u32, now_ms: u64) -> StoreResult<u32> {
        let tenant = tenant.clone();
        self.write(HEAD, move |db| seal(db, &tenant, batch, limit, now_ms)).await
    }

    async fn close(&self, tenant: &TenantId, batch: BatchId, now_ms: u64) -> StoreResult<Option<Counts>> {
        let tenant = tenant.clone();
        self.write(HEAD, move |db| close(db, &tenant, batch, now_ms)).await
    }

    async fn delete(&self, tenant: &TenantId, batch: BatchId) -> StoreResult<bool> {
        let tenant = tenant.clone();
        let gone = self
            .write(delete::STEP_BYTES, move |db| {
                let num = delete::mark(db, &tenant, batch)?;
                delete::step(db, num)
            })
            .await?;
        if gone {
            self.clear_log().await?;
        }
        Ok(gone)
    }
}

fn seal(db: &Connection, tenant: &TenantId, batch: BatchId, limit: u32, now_ms: u64) -> Result<u32, Fault> {
    let found = batches::owned(db, tenant, batch)?;
    if found.state.is_final() {
        return Ok(0);
    }
    let Some(code) = found.state.seals_with() else {
        return Err(Fault::conflict(format!(
            "the chunks of a batch that is {} cannot be sealed",
            found.state.as_str()
        )));
    };
    let (first, last) = found.num.range();
    let sql =
        "SELECT id FROM heads WHERE state IN (0, 1, 2, 3) AND state < 4 AND id BETWEEN ?1 AND ?2 LIMIT ?3";
    let mut statement = db.prepare_cached(sql)?;
    let keys = statement.query_map(params![first, last, limit.max(1)], |row| row.get(0))?;
    let mut sealed = 0;
    for key in keys.collect::<Result<Vec<i64>, _>>()? {
        if let Changed::Applied(_) = heads::change(db, key, HeadEvent::Seal(code), now_ms)? {
            sealed += 1;
        }
    }
    Ok(sealed)
}

fn close(db: &Connection, tenant: &TenantId, batch: BatchId, now_ms: u64) -> Result<Option<Counts>, Fault> {
    let found = batches::owned(db, tenant, batch)?;
    let next = found.state.decide(&BatchEvent::Close)?;
    if found.state.is_final() {
        return frozen_counts(db, &found).map(Some);
    }
    if has_open_chunk(db, found.num)? {
        return Ok(None);
    }
    let (counts, _) = counts::count(db, found.num)?;
    let sql = "UPDATE batches SET final_counts = ?2, finished_ms = ?3,
            kept_until_ms = ?3 + json_extract(spec, '$.retention_ms') WHERE num = ?1";
    db.prepare_cached(sql)?.execute(params![found.num.0, to_json(&counts), int(now_ms)])?;
    let ver = batches::set_state(db, found.num, &next)?;
    outbox::tell(db, &found, batch, &Change { state: &next, ver, counts: Some(&counts), at_ms: now_ms })?;
    Ok(Some(counts))
}

/// Whether a chunk is neither done nor sealed; one look at the index, for the scheduler asks often.
fn has_open_chunk(db: &Connection, num: BatchNum) -> Result<bool, Fault> {
    let (first, last) = num.range();
    let sql =
        "SELECT 1 FROM heads WHERE state IN (0, 1, 2, 3) AND state < 4 AND id BETWEEN ?1 AND ?2 LIMIT 1";
    Ok(db.prepare_cached(sql)?.exists([first, last])?)
}

fn frozen_counts(db: &Connection, found: &Found) -> Result<Counts, Fault> {
    let sql = "SELECT final_counts FROM batches WHERE num = ?1";
    let json: Option<String> =
        db.prepare_cached(sql)?.query_row([found.num.0], |row| row.get(0)).optional()?.flatten();
    json.map_or_else(
        || Err(Fault::corrupt("a final batch has no counts")),
        |json| from_json(&json, "final counts"),
    )
}
