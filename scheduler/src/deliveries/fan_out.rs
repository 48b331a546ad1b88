//! Events become deliveries.
//!
//! The delivery's id derives from the event, so a crash between the two steps makes nothing twice.

use promptmill_domain::{DeliveryId, Event};
use promptmill_egress::retry::Schedule;
use promptmill_ports::{Delivery, DeliveryState, StoreError, StoreResult};
use promptmill_runtime::Engine;

use super::body;

/// Events handed on in one step.
const STEP: u32 = 100;

/// Hands on every event that is there.
pub(super) async fn run_once(engine: &Engine, schedule: &Schedule) -> StoreResult<()> {
    loop {
        let events = engine.store.pending(STEP).await?;
        if events.is_empty() {
            return Ok(());
        }
        let mut deliveries = Vec::with_capacity(events.len());
        for event in &events {
            match delivery(engine, event, schedule).await {
                Ok(delivery) => deliveries.extend(delivery),
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // It would stand before all others for ever.
                Err(error) => {
                    tracing::error!(batch.id = %event.batch, event.id = %event.id, error = %error, "an event cannot be delivered and is dropped");
                }
            }
        }
        engine.records.add_deliveries(&deliveries).await?;
        let ids: Vec<_> = events.iter().map(|event| event.id).collect();
        engine.store.handed_on(&ids).await?;
    }
}

/// The delivery of an event to the webhook of its batch; `None` where there is none, or the batch was deleted.
async fn delivery(engine: &Engine, event: &Event, schedule: &Schedule) -> StoreResult<Option<Delivery>> {
    let found = async {
        let batch = engine.store.batch(&event.tenant, event.batch).await?;
        let Some(webhook) = batch.spec.webhook.clone() else { return Ok(None) };
        let body = match &event.counts {
            Some(counts) => body::of(event, &batch, counts, event.at_ms),
            None => {
                // Counted now, since nobody counted when it happened.
                let progress = engine.store.progress(&event.tenant, event.batch).await?;
                body::of(event, &batch, &progress.counts, engine.clock.now_ms())
            }
        };
        Ok(Some((webhook, body)))
    };
    let (webhook, body) = match found.await {
        Ok(Some(found)) => found,
        Ok(None) | Err(StoreError::NotFound) => return Ok(None),
        Err(error) => return Err(error),
    };
    let now_ms = engine.clock.now_ms();
    let wait = schedule.next(0, 0.0, None).unwrap_or_default();
    Ok(Some(Delivery {
        id: DeliveryId::to_batch_webhook(event.id),
        tenant: event.tenant.clone(),
        batch: event.batch,
        event: event.id,
        kind: event.kind,
        url: webhook.url,
        sealed_secret: webhook.sealed_secret,
        body,
        state: DeliveryState::Pending,
        due_ms: now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        attempts: vec![],
        created_ms: now_ms,
    }))
}
