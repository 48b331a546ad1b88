//! What is told of a batch on its way: that it began, and how far it is.
//!
//! No change of a batch stands for these. They are seen while it runs, about once a second, and what was not seen by then is told with its end; ids derive from
//! what is told, so whoever tells it again after a restart makes nothing twice.

use std::collections::HashMap;
use std::sync::Arc;

use promptmill_domain::{
    Batch, BatchId, BatchState, Counts, Endpoint, Event, EventKind, LaneId, Milestone, TenantId,
};
use promptmill_ports::{StoreError, StoreResult};
use promptmill_runtime::Engine;

use super::book::Book;
use super::fan_out;
use crate::config::Webhooks;

/// A batch whose items are worked on, or will be when it is resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    pub(super) tenant: TenantId,
    pub(super) batch: BatchId,
    /// It does not stand still.
    is_running: bool,
    /// What its items call.
    pub(super) lanes: Vec<LaneId>,
    progress_at: Vec<u8>,
}

impl Open {
    /// Those of the batches that are, in their order.
    pub(crate) fn among(batches: &[Batch]) -> Vec<Self> {
        let is_open = |batch: &&Batch| matches!(batch.state, BatchState::Running | BatchState::Paused { .. });
        let of = |batch: &Batch| Self {
            tenant: batch.tenant.clone(),
            batch: batch.id,
            is_running: batch.state == BatchState::Running,
            lanes: batch.spec.lanes().cloned().collect(),
            progress_at: batch.spec.progress_at.clone(),
        };
        batches.iter().filter(is_open).map(of).collect()
    }
}

/// What was told of batches that run.
#[derive(Debug, Default)]
pub(super) struct Milestones {
    told: HashMap<BatchId, Told>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Told {
    started: bool,
    /// Marks up to this one, in per cent.
    percent: u8,
}

impl Milestones {
    /// Makes deliveries of what these batches came to since the last look; answers whether there were any.
    pub(super) async fn look(
        &mut self,
        engine: &Engine,
        book: &Book,
        webhooks: &Webhooks,
        open: &[Open],
    ) -> StoreResult<bool> {
        let mut before = std::mem::take(&mut self.told);
        self.told = open.iter().map(|of| (of.batch, before.remove(&of.batch).unwrap_or_default())).collect();
        let mut tenants: HashMap<&TenantId, Arc<[Endpoint]>> = HashMap::new();
        let mut any = false;
        for of in open.iter().filter(|of| of.is_running) {
            let endpoints = match tenants.get(&of.tenant) {
                Some(endpoints) => endpoints.clone(),
                None => {
                    let endpoints = fan_out::endpoints_of(book, &of.tenant).await?;
                    tenants.insert(&of.tenant, endpoints.clone());
                    endpoints
                }
            };
            let told = self.told.entry(of.batch).or_default();
            match look_at(engine, &endpoints, webhooks, of, *told).await {
                Ok(now) => {
                    any |= now != *told;
                    *told = now;
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // It was deleted meanwhile.
                Err(StoreError::NotFound) => {}
                // The others must not wait for one that is damaged.
                Err(error) => {
                    tracing::error!(batch.id = %of.batch, error = %error, "how far a batch is could not be told");
                }
            }
        }
        Ok(any)
    }
}

/// Makes deliveries of what a batch came to beyond what was told; answers what is told then.
async fn look_at(
    engine: &Engine,
    endpoints: &[Endpoint],
    webhooks: &Webhooks,
    of: &Open,
    told: Told,
) -> StoreResult<Told> {
    let mut now = told;
    let mut reached = Vec::new();
    if !told.started && wants_start(endpoints) {
        reached.push(Milestone::Started);
        now.started = true;
    }
    let mut counts = None;
    if let Some(next) = of.progress_at.iter().find(|mark| **mark > told.percent) {
        let progress = engine.store.progress(&of.tenant, of.batch).await?;
        let percent = percent(&progress.counts);
        if percent >= *next {
            let marks = of.progress_at.iter().filter(|mark| (told.percent + 1..=percent).contains(*mark));
            reached.extend(marks.map(|mark| Milestone::Progress(*mark)));
            now.percent = percent;
        }
        counts = Some(progress.counts);
    }
    if reached.is_empty() {
        return Ok(now);
    }
    let batches = engine.store.batches_told_of(&[of.batch]).await?;
    let batch = batches.first().ok_or(StoreError::NotFound)?;
    let at_ms = engine.clock.now_ms();
    let mut deliveries = Vec::new();
    for milestone in reached {
        let event = Event { counts: counts.clone(), ..event(milestone, batch, at_ms) };
        deliveries.extend(fan_out::deliveries(engine, &event, batch, endpoints, webhooks).await?);
    }
    engine.records.add_deliveries(&deliveries).await?;
    Ok(now)
}

/// What lies behind a batch whose end an event tells, all of it, for those who want to know.
pub(super) fn passed(end: &Event, batch: &Batch, endpoints: &[Endpoint]) -> Vec<Event> {
    let Some(counts) = &end.counts else { return vec![] };
    let has_started = counts.all_succeeded() + counts.all_failed() > 0;
    let started = (has_started && wants_start(endpoints)).then_some(Milestone::Started);
    // One that was cut short did not come so far.
    let is_through = matches!(end.kind, EventKind::BatchCompleted | EventKind::BatchFailed);
    let marks = batch.spec.progress_at.iter().filter(|_| is_through).map(|mark| Milestone::Progress(*mark));
    let of = |milestone| Event {
        counts: Some(counts.clone()),
        ver: end.ver,
        state: end.state.clone(),
        ..event(milestone, batch, end.at_ms)
    };
    started.into_iter().chain(marks).map(of).collect()
}

fn wants_start(endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|endpoint| endpoint.kinds.contains(&EventKind::BatchStarted))
}

fn event(milestone: Milestone, batch: &Batch, at_ms: u64) -> Event {
    Event {
        id: milestone.event_id(batch.id),
        tenant: batch.tenant.clone(),
        batch: batch.id,
        kind: milestone.kind(),
        at_ms,
        ver: batch.ver,
        state: batch.state.clone(),
        counts: None,
        percent: match milestone {
            Milestone::Started => None,
            Milestone::Progress(percent) => Some(percent),
        },
    }
}

/// The part of the items that have an outcome, in whole per cent.
fn percent(counts: &Counts) -> u8 {
    let all = (counts.settled() + counts.open()).max(1);
    u8::try_from(counts.settled() * 100 / all).unwrap_or(100)
}
