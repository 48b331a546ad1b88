//! `Outbox`: events, written with the change they tell of and kept until they are handed on.

use async_trait::async_trait;
use promptmill_domain::{Batch, BatchId, BatchState, Counts, Event, EventId, EventKind};
use promptmill_ports::{Outbox, StoreResult};
use rusqlite::{Connection, params};

use crate::SqliteStore;
use crate::batches::{Found, from_json, load_any, to_json};
use crate::fault::Fault;

/// About what forgetting an event costs in a group.
const EVENT: usize = 256;

#[async_trait]
impl Outbox for SqliteStore {
    async fn pending(&self, limit: u32) -> StoreResult<Vec<Event>> {
        self.read(move |db| pending(db, limit)).await
    }

    async fn batches_told_of(&self, batches: &[BatchId]) -> StoreResult<Vec<Batch>> {
        let batches = batches.to_vec();
        self.read(move |db| load_any(db, &batches)).await
    }

    async fn handed_on(&self, events: &[EventId]) -> StoreResult<()> {
        let events = events.to_vec();
        self.write(EVENT * events.len(), move |db| {
            let mut statement = db.prepare_cached("DELETE FROM outbox WHERE id = ?1")?;
            for event in &events {
                statement.execute([event.as_bytes()])?;
            }
            Ok(())
        })
        .await
    }
}

/// A change of a batch that was just written.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// Its state now.
    pub(crate) state: &'a BatchState,
    /// The version the change gave it.
    pub(crate) ver: u64,
    /// Its counts, where it is final.
    pub(crate) counts: Option<&'a Counts>,
    /// When, Unix milliseconds.
    pub(crate) at_ms: u64,
}

/// Writes the event of a change, where it is one that is told and the batch has someone to tell.
pub(crate) fn tell(db: &Connection, found: &Found, batch: BatchId, change: &Change<'_>) -> Result<(), Fault> {
    let Some(kind) = EventKind::of_state(change.state, change.counts) else {
        return Ok(());
    };
    let sql = "SELECT json_extract(spec, '$.webhook') IS NOT NULL OR EXISTS (SELECT 1 FROM endpoints e WHERE e.tenant = b.tenant)
        FROM batches b WHERE num = ?1";
    if !db.prepare_cached(sql)?.query_row([found.num.0], |row| row.get::<_, bool>(0))? {
        return Ok(());
    }
    let event = Event {
        id: EventId::of_batch(batch, change.ver),
        tenant: found.tenant.clone(),
        batch,
        kind,
        at_ms: change.at_ms,
        ver: change.ver,
        state: change.state.clone(),
        counts: change.counts.cloned(),
        percent: None,
    };
    let sql = "INSERT INTO outbox(id, num, event) VALUES (?1, ?2, ?3)";
    db.prepare_cached(sql)?.execute(params![event.id.as_bytes(), found.num.0, to_json(&event)])?;
    Ok(())
}

fn pending(db: &Connection, limit: u32) -> Result<Vec<Event>, Fault> {
    let mut statement = db.prepare_cached("SELECT event FROM outbox ORDER BY seq LIMIT ?1")?;
    let events = statement.query_map([limit], |row| row.get::<_, String>(0))?;
    events.map(|json| from_json(&json?, "an event")).collect()
}
