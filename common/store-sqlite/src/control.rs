//! `Control`: a running batch is steered.

use async_trait::async_trait;
use promptmill_domain::{BatchEvent, BatchId, BatchLimits, BatchState, TenantId};
use promptmill_ports::{Control, StoreResult};
use rusqlite::{Connection, params};

use crate::SqliteStore;
use crate::batches::{self, to_json};
use crate::fault::Fault;
use crate::outbox::{self, Change};

const SMALL: usize = 512;

#[async_trait]
impl Control for SqliteStore {
    async fn steer(
        &self,
        tenant: &TenantId,
        batch: BatchId,
        event: BatchEvent,
        now_ms: u64,
    ) -> StoreResult<BatchState> {
        let tenant = tenant.clone();
        self.write(SMALL, move |db| steer(db, &tenant, batch, &event, now_ms)).await
    }

    async fn set_limits(&self, tenant: &TenantId, batch: BatchId, limits: BatchLimits) -> StoreResult<()> {
        let tenant = tenant.clone();
        self.write(SMALL, move |db| set_limits(db, &tenant, batch, limits)).await
    }
}

fn steer(
    db: &Connection,
    tenant: &TenantId,
    batch: BatchId,
    event: &BatchEvent,
    now_ms: u64,
) -> Result<BatchState, Fault> {
    let found = batches::owned(db, tenant, batch)?;
    match event {
        BatchEvent::Pause(_) | BatchEvent::Resume | BatchEvent::Cancel | BatchEvent::Expire => {}
        BatchEvent::BeginSubmit | BatchEvent::FinishSubmit | BatchEvent::Admit | BatchEvent::Close => {
            return Err(Fault::conflict("this step of a batch is taken by its own call"));
        }
    }
    let next = found.state.decide(event)?;
    if next != found.state {
        let ver = batches::set_state(db, found.num, &next)?;
        outbox::tell(db, &found, batch, &Change { state: &next, ver, counts: None, at_ms: now_ms })?;
        batches::bump_changes(db)?;
    }
    Ok(next)
}

fn set_limits(db: &Connection, tenant: &TenantId, batch: BatchId, limits: BatchLimits) -> Result<(), Fault> {
    let found = batches::owned(db, tenant, batch)?;
    if found.state.is_final() {
        return Err(Fault::conflict(format!(
            "the limits of a batch that is {} cannot change",
            found.state.as_str()
        )));
    }
    let sql = "UPDATE batches SET limits = ?2, ver = ver + 1 WHERE num = ?1 AND limits <> ?2";
    if db.prepare_cached(sql)?.execute(params![found.num.0, to_json(&limits)])? > 0 {
        batches::bump_changes(db)?;
    }
    Ok(())
}
