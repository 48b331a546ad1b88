//! Events become deliveries.
//!
//! The delivery's id derives from the event, so a crash between the two steps makes nothing twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use promptmill_domain::{
    Batch, BatchId, DeliveryId, Endpoint, EndpointId, Event, EventId, EventKind, TenantId,
};
use promptmill_egress::retry::Schedule;
use promptmill_ports::{Delivery, DeliveryState, StoreError, StoreResult};
use promptmill_runtime::Engine;
use tokio::sync::Notify;

use super::book::Book;
use super::ends::Ends;
use super::{body, failures, milestones, outcomes};
use crate::config::Webhooks;

/// Events handed on in one step.
const STEP: u32 = 100;

/// Batches that are read in one step: each brings all of its spec.
const BATCHES: usize = 32;

/// Deliveries that are kept in one step, about.
const AT_ONCE: usize = 256;

/// Hands on every event that is there; `made` hears of deliveries as they are kept.
pub(super) async fn run_once(
    engine: &Engine,
    book: &Book,
    webhooks: &Webhooks,
    made: &Notify,
    ends: &Ends,
) -> StoreResult<()> {
    loop {
        // Those that are held stand before the others.
        let held = ends.ids();
        let most = STEP.saturating_add(u32::try_from(held.len()).unwrap_or(u32::MAX));
        let mut events = engine.store.pending(most).await?;
        // One that is let go of meanwhile is not held anew.
        events.retain(|event| !held.contains(&event.id));
        if events.is_empty() {
            return Ok(());
        }
        let mut deliveries = Vec::with_capacity(events.len());
        let mut to_hold = Vec::new();
        for events in events.chunks(BATCHES) {
            let ids: Vec<_> =
                events.iter().map(|event| event.batch).collect::<HashSet<_>>().into_iter().collect();
            let batches = batches_of(engine, &ids).await?;
            let batches: HashMap<_, _> = batches.iter().map(|batch| (batch.id, batch)).collect();
            for event in events {
                // The event of a batch that was deleted, or that nobody can read, goes with it.
                let Some(batch) = batches.get(&event.batch) else { continue };
                let endpoints = endpoints_of(book, &event.tenant).await?;
                // What lies behind a batch when it ends and was not seen before is told with its end.
                let passed = milestones::passed(event, batch, &endpoints);
                for event in passed.iter().chain([event]) {
                    let made = self::deliveries(engine, event, batch, &endpoints, webhooks).await;
                    deliveries.extend(unless_damaged(event, made)?);
                }
                if failures::are_to_be_told(event, &endpoints) {
                    if failures::are_few(batch) {
                        let made = failures::of(engine, &endpoints, &webhooks.schedule, batch).await;
                        deliveries.extend(unless_damaged(event, made)?);
                    } else {
                        to_hold.push(event.clone());
                    }
                }
                if deliveries.len() >= AT_ONCE {
                    engine.records.add_deliveries(&deliveries).await?;
                    made.notify_one();
                    deliveries.clear();
                }
            }
        }
        if !deliveries.is_empty() {
            engine.records.add_deliveries(&deliveries).await?;
            made.notify_one();
        }
        let is_over = |event: &&Event| to_hold.iter().all(|held| held.id != event.id);
        let ids: Vec<_> = events.iter().filter(is_over).map(|event| event.id).collect();
        ends.hold(to_hold);
        engine.store.handed_on(&ids).await?;
    }
}

/// The deliveries of an event. What cannot be made of it is dropped: it would stand before all others for ever.
fn unless_damaged(event: &Event, made: StoreResult<Vec<Delivery>>) -> StoreResult<Vec<Delivery>> {
    match made {
        Err(error) if !matches!(error, StoreError::Unavailable(_)) => {
            tracing::error!(batch.id = %event.batch, event.id = %event.id, error = %error, "an event cannot be delivered and is dropped");
            Ok(vec![])
        }
        made => made,
    }
}

/// The batches that are there. One that is damaged is left out, and told in the log: its events would stand before all others for ever.
async fn batches_of(engine: &Engine, ids: &[BatchId]) -> StoreResult<Vec<Batch>> {
    match engine.store.batches_told_of(ids).await {
        Err(error) if !matches!(error, StoreError::Unavailable(_)) => {}
        result => return result,
    }
    let mut batches = Vec::with_capacity(ids.len());
    for id in ids {
        match engine.store.batches_told_of(&[*id]).await {
            Ok(found) => batches.extend(found),
            Err(error @ StoreError::Unavailable(_)) => return Err(error),
            Err(error) => {
                tracing::error!(batch.id = %id, error = %error, "the batch of an event cannot be read; nobody is told");
            }
        }
    }
    Ok(batches)
}

/// The endpoints of a tenant. Where they cannot be read, its events go to the webhooks of their batches alone: nobody else's must wait for it.
pub(super) async fn endpoints_of(book: &Book, tenant: &TenantId) -> StoreResult<Arc<[Endpoint]>> {
    match book.endpoints(tenant).await {
        Err(error) if !matches!(error, StoreError::Unavailable(_)) => {
            tracing::error!(tenant = %tenant, error = %error, "the endpoints of a tenant cannot be read; they are told nothing");
            Ok(Arc::new([]))
        }
        result => result,
    }
}

/// The deliveries of an event: to the webhook of its batch, and to those endpoints that want it.
pub(super) async fn deliveries(
    engine: &Engine,
    event: &Event,
    batch: &Batch,
    endpoints: &[Endpoint],
    webhooks: &Webhooks,
) -> StoreResult<Vec<Delivery>> {
    let is_wanted = endpoints.iter().any(|endpoint| endpoint.wants(event.kind, event.at_ms));
    let webhook = batch.spec.webhook.as_ref().filter(|_| !event.kind.is_opt_in());
    if webhook.is_none() && !is_wanted {
        return Ok(vec![]);
    }
    let now_ms = engine.clock.now_ms();
    // Counted now, where nobody counted when it happened.
    let (counts, as_of_ms) = match &event.counts {
        Some(counts) => (counts.clone(), event.at_ms),
        None => match engine.store.progress(&event.tenant, event.batch).await {
            Ok(progress) => (progress.counts, now_ms),
            // It was deleted meanwhile.
            Err(StoreError::NotFound) => return Ok(vec![]),
            Err(error) => return Err(error),
        },
    };
    let link = webhooks.results_link(batch, now_ms);
    let body = body::of(event, batch, &counts, as_of_ms, link.as_deref(), None);
    let wants = |endpoint: &&Endpoint| endpoint.wants(event.kind, event.at_ms);
    let asks = webhook.is_some_and(|webhook| webhook.results)
        || endpoints.iter().filter(wants).any(|endpoint| endpoint.results);
    let with_results = match asks && event.kind.is_end() {
        true => {
            let results = match outcomes::small(engine, batch).await {
                Err(error) if !matches!(error, StoreError::Unavailable(_)) => {
                    tracing::error!(batch.id = %batch.id, error = %error, "the results of a batch cannot be read; its end is told without them");
                    None
                }
                results => results?,
            };
            body::of(event, batch, &counts, as_of_ms, link.as_deref(), Some(results))
        }
        false => body.clone(),
    };
    let body_for = |results: bool| if results { with_results.clone() } else { body.clone() };
    let told = Told {
        tenant: &event.tenant,
        batch: Some(event.batch),
        event: event.id,
        kind: event.kind,
        at_ms: event.at_ms,
        due_ms: first_due(&webhooks.schedule, now_ms),
        now_ms,
    };
    let to_webhook = webhook.iter().map(|webhook| Delivery {
        url: webhook.url.clone(),
        sealed_secret: webhook.sealed_secret.clone(),
        ..told.delivery(DeliveryId::to_batch_webhook(event.id), None, body_for(webhook.results))
    });
    Ok(to_webhook.chain(told.to(endpoints, |endpoint| body_for(endpoint.results))).collect())
}

/// What is told, whoever hears of it.
pub(super) struct Told<'a> {
    pub(super) tenant: &'a TenantId,
    /// `None` where it tells of none.
    pub(super) batch: Option<BatchId>,
    pub(super) event: EventId,
    pub(super) kind: EventKind,
    /// When it happened.
    pub(super) at_ms: u64,
    /// When it is tried first.
    pub(super) due_ms: u64,
    pub(super) now_ms: u64,
}

impl Told<'_> {
    /// Its deliveries to those of the endpoints that want it.
    pub(super) fn to<'a>(
        &'a self,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
        body: impl Fn(&Endpoint) -> Bytes,
    ) -> impl Iterator<Item = Delivery> {
        let wanting = endpoints.into_iter().filter(|endpoint| endpoint.wants(self.kind, self.at_ms));
        wanting.map(move |endpoint| Delivery {
            url: endpoint.url.clone(),
            ..self.delivery(
                DeliveryId::to_endpoint(self.event, endpoint.id),
                Some(endpoint.id),
                body(endpoint),
            )
        })
    }

    /// One of its deliveries, to be told where it goes.
    pub(super) fn delivery(&self, id: DeliveryId, endpoint: Option<EndpointId>, body: Bytes) -> Delivery {
        Delivery {
            id,
            tenant: self.tenant.clone(),
            batch: self.batch,
            event: self.event,
            kind: self.kind,
            url: String::new(),
            sealed_secret: String::new(),
            endpoint,
            body,
            state: DeliveryState::Pending,
            due_ms: self.due_ms,
            attempts: vec![],
            created_ms: self.now_ms,
        }
    }
}

/// When a delivery made now is tried first.
pub(super) fn first_due(schedule: &Schedule, now_ms: u64) -> u64 {
    let wait = schedule.next(0, 0.0, None).unwrap_or_default();
    now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}
