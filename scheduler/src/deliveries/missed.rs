//! That ticks of a schedule have no run is told to its webhook and to the tenant's endpoints.
//!
//! What is told stands in the schedule, or is about to stand in the tick, and the ids derive from it: whoever finds it there tells it again, and makes the same.

use promptmill_domain::schedule::{Begun, Decided, Missed, WhySkipped};
use promptmill_domain::{DeliveryId, EventId, EventKind, Schedule, Tick, TickState};
use promptmill_ports::{Delivery, StoreError, StoreResult};
use promptmill_runtime::Engine;
use sha2::{Digest as _, Sha256};

use super::body;
use super::book::Book;
use super::fan_out::{self, Told};
use crate::config::Webhooks;

/// Tells of ticks without a run.
pub(crate) struct Missing {
    engine: Engine,
    webhooks: Webhooks,
    book: Book,
}

/// Why ticks have no run, as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why<'a> {
    /// Nobody looked when they were due.
    Missed,
    /// An earlier run went on.
    Overlaps,
    /// The month's runs have spent what they may.
    Budget,
    /// Their batch could not be made, for this reason.
    Failed(&'a str),
}

impl Why<'_> {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Overlaps => "overlaps",
            Self::Budget => "budget",
            Self::Failed(_) => "failed",
        }
    }
}

impl Missing {
    pub(crate) fn new(engine: Engine, webhooks: Webhooks) -> Self {
        let book = Book::new(engine.records.clone());
        Self { engine, webhooks, book }
    }

    /// Tells what a look decided not to run, but for what a later tick takes the place of: the batch of that tells itself.
    pub(crate) async fn of_look(&self, schedule: &Schedule, begun: &Begun) -> StoreResult<()> {
        if let Some(missed) = &begun.missed {
            self.tell(schedule, missed, Why::Missed).await?;
        }
        let overlapping = begun.ticks.iter().filter(|(_, decided)| *decided == Decided::Overlaps);
        let times: Vec<u64> = overlapping.map(|(at_ms, _)| *at_ms).collect();
        if let (Some(first_ms), Some(last_ms)) = (times.first(), times.last()) {
            let count = times.len() as u64;
            let ticks = Missed { first_ms: *first_ms, last_ms: *last_ms, count, is_exact: true };
            self.tell(schedule, &ticks, Why::Overlaps).await?;
        }
        Ok(())
    }

    /// Tells that the batch of a tick is not made, where that is what it comes to.
    pub(crate) async fn of_tick(&self, tick: &Tick, state: &TickState) -> StoreResult<()> {
        let why = match state {
            TickState::Failed { why } => Why::Failed(why),
            TickState::Skipped { why: WhySkipped::Budget } => Why::Budget,
            _ => return Ok(()),
        };
        let schedule = match self.engine.records.schedule(&tick.tenant, tick.schedule).await {
            // Nobody waits for one that was deleted.
            Err(StoreError::NotFound) => return Ok(()),
            found => found?,
        };
        let at_ms = tick.at_ms;
        let ticks = Missed { first_ms: at_ms, last_ms: at_ms, count: 1, is_exact: true };
        self.tell(&schedule, &ticks, why).await
    }

    async fn tell(&self, schedule: &Schedule, ticks: &Missed, why: Why<'_>) -> StoreResult<()> {
        let now_ms = self.engine.clock.now_ms();
        let endpoints = fan_out::endpoints_of(&self.book, &schedule.tenant).await?;
        let event = event_id(schedule, ticks, why);
        let body = body::of_missed(schedule, ticks, why, now_ms);
        let told = Told {
            tenant: &schedule.tenant,
            batch: None,
            event,
            kind: EventKind::ScheduleMissed,
            at_ms: now_ms,
            due_ms: fan_out::first_due(&self.webhooks.schedule, now_ms),
            now_ms,
        };
        let to_webhook = schedule.run.spec.webhook.iter().map(|webhook| Delivery {
            // What its secret is sealed for stands where that of a batch does.
            batch: Some(Schedule::sealed_for(schedule.id)),
            url: webhook.url.clone(),
            sealed_secret: webhook.sealed_secret.clone(),
            ..told.delivery(DeliveryId::to_batch_webhook(event), None, body.clone())
        });
        let deliveries: Vec<_> = to_webhook.chain(told.to(&*endpoints, |_| body.clone())).collect();
        if deliveries.is_empty() {
            return Ok(());
        }
        self.engine.records.add_deliveries(&deliveries).await
    }
}

/// The same for whoever tells of the same ticks.
fn event_id(schedule: &Schedule, ticks: &Missed, why: Why<'_>) -> EventId {
    let (id, why) = (schedule.id, why.as_str());
    EventId::of_digest(Sha256::digest(format!("schedule.missed|{id}|{why}|{}", ticks.last_ms)).into())
}
