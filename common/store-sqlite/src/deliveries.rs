//! `Deliveries`: one event for one receiver, tried until it is taken or given up.

use async_trait::async_trait;
use promptmill_domain::{BatchId, DeliveryId, EndpointId, EventId, TenantId};
use promptmill_ports::{
    Attempted, Deliveries, Delivery, DeliveryAttempt, DeliveryState, Replay, StoreResult,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::SqliteStore;
use crate::batches::{BatchNum, from_json, int, parse_tenant, to_json};
use crate::delete::Forgettable;
use crate::fault::Fault;

/// About what a delivery costs in a group beside its body.
const SMALL: usize = 1024;
/// Tries that are kept of a delivery, the newest ones.
const MAX_ATTEMPTS: usize = 20;

// `deliveries.state`; the indexes name `PENDING` as a number.
const PENDING: i64 = 0;
const DELIVERED: i64 = 1;
const GIVEN_UP: i64 = 2;

#[async_trait]
impl Deliveries for SqliteStore {
    async fn add_deliveries(&self, deliveries: &[Delivery]) -> StoreResult<()> {
        let deliveries = deliveries.to_vec();
        let bytes = deliveries.iter().map(|delivery| SMALL + delivery.body.len()).sum();
        self.write(bytes, move |db| deliveries.iter().try_for_each(|delivery| add(db, delivery))).await
    }

    async fn take_due(&self, now_ms: u64, until_ms: u64, limit: u32) -> StoreResult<Vec<Delivery>> {
        self.write(SMALL * limit as usize, move |db| take_due(db, now_ms, until_ms, limit)).await
    }

    async fn record_attempts(&self, attempts: &[Attempted]) -> StoreResult<()> {
        let attempts = attempts.to_vec();
        self.write(SMALL * attempts.len(), move |db| {
            attempts.iter().try_for_each(|made| record_attempt(db, made))
        })
        .await
    }

    async fn deliveries(&self, tenant: &TenantId, batch: BatchId, limit: u32) -> StoreResult<Vec<Delivery>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM deliveries WHERE batch = ?1 AND tenant = ?2 ORDER BY created_ms, num LIMIT ?3"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let rows =
                statement.query_map(params![batch.as_bytes(), tenant.as_str(), limit], RawDelivery::read)?;
            rows.map(|raw| raw?.decode()).collect()
        })
        .await
    }

    async fn deliveries_to(
        &self,
        tenant: &TenantId,
        endpoint: EndpointId,
        limit: u32,
    ) -> StoreResult<Vec<Delivery>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM deliveries WHERE endpoint = ?1 AND tenant = ?2 ORDER BY created_ms DESC, num DESC LIMIT ?3"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let these = params![endpoint.as_bytes(), tenant.as_str(), limit];
            let rows = statement.query_map(these, RawDelivery::read)?;
            rows.map(|raw| raw?.decode()).collect()
        })
        .await
    }

    async fn replay(&self, tenant: &TenantId, which: Replay, now_ms: u64) -> StoreResult<u32> {
        let tenant = tenant.clone();
        self.write(SMALL, move |db| {
            let again = "UPDATE deliveries SET state = 0, due_ms = ?1 WHERE tenant = ?2 AND";
            let changed = match which {
                Replay::One(id) => db
                    .prepare_cached(&format!("{again} id = ?3"))?
                    .execute(params![int(now_ms), tenant.as_str(), id.as_bytes()])?,
                Replay::GivenUpSince(since_ms) => {
                    let these = "num IN (SELECT num FROM deliveries WHERE tenant = ?2 AND state = 2 AND created_ms >= ?3
                        ORDER BY created_ms LIMIT 100000)";
                    db.prepare_cached(&format!("{again} {these}"))?
                        .execute(params![int(now_ms), tenant.as_str(), int(since_ms)])?
                }
            };
            Ok(u32::try_from(changed).unwrap_or(u32::MAX))
        })
        .await
    }

    async fn next_due(&self) -> StoreResult<Option<u64>> {
        self.read(|db| {
            let sql = "SELECT min(due_ms) FROM deliveries WHERE state = 0";
            Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
        })
        .await
    }

    async fn forget_deliveries(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        let over = Forgettable {
            find: "SELECT num, length(body) FROM deliveries WHERE state <> 0 AND created_ms < ?1 ORDER BY created_ms",
            delete: "DELETE FROM deliveries WHERE num = ?1",
        };
        self.forget(over, before_ms, limit).await
    }
}

/// Deletes up to `limit` deliveries of a batch that is being deleted; answers how many.
pub(crate) fn forget_batch(db: &Connection, num: BatchNum, limit: usize) -> Result<usize, Fault> {
    let sql = "DELETE FROM deliveries WHERE num IN
        (SELECT num FROM deliveries WHERE batch = (SELECT id FROM batches WHERE num = ?1) LIMIT ?2)";
    Ok(db.prepare_cached(sql)?.execute(params![num.0, limit])?)
}

fn add(db: &Connection, delivery: &Delivery) -> Result<(), Fault> {
    let sql = format!(
        "INSERT INTO deliveries({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
        ON CONFLICT (id) DO NOTHING"
    );
    db.prepare_cached(&sql)?.execute(params![
        delivery.id.as_bytes(),
        delivery.tenant.as_str(),
        // The column must hold something: nothing of one that tells of no batch.
        delivery.batch.as_ref().map_or(&[][..], |batch| batch.as_bytes()),
        delivery.event.as_bytes(),
        to_json(&delivery.kind),
        number(delivery.state),
        int(delivery.due_ms),
        int(delivery.created_ms),
        delivery.url,
        delivery.sealed_secret,
        to_json(&delivery.attempts),
        &delivery.body[..],
        delivery.endpoint.as_ref().map(EndpointId::as_bytes),
    ])?;
    Ok(())
}

fn take_due(db: &Connection, now_ms: u64, until_ms: u64, limit: u32) -> Result<Vec<Delivery>, Fault> {
    let sql = format!(
        "SELECT {COLUMNS} FROM deliveries WHERE state = 0 AND due_ms <= ?1 ORDER BY due_ms, num LIMIT ?2"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(params![int(now_ms), limit], RawDelivery::read)?;
    let mut taken = rows.map(|raw| raw?.decode()).collect::<Result<Vec<Delivery>, Fault>>()?;
    let mut move_due = db.prepare_cached("UPDATE deliveries SET due_ms = ?2 WHERE id = ?1")?;
    for delivery in &mut taken {
        move_due.execute(params![delivery.id.as_bytes(), int(until_ms)])?;
        delivery.due_ms = until_ms;
    }
    Ok(taken)
}

fn record_attempt(db: &Connection, made: &Attempted) -> Result<(), Fault> {
    let Attempted { id, attempt, state, due_ms } = made;
    let sql = "SELECT attempts FROM deliveries WHERE id = ?1 AND state = 0";
    let known: Option<String> =
        db.prepare_cached(sql)?.query_row([id.as_bytes()], |row| row.get(0)).optional()?;
    // Over, or gone with its batch.
    let Some(attempts) = known else { return Ok(()) };
    let mut attempts: Vec<DeliveryAttempt> = from_json(&attempts, "the attempts of a delivery")?;
    // A caller that repeats the step after an unknown result made the same attempt once.
    if let Some(attempt) = attempt
        && attempts.last() != Some(attempt)
    {
        attempts.push(attempt.clone());
    }
    let excess = attempts.len().saturating_sub(MAX_ATTEMPTS);
    drop(attempts.drain(..excess));
    let sql = "UPDATE deliveries SET attempts = ?2, state = ?3, due_ms = ?4 WHERE id = ?1";
    let values = params![id.as_bytes(), to_json(&attempts), number(*state), int(*due_ms)];
    db.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

fn number(state: DeliveryState) -> i64 {
    match state {
        DeliveryState::Pending => PENDING,
        DeliveryState::Delivered => DELIVERED,
        DeliveryState::GivenUp => GIVEN_UP,
    }
}

const COLUMNS: &str =
    "id, tenant, batch, event, kind, state, due_ms, created_ms, url, sealed_secret, attempts, body, endpoint";

struct RawDelivery {
    id: [u8; 16],
    tenant: String,
    batch: Vec<u8>,
    event: [u8; 16],
    kind: String,
    state: i64,
    due_ms: u64,
    created_ms: u64,
    url: String,
    sealed_secret: String,
    attempts: String,
    body: Vec<u8>,
    endpoint: Option<[u8; 16]>,
}

impl RawDelivery {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            tenant: row.get(1)?,
            batch: row.get(2)?,
            event: row.get(3)?,
            kind: row.get(4)?,
            state: row.get(5)?,
            due_ms: row.get(6)?,
            created_ms: row.get(7)?,
            url: row.get(8)?,
            sealed_secret: row.get(9)?,
            attempts: row.get(10)?,
            body: row.get(11)?,
            endpoint: row.get(12)?,
        })
    }

    fn decode(self) -> Result<Delivery, Fault> {
        let state = match self.state {
            PENDING => DeliveryState::Pending,
            DELIVERED => DeliveryState::Delivered,
            GIVEN_UP => DeliveryState::GivenUp,
            _ => return Err(Fault::corrupt("the state of a delivery")),
        };
        Ok(Delivery {
            id: DeliveryId::from_bytes(self.id),
            tenant: parse_tenant(&self.tenant)?,
            batch: match &self.batch[..] {
                [] => None,
                batch => Some(BatchId::from_bytes(
                    batch.try_into().map_err(|_| Fault::corrupt("the batch of a delivery"))?,
                )),
            },
            event: EventId::from_bytes(self.event),
            kind: from_json(&self.kind, "the kind of an event")?,
            url: self.url,
            sealed_secret: self.sealed_secret,
            endpoint: self.endpoint.map(EndpointId::from_bytes),
            body: self.body.into(),
            state,
            due_ms: self.due_ms,
            attempts: from_json(&self.attempts, "the attempts of a delivery")?,
            created_ms: self.created_ms,
        })
    }
}
