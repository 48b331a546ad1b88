//! Events become deliveries.
//!
//! The delivery's id derives from the event, so a crash between the two steps makes nothing twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use promptmill_domain::{Batch, BatchId, DeliveryId, Endpoint, Event, TenantId};
use promptmill_egress::retry::Schedule;
use promptmill_ports::{Delivery, DeliveryState, StoreError, StoreResult};
use promptmill_runtime::Engine;
use tokio::sync::Notify;

use super::book::Book;
use super::{body, milestones};

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
    schedule: &Schedule,
    made: &Notify,
) -> StoreResult<()> {
    loop {
        let events = engine.store.pending(STEP).await?;
        if events.is_empty() {
            return Ok(());
        }
        let mut deliveries = Vec::with_capacity(events.len());
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
                    match self::deliveries(engine, event, batch, &endpoints, schedule).await {
                        Ok(made) => deliveries.extend(made),
                        Err(error @ StoreError::Unavailable(_)) => return Err(error),
                        // It would stand before all others for ever.
                        Err(error) => {
                            tracing::error!(batch.id = %event.batch, event.id = %event.id, error = %error, "an event cannot be delivered and is dropped");
                        }
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
        let ids: Vec<_> = events.iter().map(|event| event.id).collect();
        engine.store.handed_on(&ids).await?;
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
    schedule: &Schedule,
) -> StoreResult<Vec<Delivery>> {
    let endpoints: Vec<_> =
        endpoints.iter().filter(|endpoint| endpoint.wants(event.kind, event.at_ms)).collect();
    let webhook = batch.spec.webhook.as_ref().filter(|_| !event.kind.is_opt_in());
    if webhook.is_none() && endpoints.is_empty() {
        return Ok(vec![]);
    }
    let body = match &event.counts {
        Some(counts) => body::of(event, batch, counts, event.at_ms),
        // Counted now, since nobody counted when it happened.
        None => match engine.store.progress(&event.tenant, event.batch).await {
            Ok(progress) => body::of(event, batch, &progress.counts, engine.clock.now_ms()),
            // It was deleted meanwhile.
            Err(StoreError::NotFound) => return Ok(vec![]),
            Err(error) => return Err(error),
        },
    };
    let now_ms = engine.clock.now_ms();
    let delivery = |id, url: &str, sealed_secret: &str, endpoint| Delivery {
        id,
        tenant: event.tenant.clone(),
        batch: Some(event.batch),
        event: event.id,
        kind: event.kind,
        url: url.to_owned(),
        sealed_secret: sealed_secret.to_owned(),
        endpoint,
        body: body.clone(),
        state: DeliveryState::Pending,
        due_ms: first_due(schedule, now_ms),
        attempts: vec![],
        created_ms: now_ms,
    };
    let to_webhook = webhook.iter().map(|webhook| {
        delivery(DeliveryId::to_batch_webhook(event.id), &webhook.url, &webhook.sealed_secret, None)
    });
    let to_endpoints = endpoints.iter().map(|endpoint| {
        delivery(DeliveryId::to_endpoint(event.id, endpoint.id), &endpoint.url, "", Some(endpoint.id))
    });
    Ok(to_webhook.chain(to_endpoints).collect())
}

/// When a delivery made now is tried first.
pub(super) fn first_due(schedule: &Schedule, now_ms: u64) -> u64 {
    let wait = schedule.next(0, 0.0, None).unwrap_or_default();
    now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}
