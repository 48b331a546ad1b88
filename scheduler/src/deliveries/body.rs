//! The body of a webhook: the event's type and time, and enough of the batch to go on without asking for it.
//!
//! Items are counted under the same names as in the API's view of a batch.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use promptmill_domain::schedule::Missed;
use promptmill_domain::{
    Batch, BatchId, BatchSpec, BatchState, Counts, Endpoint, Event, EventKind, FailureKind, LaneId, Money,
    PauseReason, Schedule, WhyDisabled,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::failures::Failed;
use super::missed::Why;

#[derive(Serialize)]
struct Body<D> {
    r#type: &'static str,
    timestamp: String,
    data: D,
}

impl<D: Serialize> Body<D> {
    fn of(kind: EventKind, at_ms: u64, data: D) -> Bytes {
        let body = Self { r#type: kind.as_str(), timestamp: time(at_ms), data };
        serde_json::to_vec(&body).expect("numbers, texts and maps by text are written into memory").into()
    }
}

#[derive(Serialize)]
struct Data<'a> {
    batch_id: String,
    name: Option<&'a str>,
    state: &'static str,
    /// Of progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u8>,
    /// Larger for later events of the batch, which may arrive in another order.
    revision: u64,
    rows: u32,
    counts: CountsView,
    cost: Money,
    metadata: Option<&'a RawValue>,
    /// The tick that it is a run of.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<TickView>,
    /// Where its results are read for a while without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    results_url: Option<&'a str>,
    /// Of an end, for who asked: its results, or null where they are not small.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Option<Vec<Box<RawValue>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<PauseView<'a>>,
}

#[derive(Serialize)]
struct TickView {
    id: String,
    at: String,
}

#[derive(Serialize)]
struct CountsView {
    as_of: String,
    waiting: u64,
    leased: u64,
    parked: u64,
    succeeded: u64,
    repaired: u64,
    failed: u64,
    failed_by_reason: BTreeMap<&'static str, u64>,
    cancelled: u64,
    expired: u64,
    open: u64,
    settled: u64,
}

#[derive(Serialize)]
struct PauseView<'a> {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<FailureKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// The exact bytes that are sent for an event. `counts` are those of `as_of_ms`; `link` is where results are read, and `results` are those for who asked for them,
/// where they are small.
pub(super) fn of(
    event: &Event,
    batch: &Batch,
    counts: &Counts,
    as_of_ms: u64,
    link: Option<&str>,
    results: Option<Option<Vec<Box<RawValue>>>>,
) -> Bytes {
    let data = Data {
        batch_id: event.batch.to_string(),
        name: batch.spec.name.as_deref(),
        state: event.state.as_str(),
        percent: event.percent,
        revision: event.ver,
        rows: batch.total,
        counts: counts_view(counts, as_of_ms),
        cost: counts.totals.cost,
        metadata: metadata(&batch.spec),
        schedule: batch
            .spec
            .tick
            .map(|tick| TickView { id: tick.schedule.to_string(), at: time(tick.at_ms) }),
        results_url: link,
        results,
        pause: pause_view(&event.state),
    };
    Body::of(event.kind, event.at_ms, data)
}

#[derive(Serialize)]
struct Failures<'a> {
    batch_id: String,
    name: Option<&'a str>,
    /// Failures of the batch that other events tell, because they settled before.
    before: u32,
    items: Vec<FailedView<'a>>,
    metadata: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct FailedView<'a> {
    index: u32,
    custom_id: Option<&'a str>,
    reason: FailureKind,
}

impl<'a> FailedView<'a> {
    fn of(item: &'a Failed) -> Self {
        Self { index: item.index, custom_id: item.custom_id.as_deref(), reason: item.kind }
    }
}

/// The bytes that tell of items of a batch that failed after `before` others, the last of them then.
pub(super) fn of_failures(batch: &Batch, before: u32, items: &[Failed], at_ms: u64) -> Bytes {
    let data = Failures {
        batch_id: batch.id.to_string(),
        name: batch.spec.name.as_deref(),
        before,
        items: items.iter().map(FailedView::of).collect(),
        metadata: metadata(&batch.spec),
    };
    Body::of(EventKind::ItemFailed, at_ms, data)
}

#[derive(Serialize)]
struct PausedLane<'a> {
    lane: &'a str,
    until: String,
    /// The newest of the tenant's batches that call it and have no end yet.
    batches: Vec<String>,
}

/// The bytes that tell of a lane which stands still until then.
pub(super) fn of_paused_lane(lane: &LaneId, until_ms: u64, batches: &[BatchId], at_ms: u64) -> Bytes {
    let batches = batches.iter().map(BatchId::to_string).collect();
    let data = PausedLane { lane: lane.as_str(), until: time(until_ms), batches };
    Body::of(EventKind::LanePaused, at_ms, data)
}

#[derive(Serialize)]
struct Disabled<'a> {
    endpoint_id: String,
    url: &'a str,
    description: Option<&'a str>,
    because: WhyDisabled,
    failing_since: Option<String>,
}

/// The bytes that tell of an endpoint which was switched off then.
pub(super) fn of_disabled(endpoint: &Endpoint, why: WhyDisabled, at_ms: u64) -> Bytes {
    let data = Disabled {
        endpoint_id: endpoint.id.to_string(),
        url: &endpoint.url,
        description: endpoint.description.as_deref(),
        because: why,
        failing_since: endpoint.failing.map(|failing| time(failing.since_ms)),
    };
    Body::of(EventKind::EndpointDisabled, at_ms, data)
}

/// The submitter's own JSON.
#[derive(Serialize)]
struct MissedTicks<'a> {
    schedule_id: String,
    name: Option<&'a str>,
    reason: &'static str,
    error: Option<&'a str>,
    ticks: u64,
    more: bool,
    first_at: String,
    last_at: String,
    next_at: Option<String>,
    metadata: Option<&'a RawValue>,
}

/// The bytes that tell of ticks of a schedule without a run.
pub(super) fn of_missed(schedule: &Schedule, ticks: &Missed, why: Why<'_>, at_ms: u64) -> Bytes {
    let error = match why {
        Why::Failed(error) => Some(error),
        Why::Missed | Why::Overlaps | Why::Budget => None,
    };
    let data = MissedTicks {
        schedule_id: schedule.id.to_string(),
        name: schedule.name.as_deref(),
        reason: why.as_str(),
        error,
        ticks: ticks.count,
        more: !ticks.is_exact,
        first_at: time(ticks.first_ms),
        last_at: time(ticks.last_ms),
        next_at: schedule.next_ms.map(time),
        metadata: metadata(&schedule.run.spec),
    };
    Body::of(EventKind::ScheduleMissed, at_ms, data)
}

fn metadata(spec: &BatchSpec) -> Option<&RawValue> {
    spec.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok())
}

fn counts_view(counts: &Counts, as_of_ms: u64) -> CountsView {
    CountsView {
        as_of: time(as_of_ms),
        waiting: counts.waiting,
        leased: counts.leased,
        parked: counts.parked,
        succeeded: counts.all_succeeded(),
        repaired: counts.repaired,
        failed: counts.all_failed(),
        failed_by_reason: counts.failed.iter().map(|(kind, items)| (kind.as_str(), *items)).collect(),
        cancelled: counts.cancelled,
        expired: counts.expired,
        open: counts.open(),
        settled: counts.settled(),
    }
}

fn pause_view(state: &BatchState) -> Option<PauseView<'_>> {
    let BatchState::Paused { reason } = state else { return None };
    Some(match reason {
        PauseReason::Requested => PauseView { reason: "requested", kind: None, message: None },
        PauseReason::Budget => PauseView { reason: "budget", kind: None, message: None },
        PauseReason::TenantBudget { .. } => PauseView { reason: "tenant_budget", kind: None, message: None },
        PauseReason::Suspect { kind, message } => {
            PauseView { reason: "suspect", kind: Some(*kind), message: Some(message) }
        }
    })
}

/// RFC 3339 in UTC with milliseconds.
pub(super) fn time(unix_ms: u64) -> String {
    let moment = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", moment.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use promptmill_domain::{BatchLimits, EventId, TenantId, Totals};

    fn body(state: BatchState, kind: EventKind, counts: &Counts) -> serde_json::Value {
        let id = BatchId::from_bytes([1; 16]);
        let mut spec =
            BatchSpec::new("{}".to_owned(), "demo:m".parse().unwrap(), LaneId::new("demo", "none"));
        spec.name = Some("tickets".to_owned());
        spec.metadata = Some("{\"b\":1.50,\"a\":[]}".to_owned());
        let batch = Batch {
            id,
            tenant: TenantId::default_tenant(),
            state: state.clone(),
            ver: 9,
            spec,
            limits: BatchLimits::default(),
            total: 7,
            created_ms: 0,
            submitted_ms: None,
            finished_ms: None,
            final_counts: None,
        };
        let event = Event {
            id: EventId::of_batch(id, 4),
            tenant: TenantId::default_tenant(),
            batch: id,
            kind,
            at_ms: 1_795_410_000_000,
            ver: 4,
            state,
            counts: None,
            percent: None,
        };
        let bytes = of(&event, &batch, counts, 1_795_410_000_500, None, None);
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(
            text.contains("\"metadata\":{\"b\":1.50,\"a\":[]}"),
            "metadata is given back as it is: {text}"
        );
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_final_batch_is_told_with_its_counts_and_cost() {
        let counts = Counts {
            succeeded: 3,
            repaired: 1,
            failed: [(FailureKind::Timeout, 2)].into(),
            expired: 1,
            totals: Totals { cost: "0.25".parse().unwrap(), ..Totals::default() },
            ..Counts::default()
        };
        let body = body(BatchState::Completed, EventKind::BatchCompleted, &counts);
        assert_eq!(
            body,
            serde_json::json!({
                "type": "batch.completed",
                "timestamp": "2026-11-23T05:00:00.000Z",
                "data": {
                    "batch_id": "batch_01010101010101010101010101010101",
                    "name": "tickets",
                    "state": "completed",
                    "revision": 4,
                    "rows": 7,
                    "counts": {
                        "as_of": "2026-11-23T05:00:00.500Z",
                        "waiting": 0, "leased": 0, "parked": 0,
                        "succeeded": 4, "repaired": 1,
                        "failed": 2, "failed_by_reason": {"timeout": 2},
                        "cancelled": 0, "expired": 1, "open": 0, "settled": 7
                    },
                    "cost": "0.25",
                    "metadata": {"b": 1.50, "a": []}
                }
            })
        );
    }

    #[test]
    fn a_pause_says_why() {
        let state = |reason| BatchState::Paused { reason };
        let pause =
            |reason| body(state(reason), EventKind::BatchPaused, &Counts::default())["data"]["pause"].clone();
        assert_eq!(pause(PauseReason::Budget), serde_json::json!({"reason": "budget"}));
        let suspect =
            PauseReason::Suspect { kind: FailureKind::CredentialRefused, message: "no key".to_owned() };
        let kind = FailureKind::CredentialRefused.as_str();
        assert_eq!(
            pause(suspect),
            serde_json::json!({"reason": "suspect", "kind": kind, "message": "no key"})
        );
    }
}
