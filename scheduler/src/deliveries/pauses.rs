//! That a lane stands still, told to the tenants whose batches call it.
//!
//! What is kept of a lane tells it. A lane that its provider slows down again and again is told once: a pause that follows another within a minute belongs to it.

use std::collections::{HashMap, HashSet};

use promptmill_domain::{BatchId, EventId, EventKind, LaneId, TenantId};
use promptmill_egress::retry::Schedule;
use promptmill_ports::StoreResult;
use promptmill_runtime::Engine;
use sha2::{Digest as _, Sha256};

use super::body;
use super::book::Book;
use super::fan_out::{self, Told};
use super::milestones::Open;

/// A pause is told of which so much is left when it is kept, which may take two seconds: one of ten is.
const LONG_MS: u64 = 8_000;

/// How long a lane goes on until its next pause is another one: a minute.
const APART_MS: u64 = 60_000;

/// Batches that are named.
const NAMED: usize = 100;

/// What was told of lanes that stand still.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    lanes: HashMap<LaneId, Pause>,
}

#[derive(Debug)]
struct Pause {
    until_ms: u64,
    told: HashSet<TenantId>,
}

impl Pauses {
    /// Makes deliveries that tell of lanes which stand still by now, to whoever has batches there and was not told; answers whether there were any.
    pub(super) async fn look(
        &mut self,
        engine: &Engine,
        book: &Book,
        schedule: &Schedule,
        open: &[Open],
    ) -> StoreResult<bool> {
        let now_ms = engine.clock.now_ms();
        self.lanes.retain(|_, pause| pause.until_ms.saturating_add(APART_MS) > now_ms);
        if open.is_empty() {
            return Ok(false);
        }
        let mut any = false;
        for record in engine.store.lanes().await? {
            let until_ms = record.paused_until_ms;
            if until_ms <= now_ms {
                continue;
            }
            if let Some(pause) = self.lanes.get_mut(&record.lane) {
                pause.until_ms = until_ms;
            }
            if until_ms < record.at_ms.saturating_add(LONG_MS) {
                continue;
            }
            let pause = self
                .lanes
                .entry(record.lane.clone())
                .or_insert_with(|| Pause { until_ms, told: HashSet::new() });
            for (tenant, batches) in waiting(&record.lane, open) {
                if pause.told.contains(tenant) {
                    continue;
                }
                let endpoints = fan_out::endpoints_of(book, tenant).await?;
                let told = Told {
                    tenant,
                    batch: None,
                    event: event_id(tenant, &record.lane, until_ms),
                    kind: EventKind::LanePaused,
                    at_ms: now_ms,
                    due_ms: fan_out::first_due(schedule, now_ms),
                    now_ms,
                };
                let body = body::of_paused_lane(&record.lane, until_ms, &batches, now_ms);
                let deliveries: Vec<_> = told.to(&*endpoints, |_| body.clone()).collect();
                engine.records.add_deliveries(&deliveries).await?;
                any |= !deliveries.is_empty();
                pause.told.insert(tenant.clone());
            }
        }
        Ok(any)
    }
}

/// The tenants whose batches call a lane, each with the newest of them.
fn waiting<'a>(lane: &LaneId, open: &'a [Open]) -> HashMap<&'a TenantId, Vec<BatchId>> {
    let mut tenants: HashMap<_, Vec<_>> = HashMap::new();
    for of in open.iter().rev().filter(|of| of.lanes.contains(lane)) {
        let batches = tenants.entry(&of.tenant).or_default();
        if batches.len() < NAMED {
            batches.push(of.batch);
        }
    }
    tenants
}

/// The same for whoever sees the same pause.
fn event_id(tenant: &TenantId, lane: &LaneId, until_ms: u64) -> EventId {
    let what = format!("lane.paused|{tenant}|{lane}|{until_ms}");
    EventId::of_digest(Sha256::digest(what).into())
}
