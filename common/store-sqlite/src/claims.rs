//! `Claims`: requests that must happen once however often they are sent, and the answers that are repeated.

use async_trait::async_trait;
use bytes::Bytes;
use promptmill_domain::TenantId;
use promptmill_ports::{Claim, Claimed, Claims, StoreError, StoreResult, StoredAnswer};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::SqliteStore;
use crate::batches::{from_json, int, to_json};
use crate::delete::Forgettable;
use crate::fault::Fault;

/// About what a claim costs in a group.
const SMALL: usize = 512;

#[async_trait]
impl Claims for SqliteStore {
    async fn claim(&self, claim: &Claim, now_ms: u64) -> StoreResult<Claimed> {
        let request = claim.clone();
        self.write(SMALL, move |db| begin(db, &request, now_ms)).await
    }

    async fn take_over(
        &self,
        tenant: &TenantId,
        key: &str,
        from: [u8; 16],
        owner: [u8; 16],
    ) -> StoreResult<bool> {
        let (tenant, key) = (tenant.clone(), key.to_owned());
        self.write(SMALL, move |db| {
            let sql = "UPDATE claims SET owner = ?4 WHERE tenant = ?1 AND key = ?2 AND owner = ?3 AND status IS NULL";
            Ok(db.prepare_cached(sql)?.execute(params![tenant.as_str(), key, from, owner])? > 0)
        })
        .await
    }

    async fn answer(&self, tenant: &TenantId, key: &str, answer: &StoredAnswer) -> StoreResult<()> {
        let (tenant, key, answer) = (tenant.clone(), key.to_owned(), answer.clone());
        self.write(SMALL + answer.body.len(), move |db| keep_answer(db, &tenant, &key, &answer)).await
    }

    async fn release(&self, tenant: &TenantId, key: &str, owner: [u8; 16]) -> StoreResult<()> {
        let (tenant, key) = (tenant.clone(), key.to_owned());
        self.write(SMALL, move |db| {
            let sql = "DELETE FROM claims WHERE tenant = ?1 AND key = ?2 AND owner = ?3 AND status IS NULL";
            db.prepare_cached(sql)?.execute(params![tenant.as_str(), key, owner])?;
            Ok(())
        })
        .await
    }

    async fn forget_claims(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        let claims = Forgettable {
            find: "SELECT id, coalesce(length(body), 0) FROM claims WHERE created_ms < ?1 ORDER BY created_ms",
            delete: "DELETE FROM claims WHERE id = ?1",
        };
        self.forget(claims, before_ms, limit).await
    }
}

fn begin(db: &Connection, claim: &Claim, now_ms: u64) -> Result<Claimed, Fault> {
    let sql =
        "SELECT fingerprint, plan, owner, status, headers, body FROM claims WHERE tenant = ?1 AND key = ?2";
    let known = params![claim.tenant.as_str(), claim.key];
    if let Some(earlier) = db.prepare_cached(sql)?.query_row(known, Earlier::read).optional()? {
        return earlier.answer_to(claim);
    }
    let sql = "INSERT INTO claims(tenant, key, created_ms, fingerprint, plan, owner) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    db.prepare_cached(sql)?.execute(params![
        claim.tenant.as_str(),
        claim.key,
        int(now_ms),
        claim.fingerprint,
        claim.plan,
        claim.owner,
    ])?;
    Ok(Claimed::Run)
}

fn keep_answer(db: &Connection, tenant: &TenantId, key: &str, answer: &StoredAnswer) -> Result<(), Fault> {
    let sql = "UPDATE claims SET headers = ?4, body = ?5, status = ?3 WHERE tenant = ?1 AND key = ?2 AND status IS NULL";
    let headers = to_json(&answer.headers);
    let values = params![tenant.as_str(), key, answer.status, headers, &answer.body[..]];
    if db.prepare_cached(sql)?.execute(values)? > 0 {
        return Ok(());
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM claims WHERE tenant = ?1 AND key = ?2)";
    if db.prepare_cached(sql)?.query_row(params![tenant.as_str(), key], |row| row.get(0))? {
        Ok(())
    } else {
        Err(Fault::Store(StoreError::NotFound))
    }
}

/// What an earlier request with the same key left.
pub(crate) struct Earlier {
    /// Digest of what it asked.
    pub(crate) fingerprint: [u8; 32],
    /// From which its ids derive.
    pub(crate) plan: [u8; 16],
    /// Who runs it.
    pub(crate) owner: [u8; 16],
    /// Status, headers as JSON, and body.
    answer: Option<(u16, String, Vec<u8>)>,
}

impl Earlier {
    /// Of a row that begins with its fingerprint, plan, owner, status, headers and body.
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let answer = match row.get(3)? {
            Some(status) => Some((status, row.get(4)?, row.get(5)?)),
            None => None,
        };
        Ok(Self { fingerprint: row.get(0)?, plan: row.get(1)?, owner: row.get(2)?, answer })
    }

    /// The answer, where it has one.
    pub(crate) fn answer(self) -> Result<Option<StoredAnswer>, Fault> {
        let Some((status, headers, body)) = self.answer else { return Ok(None) };
        let headers = from_json(&headers, "the headers of a stored answer")?;
        Ok(Some(StoredAnswer { status, headers, body: Bytes::from(body) }))
    }

    fn answer_to(self, claim: &Claim) -> Result<Claimed, Fault> {
        let Self { fingerprint, plan, owner, .. } = self;
        if fingerprint != claim.fingerprint {
            return Ok(Claimed::Mismatch);
        }
        Ok(self.answer()?.map_or(Claimed::Begun { owner, plan }, Claimed::Done))
    }
}
