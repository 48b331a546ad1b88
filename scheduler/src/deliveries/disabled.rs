//! That an endpoint was switched off is told to the tenant's others, and by mail to whom it names, once a day at most.
//!
//! The change itself stands in the endpoint, and the ids derive from it. Whoever switches one off tells it; a process that died between the two is made up for
//! by the next one that leads, which looks at all endpoints once.

use promptmill_domain::{DeliveryId, Endpoint, EndpointState, EventId, EventKind, WhyDisabled};
use promptmill_ports::{Delivery, StoreError, StoreResult};
use promptmill_runtime::Engine;
use sha2::{Digest as _, Sha256};

use super::book::Book;
use super::fan_out::Told;
use super::mail::{self, MAILTO};
use super::{body, fan_out};
use crate::config::Webhooks;

/// What was switched off longer ago was told: as long as a process may need to be replaced, and more.
const LATELY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Makes the deliveries that tell of an endpoint which was switched off, and not by request; answers how many.
pub(super) async fn tell(
    engine: &Engine,
    book: &Book,
    webhooks: &Webhooks,
    off: &Endpoint,
) -> StoreResult<usize> {
    let EndpointState::Disabled { why: why @ (WhyDisabled::Gone | WhyDisabled::Failing), at_ms } = off.state
    else {
        return Ok(0);
    };
    let event = EventId::of_endpoint(off.id, at_ms);
    let kind = EventKind::EndpointDisabled;
    let body = body::of_disabled(off, why, at_ms);
    let now_ms = engine.clock.now_ms();
    let endpoints = book.endpoints(&off.tenant).await?;
    let others = endpoints.iter().filter(|other| other.id != off.id);
    let due_ms = fan_out::first_due(&webhooks.schedule, now_ms);
    let told = Told { tenant: &off.tenant, batch: None, event, kind, at_ms, due_ms, now_ms };
    let mail = off.email.as_ref().filter(|_| webhooks.mailer.is_some()).map(|address| Delivery {
        url: format!("{MAILTO}{address}"),
        ..told.delivery(mail_id(off, address, at_ms), Some(off.id), mail::of_disabled(off, why).into())
    });
    let deliveries: Vec<_> = told.to(others, |_| body.clone()).chain(mail).collect();
    engine.records.add_deliveries(&deliveries).await?;
    Ok(deliveries.len())
}

/// Tells it of every endpoint that was switched off lately, where it was not told. Answers whether anything was.
pub(super) async fn tell_all(engine: &Engine, book: &Book, webhooks: &Webhooks) -> StoreResult<bool> {
    let since_ms = engine.clock.now_ms().saturating_sub(LATELY_MS);
    let mut any = false;
    let tenants = match engine.records.tenants().await {
        Err(error) if !matches!(error, StoreError::Unavailable(_)) => {
            tracing::error!(error = %error, "the tenants cannot be read; what was untold of endpoints that are switched off stays so");
            return Ok(false);
        }
        tenants => tenants?,
    };
    for tenant in tenants {
        for endpoint in fan_out::endpoints_of(book, &tenant.id).await?.iter() {
            let lately = matches!(endpoint.state, EndpointState::Disabled { at_ms, .. } if at_ms >= since_ms);
            if !lately {
                continue;
            }
            match tell(engine, book, webhooks, endpoint).await {
                Err(error) if !matches!(error, StoreError::Unavailable(_)) => {
                    tracing::error!(endpoint.id = %endpoint.id, error = %error, "that an endpoint is switched off could not be told");
                }
                told => any |= told? > 0,
            }
        }
    }
    Ok(any)
}

/// The same for all mails of a tenant to an address on one day (UTC): there is one of them, however often endpoints are switched off.
fn mail_id(off: &Endpoint, address: &str, at_ms: u64) -> DeliveryId {
    let (tenant, day) = (&off.tenant, at_ms / (24 * 60 * 60 * 1_000));
    let digest: [u8; 32] = Sha256::digest(format!("endpoint.disabled|{tenant}|{day}|{address}")).into();
    DeliveryId::of_digest(digest)
}
