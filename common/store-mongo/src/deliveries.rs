//! `Deliveries`: one event for one receiver, tried until it is taken or given up.
//!
//! Adding is one insert of each delivery; a crash in the middle leaves some, and whoever repeats it adds the rest. A try is one write of one
//! document. Who takes what is due marks it and reads what bears the mark; a crash in between leaves them to whoever comes when they are
//! due again.

use async_trait::async_trait;
use bytes::Bytes;
use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{BatchId, DeliveryId, EndpointId, EventId, TenantId};
use promptmill_ports::{
    Attempted, Deliveries, Delivery, DeliveryAttempt, DeliveryState, Replay, StoreResult,
};

use crate::MongoStore;
use crate::codec::{Fields, binary, corrupt, from_json, int, to_json};
use crate::collections::DELIVERIES;
use crate::commands::{Concern, Query, Update, encode, fresh_mark};
use crate::forget;

/// Tries that are kept of a delivery, the newest ones.
const MAX_ATTEMPTS: i32 = 20;

// `deliveries.state`.
const PENDING: &str = "pending";
const DELIVERED: &str = "delivered";
const GIVEN_UP: &str = "given_up";

#[async_trait]
impl Deliveries for MongoStore {
    async fn add_deliveries(&self, deliveries: &[Delivery]) -> StoreResult<()> {
        let documents = deliveries.iter().map(|delivery| encode(&to_document(delivery)));
        let documents = documents.collect::<StoreResult<Vec<_>>>()?;
        self.commands().insert(DELIVERIES, documents).await.map(|_| ())
    }

    async fn take_due(&self, now_ms: u64, until_ms: u64, limit: u32) -> StoreResult<Vec<Delivery>> {
        let mark = fresh_mark();
        let due = doc! {
            "state": PENDING, "due_ms": { "$lte": int(now_ms) }, "taken_by": { "$ne": mark.clone() },
        };
        let mut taken: Vec<Delivery> = Vec::new();
        while taken.len() < limit as usize {
            let room = limit - u32::try_from(taken.len()).unwrap_or(limit);
            let earliest = doc! { "due_ms": 1, "_id": 1 };
            let query = Query::of(due.clone()).fields(doc! { "_id": 1 }).sort(earliest).limit(room);
            let found = self.commands().find(DELIVERIES, query, Concern::Local).await?;
            let ids: Vec<Bson> = found.into_iter().filter_map(|mut found| found.remove("_id")).collect();
            if ids.is_empty() {
                break;
            }
            taken.extend(self.take(&due, &ids, until_ms, &mark).await?);
            // Others may have taken some of these, so there may be more to find.
        }
        Ok(taken)
    }

    async fn record_attempts(&self, attempts: &[Attempted]) -> StoreResult<()> {
        if attempts.is_empty() {
            return Ok(());
        }
        let updates = attempts.iter().map(recorded).collect();
        self.commands().update(DELIVERIES, updates).await.map(|_| ())
    }

    async fn deliveries(&self, tenant: &TenantId, batch: BatchId, limit: u32) -> StoreResult<Vec<Delivery>> {
        let theirs = doc! { "batch": binary(*batch.as_bytes()), "tenant": tenant.as_str() };
        let query = Query::of(theirs).sort(doc! { "created_ms": 1, "_id": 1 }).limit(limit);
        let found = self.commands().find(DELIVERIES, query, Concern::Majority).await?;
        found.iter().map(from_document).collect()
    }

    async fn deliveries_to(
        &self,
        tenant: &TenantId,
        endpoint: EndpointId,
        limit: u32,
    ) -> StoreResult<Vec<Delivery>> {
        let theirs = doc! { "endpoint": binary(*endpoint.as_bytes()), "tenant": tenant.as_str() };
        let query = Query::of(theirs).sort(doc! { "created_ms": -1, "_id": -1 }).limit(limit);
        let found = self.commands().find(DELIVERIES, query, Concern::Majority).await?;
        found.iter().map(from_document).collect()
    }

    async fn replay(&self, tenant: &TenantId, which: Replay, now_ms: u64) -> StoreResult<u32> {
        let mut these = doc! { "tenant": tenant.as_str() };
        match which {
            Replay::One(id) => drop(these.insert("_id", binary(*id.as_bytes()))),
            Replay::GivenUpSince(since_ms) => {
                these.insert("state", GIVEN_UP);
                these.insert("created_ms", doc! { "$gte": int(since_ms) });
            }
        }
        let again = doc! { "$set": { "state": PENDING, "due_ms": int(now_ms) } };
        let changed = self.commands().update(DELIVERIES, vec![Update::many(these, again)]).await?.n;
        Ok(u32::try_from(changed).unwrap_or(u32::MAX))
    }

    async fn next_due(&self) -> StoreResult<Option<u64>> {
        let query = Query::of(doc! { "state": PENDING }).fields(doc! { "_id": 0, "due_ms": 1 });
        let earliest = query.sort(doc! { "due_ms": 1, "_id": 1 });
        let found = self.commands().find_one(DELIVERIES, earliest, Concern::Majority).await?;
        found.map(|found| Fields(&found).uint("due_ms")).transpose()
    }

    async fn forget_deliveries(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        let mut forgotten = 0;
        for state in [DELIVERED, GIVEN_UP] {
            let over = doc! { "state": state };
            forgotten +=
                forget::forget(self.commands(), DELIVERIES, over, before_ms, limit - forgotten).await?;
        }
        Ok(forgotten)
    }
}

impl MongoStore {
    /// Of the deliveries with these ids takes those that are due still; answers them in the order of the ids.
    async fn take(
        &self,
        due: &Document,
        ids: &[Bson],
        until_ms: u64,
        mark: &Bson,
    ) -> StoreResult<Vec<Delivery>> {
        let these = doc! { "$in": ids.to_vec() };
        let mut still = due.clone();
        still.insert("_id", these.clone());
        let change = doc! { "$set": { "due_ms": int(until_ms), "taken_by": mark.clone() } };
        self.commands().update(DELIVERIES, vec![Update::many(still, change)]).await?;
        let mine = Query::of(doc! { "_id": these, "taken_by": mark.clone() });
        let mut found = self.commands().find(DELIVERIES, mine, Concern::Majority).await?;
        found.sort_by_key(|found| ids.iter().position(|id| found.get("_id") == Some(id)));
        found.iter().map(from_document).collect()
    }
}

const fn name(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Pending => PENDING,
        DeliveryState::Delivered => DELIVERED,
        DeliveryState::GivenUp => GIVEN_UP,
    }
}

/// The update that adds a try and says what follows.
fn recorded(made: &Attempted) -> Update {
    let Attempted { id, attempt, state, due_ms } = made;
    let mut set = doc! { "state": name(*state), "due_ms": int(*due_ms) };
    if let Some(attempt) = attempt {
        // A literal: the words of an error may look like an expression.
        let attempt = doc! { "$literal": attempt_to_document(attempt) };
        let longer = doc! { "$concatArrays": ["$attempts", [attempt.clone()]] };
        // A caller that repeats the step after an unknown result made the same attempt once.
        let attempts = doc! { "$cond": [
            { "$eq": [{ "$last": "$attempts" }, attempt] },
            "$attempts",
            { "$slice": [longer, -MAX_ATTEMPTS] },
        ] };
        set.insert("attempts", attempts);
    }
    let change = vec![doc! { "$set": set }];
    // One that is over, or went with its batch, does not match.
    let pending = doc! { "_id": binary(*id.as_bytes()), "state": PENDING };
    Update { change: Bson::from(change), ..Update::one(pending, Document::new()) }
}

fn to_document(delivery: &Delivery) -> Document {
    let attempts: Vec<Document> = delivery.attempts.iter().map(attempt_to_document).collect();
    let mut document = doc! {
        "_id": binary(*delivery.id.as_bytes()),
        "tenant": delivery.tenant.as_str(),
        "event": binary(*delivery.event.as_bytes()),
        "kind": to_json(&delivery.kind),
        "url": &delivery.url,
        "sealed_secret": &delivery.sealed_secret,
        "body": binary(delivery.body.to_vec()),
        "state": name(delivery.state),
        "due_ms": int(delivery.due_ms),
        "created_ms": int(delivery.created_ms),
        "attempts": attempts,
    };
    if let Some(batch) = &delivery.batch {
        document.insert("batch", binary(*batch.as_bytes()));
    }
    if let Some(endpoint) = &delivery.endpoint {
        document.insert("endpoint", binary(*endpoint.as_bytes()));
    }
    document
}

fn from_document(document: &Document) -> StoreResult<Delivery> {
    let fields = Fields(document);
    let state = match fields.text("state")? {
        PENDING => DeliveryState::Pending,
        DELIVERED => DeliveryState::Delivered,
        GIVEN_UP => DeliveryState::GivenUp,
        _ => return Err(corrupt("the state of a delivery")),
    };
    let attempts = fields.documents("attempts")?;
    Ok(Delivery {
        id: DeliveryId::from_bytes(fields.id("_id")?),
        tenant: fields.tenant("tenant")?,
        batch: fields.maybe_id("batch")?.map(BatchId::from_bytes),
        event: EventId::from_bytes(fields.id("event")?),
        kind: from_json(fields.text("kind")?, "the kind of an event")?,
        url: fields.text("url")?.to_owned(),
        sealed_secret: fields.text("sealed_secret")?.to_owned(),
        endpoint: fields.maybe_id("endpoint")?.map(EndpointId::from_bytes),
        body: Bytes::copy_from_slice(fields.bytes("body")?),
        state,
        due_ms: fields.uint("due_ms")?,
        attempts: attempts.into_iter().map(attempt_from_document).collect::<StoreResult<_>>()?,
        created_ms: fields.uint("created_ms")?,
    })
}

/// The same attempt always gives the same document: one that is recorded again is known by it.
fn attempt_to_document(attempt: &DeliveryAttempt) -> Document {
    let mut document = doc! { "at_ms": int(attempt.at_ms), "duration_ms": i64::from(attempt.duration_ms) };
    if let Some(status) = attempt.status {
        document.insert("status", i32::from(status));
    }
    if let Some(error) = &attempt.error {
        document.insert("error", error);
    }
    if let Some(answer) = &attempt.answer {
        document.insert("answer", answer);
    }
    document
}

fn attempt_from_document(document: &Document) -> StoreResult<DeliveryAttempt> {
    let fields = Fields(document);
    let status = fields.maybe_uint("status")?.map(u16::try_from).transpose();
    Ok(DeliveryAttempt {
        at_ms: fields.uint("at_ms")?,
        duration_ms: fields.small("duration_ms")?,
        status: status.map_err(|_| corrupt("the status of an attempt"))?,
        error: fields.maybe_text("error")?.map(str::to_owned),
        answer: fields.maybe_text("answer")?.map(str::to_owned),
    })
}
