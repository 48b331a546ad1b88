//! `Outbox`: events, written into the batch with the change they tell of and kept there until they are handed on.

use std::collections::HashSet;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{Batch, BatchId, BatchState, Counts, Event, EventId, EventKind, TenantId};
use promptmill_ports::{Outbox, StoreResult};

use crate::MongoStore;
use crate::batches;
use crate::codec::{Fields, binary, conflict, corrupt, from_json, int, to_json};
use crate::collections::{BATCHES, META};
use crate::commands::{Commands, Concern, Query, Update};

/// The document in [`META`] that numbers events.
const EVENTS: &str = "events";
/// Events a batch may have that were not handed on: its document has a limit.
const MAX_PENDING: usize = 1_000;

#[async_trait]
impl Outbox for MongoStore {
    async fn pending(&self, limit: u32) -> StoreResult<Vec<Event>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        // Each batch has at least one, so as many batches hold as many events as are asked for.
        let query = Query::of(doc! { "outbox.seq": { "$exists": true } }).fields(doc! { "outbox": 1 });
        let query = query.sort(doc! { "outbox.seq": 1 }).limit(limit);
        let found = self.commands().find(BATCHES, query, Concern::Majority).await?;
        let mut events = Vec::new();
        for batch in &found {
            events.extend(self::events(batch)?);
        }
        events.sort_by_key(|(seq, _)| *seq);
        Ok(events.into_iter().take(limit as usize).map(|(_, event)| event).collect())
    }

    async fn batches_told_of(&self, batches: &[BatchId]) -> StoreResult<Vec<Batch>> {
        batches::any_of(self.commands(), batches).await
    }

    async fn handed_on(&self, events: &[EventId]) -> StoreResult<()> {
        if events.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = events.iter().map(|event| binary(*event.as_bytes())).collect();
        let filter = doc! { "outbox.id": { "$in": ids.clone() } };
        let change = doc! { "$pull": { "outbox": { "id": { "$in": ids } } }, "$inc": { "rev": 1_i64 } };
        self.commands().update(BATCHES, vec![Update::many(filter, change)]).await.map(|_| ())
    }
}

/// The events of a batch that were not handed on, each with its number.
pub(crate) fn events(batch: &Document) -> StoreResult<Vec<(u64, Event)>> {
    let entries = Fields(batch).documents("outbox")?;
    let event = |entry| {
        let entry = Fields(entry);
        Ok((entry.uint("seq")?, from_json(entry.text("event")?, "an event")?))
    };
    entries.into_iter().map(event).collect()
}

/// An event as it stands in its batch.
pub(crate) fn entry(event: &Event, number: u64) -> Document {
    doc! { "id": binary(*event.id.as_bytes()), "seq": int(number), "event": to_json(event) }
}

/// What a change of a batch needs to know of it to tell.
pub(crate) fn fields() -> Document {
    doc! { "state": 1, "ver": 1, "tells": 1, "outbox.seq": 1 }
}

/// A change of a batch.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// Whose batch.
    pub(crate) tenant: &'a TenantId,
    /// Which one.
    pub(crate) batch: BatchId,
    /// Its state after it.
    pub(crate) state: &'a BatchState,
    /// The version it gives the batch.
    pub(crate) ver: u64,
    /// Its counts, where it is final.
    pub(crate) counts: Option<&'a Counts>,
    /// When, Unix milliseconds.
    pub(crate) at_ms: u64,
    /// A number of [`next_number`].
    pub(crate) number: u64,
}

/// A number for an event that may be written: larger than those given before.
pub(crate) async fn next_number(commands: &Commands) -> StoreResult<u64> {
    next_numbers(commands, 1).await
}

/// So many numbers that follow one another: the first of them.
pub(crate) async fn next_numbers(commands: &Commands, count: usize) -> StoreResult<u64> {
    let count = int(count as u64);
    let more = doc! { "$inc": { "value": count } };
    let after = commands.find_and_modify(META, doc! { "_id": EVENTS }, more, true, true).await?;
    let after = after.ok_or_else(|| corrupt("the number of events"))?;
    Ok(Fields(&after).uint("value")?.saturating_sub(count.unsigned_abs() - 1))
}

/// Whether a batch, of which `found` has the [`fields`], has someone to tell: a webhook of its own, or an endpoint of its tenant.
pub(crate) fn tells(found: &Document, tenant: &TenantId, told: &HashSet<TenantId>) -> bool {
    Fields(found).flag("tells") || told.contains(tenant)
}

/// Adds the event of a change to its update operators, where it is one that is told and the batch has someone to tell.
pub(crate) fn tell(
    found: &Document,
    operators: &mut Document,
    change: &Change<'_>,
    told: &HashSet<TenantId>,
) -> StoreResult<()> {
    let Some(kind) = EventKind::of_state(change.state, change.counts) else {
        return Ok(());
    };
    if !tells(found, change.tenant, told) {
        return Ok(());
    }
    if Fields(found).documents("outbox")?.len() >= MAX_PENDING {
        return Err(conflict("the batch has too many events that were not handed on yet"));
    }
    let event = Event {
        id: EventId::of_batch(change.batch, change.ver),
        tenant: change.tenant.clone(),
        batch: change.batch,
        kind,
        at_ms: change.at_ms,
        ver: change.ver,
        state: change.state.clone(),
        counts: change.counts.cloned(),
        percent: None,
    };
    operators.insert("$push", Bson::from(doc! { "outbox": entry(&event, change.number) }));
    Ok(())
}
