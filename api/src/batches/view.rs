//! A batch as the wire has it, with counts at most a second old.
//!
//! Start at [`view`]; lists, answers to every change, and the stream of events all show the same.

use std::collections::BTreeMap;

use promptmill_domain::report::slow_reasons;
use promptmill_domain::{
    Batch, BatchState, CacheScope, Counts, FailureKind, Money, OutcomeName, PauseReason, RetryOf, SlowReason,
    StoreReplies, TickRef, WorkerReport,
};
use promptmill_prompt::Template;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::models::MaxPriceBody;
use super::names::{CacheNames, FallbackNames, LimitNames, PauseNames, RepliesNames, StateNames};
use crate::App;
use crate::outcome_view::{OutcomeNames, ReasonNames, TokensView};
use crate::problem::Problem;
use crate::progress;
use crate::templates::TemplateRefView;
use crate::time::Time;

/// A batch: what was asked for, where it stands, what it cost so far.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Batch)]
pub(crate) struct BatchView {
    /// `batch_` and 32 hexadecimal digits.
    pub(crate) id: String,
    /// `draft`, `submitting`, `queued`, `running`, `paused`, `cancelling`, `expiring`, `completed`, `cancelled` or `expired`.
    #[schema(value_type = StateNames)]
    pub(crate) state: &'static str,
    /// What people call it.
    pub(crate) name: Option<String>,
    /// For lists to filter by.
    pub(crate) labels: BTreeMap<String, String>,
    /// The submitter's own JSON.
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Box<RawValue>>,
    /// The stored template version it pinned; null for an inline template and for rows of messages.
    pub(crate) template: Option<TemplateRefView>,
    /// The template's name; null where the rows bring messages.
    pub(crate) template_name: Option<String>,
    /// `provider:name`, the one that is asked first.
    pub(crate) model: String,
    /// Those that are asked when it does not do, in that order.
    pub(crate) fallbacks: Vec<String>,
    /// When the next one is asked.
    #[schema(value_type = Vec<FallbackNames>, inline)]
    pub(crate) fallback_on: Vec<&'static str>,
    /// Models whose price is known to be above this are passed over.
    pub(crate) max_price: Option<MaxPriceBody>,
    /// When it was created.
    pub(crate) created_at: Time,
    /// When its submit was finished.
    pub(crate) submitted_at: Option<Time>,
    /// When it reached its final state.
    pub(crate) finished_at: Option<Time>,
    /// When what is still open expires.
    pub(crate) deadline: Option<Time>,
    /// Larger is served earlier.
    pub(crate) priority: i16,
    /// The most calls at the same time.
    pub(crate) max_concurrency: Option<u32>,
    /// No call begins once this much is spent, US dollars.
    #[schema(value_type = Option<String>)]
    pub(crate) max_cost: Option<Money>,
    /// Attempts at an item before it fails.
    pub(crate) max_attempts: u32,
    /// Seconds after its first attempt that an item is given up whose provider stays in trouble; null is the installation's default.
    pub(crate) give_up_after: Option<u64>,
    /// The parts of its items, in per cent, of which it tells.
    pub(crate) progress_at: Vec<u8>,
    /// Seconds from its submit to its deadline, where that was said so.
    pub(crate) completion_window: Option<u64>,
    /// Whether it is paused when its first items all fail for one cause outside the rows.
    pub(crate) guard: bool,
    /// Which raw replies are kept: `none`, `failed` or `all`.
    #[schema(value_type = RepliesNames)]
    pub(crate) store_replies: StoreReplies,
    /// Among whose rows replies are given again: `batch` or `tenant`; null where each row is a call of its own.
    #[schema(value_type = Option<CacheNames>, inline)]
    pub(crate) cache: Option<CacheScope>,
    /// Seconds it is kept after its end; null is the installation's default.
    pub(crate) retention: Option<u64>,
    /// Where its events are posted.
    pub(crate) webhook_url: Option<String>,
    /// The signing secret of the webhook, told once by the request for which it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) webhook_secret: Option<String>,
    /// Number of rows.
    pub(crate) rows: u64,
    /// Where the items stand.
    pub(crate) counts: CountsView,
    /// Calls so far.
    pub(crate) calls: u64,
    /// Items whose reply the cache gave, without a call.
    pub(crate) cached: u64,
    /// Tokens so far.
    pub(crate) tokens: TokensView,
    /// US dollars so far.
    #[schema(value_type = String)]
    pub(crate) cost: Money,
    /// Items settled a second, averaged over about ten seconds; null where nothing runs.
    pub(crate) rate: Option<f64>,
    /// When it ends at this rate; null where that cannot be said.
    pub(crate) eta: Option<Time>,
    /// Why it is not faster, the weightiest reason first.
    pub(crate) limited_by: Vec<LimitView>,
    /// Why it stands still, where it does.
    pub(crate) pause: Option<PauseView>,
    /// What it runs again.
    pub(crate) retry_of: Option<RetryOfView>,
    /// The tick of a schedule that it is a run of.
    pub(crate) schedule: Option<ScheduledView>,
    /// Grows with every change of state and limits.
    pub(crate) revision: u64,
}

/// The tick of a schedule that a batch is a run of.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Scheduled)]
pub(crate) struct ScheduledView {
    /// The schedule, `sched_...`.
    id: String,
    /// The time of the tick.
    at: Time,
}

impl From<TickRef> for ScheduledView {
    fn from(tick: TickRef) -> Self {
        Self { id: tick.schedule.to_string(), at: Time(tick.at_ms) }
    }
}

/// Items by where they stand.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Counts)]
pub(crate) struct CountsView {
    /// When they were counted.
    pub(crate) as_of: Time,
    /// Not begun, or handed back.
    waiting: u64,
    /// With a worker.
    leased: u64,
    /// Waiting for a later attempt.
    parked: u64,
    /// A reply was accepted, with or without a repair.
    succeeded: u64,
    /// Those among the succeeded that took a repair.
    repaired: u64,
    /// No reply was accepted.
    failed: u64,
    /// The failed, by reason; only reasons that occur.
    #[schema(value_type = BTreeMap<String, u64>)]
    failed_by_reason: BTreeMap<&'static str, u64>,
    /// Sealed by a cancel.
    cancelled: u64,
    /// Sealed by the deadline.
    expired: u64,
    /// Without an outcome.
    open: u64,
    /// With one.
    pub(crate) settled: u64,
}

impl CountsView {
    fn of(counts: &Counts, as_of_ms: u64) -> Self {
        Self {
            as_of: Time(as_of_ms),
            waiting: counts.waiting,
            leased: counts.leased,
            parked: counts.parked,
            succeeded: counts.all_succeeded(),
            repaired: counts.repaired,
            failed: counts.all_failed(),
            failed_by_reason: counts.failed.iter().map(|(kind, n)| (kind.as_str(), *n)).collect(),
            cancelled: counts.cancelled,
            expired: counts.expired,
            open: counts.open(),
            settled: counts.settled(),
        }
    }
}

/// A reason why a batch is not faster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Limit)]
pub(crate) struct LimitView {
    /// `paused`, `budget`, `suspect`, `no_workers`, `worker_slots`, `max_concurrency`, `lane_limit`, `retry_delay` or `queued`.
    #[schema(value_type = LimitNames)]
    reason: &'static str,
    /// The lane, for `lane_limit`: `provider/credential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<String>,
}

impl From<SlowReason> for LimitView {
    fn from(reason: SlowReason) -> Self {
        let (reason, lane) = match reason {
            SlowReason::Paused => ("paused", None),
            SlowReason::Budget => ("budget", None),
            SlowReason::Suspect => ("suspect", None),
            SlowReason::NoWorkers => ("no_workers", None),
            SlowReason::WorkerSlots => ("worker_slots", None),
            SlowReason::MaxConcurrency => ("max_concurrency", None),
            SlowReason::LaneLimit { lane } => ("lane_limit", Some(lane.to_string())),
            SlowReason::SharedReply => ("shared_reply", None),
            SlowReason::RetryDelay => ("retry_delay", None),
            SlowReason::Queued => ("queued", None),
        };
        Self { reason, lane }
    }
}

/// Why a batch stands still.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Pause)]
pub(crate) struct PauseView {
    /// `requested`, `budget`, `tenant_budget` (until its day or month is over) or `suspect`.
    #[schema(value_type = PauseNames)]
    reason: &'static str,
    /// The cause all first items failed for, where it is `suspect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ReasonNames>, inline)]
    kind: Option<FailureKind>,
    /// Which limit is spent, where it is `tenant_budget`; the provider's words, where it is `suspect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl PauseView {
    fn of(state: &BatchState) -> Option<Self> {
        let BatchState::Paused { reason } = state else { return None };
        let (reason, kind, message) = match reason {
            PauseReason::Requested => ("requested", None, None),
            PauseReason::Budget => ("budget", None, None),
            PauseReason::TenantBudget { period, name } => {
                let message = format!("the tenant's limit of the {} {name} is spent", period.as_str());
                ("tenant_budget", None, Some(message))
            }
            PauseReason::Suspect { kind, message } => ("suspect", Some(*kind), Some(message.clone())),
        };
        Some(Self { reason, kind, message })
    }
}

/// What a retry took from another batch.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = RetryOf)]
pub(crate) struct RetryOfView {
    /// The other batch.
    batch: String,
    /// Items that ended so.
    #[schema(value_type = Vec<OutcomeNames>, inline)]
    outcomes: Vec<OutcomeName>,
    /// Where they failed: for these reasons only; empty means any.
    #[schema(value_type = Vec<ReasonNames>, inline)]
    reasons: Vec<FailureKind>,
}

impl From<&RetryOf> for RetryOfView {
    fn from(retry: &RetryOf) -> Self {
        Self {
            batch: retry.batch.to_string(),
            outcomes: retry.filter.outcomes.iter().copied().collect(),
            reasons: retry.filter.reasons.iter().copied().collect(),
        }
    }
}

/// A batch as it stands, its counts at most a second old.
///
/// # Errors
/// The store's.
pub(crate) async fn view(app: &App, batch: &Batch) -> Result<BatchView, Problem> {
    let (progress, as_of_ms) = progress::cached(app, batch).await?;
    let runs = matches!(batch.state, BatchState::Queued | BatchState::Running | BatchState::Paused { .. });
    let reports = if runs { progress::reports(app).await? } else { [].into() };
    let rows = match batch.state {
        BatchState::Draft | BatchState::Submitting => {
            let parts = app.engine().store.parts(&batch.tenant, batch.id).await?;
            parts.iter().map(|part| part.rows).sum()
        }
        _ => u64::from(batch.total),
    };
    Ok(of(batch, rows, &progress.counts, as_of_ms, &reports, app.now_ms()))
}

/// A batch as it was queued just now: all of its rows wait.
///
/// # Errors
/// The store's.
pub(crate) async fn view_queued(app: &App, batch: &Batch) -> Result<BatchView, Problem> {
    let rows = u64::from(batch.total);
    let (counts, now_ms) = (Counts { waiting: rows, ..Counts::default() }, app.now_ms());
    Ok(of(batch, rows, &counts, now_ms, &progress::reports(app).await?, now_ms))
}

fn of(
    batch: &Batch,
    rows: u64,
    counts: &Counts,
    as_of_ms: u64,
    reports: &[WorkerReport],
    now_ms: u64,
) -> BatchView {
    let (spec, limits) = (&batch.spec, &batch.limits);
    let rate = rate(batch, reports);
    let limited_by = slow_reasons(batch.id, &batch.state, limits, counts, reports);
    BatchView {
        id: batch.id.to_string(),
        state: batch.state.as_str(),
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        metadata: spec.metadata.clone().and_then(|text| RawValue::from_string(text).ok()),
        template: spec.template_ref.as_ref().map(Into::into),
        template_name: template_name(&spec.template),
        model: spec.model.to_string(),
        fallbacks: spec.fallback.models.iter().map(|further| further.model.to_string()).collect(),
        fallback_on: spec.fallback.on.iter().map(|on| on.as_str()).collect(),
        max_price: spec.fallback.max_price.map(Into::into),
        created_at: Time(batch.created_ms),
        submitted_at: batch.submitted_ms.map(Time),
        finished_at: batch.finished_ms.map(Time),
        deadline: limits.deadline_ms.map(Time),
        priority: limits.priority,
        max_concurrency: limits.max_concurrency,
        max_cost: limits.max_cost,
        max_attempts: spec.max_attempts,
        give_up_after: spec.give_up_after_ms.map(|ms| ms / 1000),
        progress_at: spec.progress_at.clone(),
        completion_window: spec.completion_window_ms.map(|ms| ms / 1000),
        guard: limits.guard,
        store_replies: spec.store_replies,
        cache: spec.cache,
        retention: spec.retention_ms.map(|ms| ms / 1000),
        webhook_url: spec.webhook.as_ref().map(|webhook| webhook.url.clone()),
        webhook_secret: None,
        rows,
        counts: CountsView::of(counts, as_of_ms),
        calls: counts.totals.calls,
        cached: counts.totals.cached,
        tokens: counts.totals.tokens.into(),
        cost: counts.totals.cost,
        rate,
        eta: rate.and_then(|rate| eta(counts.open(), rate, now_ms)),
        limited_by: limited_by.into_iter().map(Into::into).collect(),
        pause: PauseView::of(&batch.state),
        retry_of: spec.retry_of.as_ref().map(Into::into),
        schedule: spec.tick.map(Into::into),
        revision: batch.ver,
    }
}

/// Items a second over all workers, to a hundredth; `None` where nothing of the batch is with a worker.
fn rate(batch: &Batch, reports: &[WorkerReport]) -> Option<f64> {
    if batch.state != BatchState::Running {
        return None;
    }
    let mine = reports.iter().flat_map(|report| &report.batches).filter(|report| report.batch == batch.id);
    let rates: Vec<f64> = mine.map(|report| report.settled_per_s).collect();
    (!rates.is_empty()).then(|| (rates.iter().sum::<f64>() * 100.0).round() / 100.0)
}

/// When `open` items are done at `rate` a second; `None` beyond ten years.
fn eta(open: u64, rate: f64, now_ms: u64) -> Option<Time> {
    const TEN_YEARS_S: f64 = 10.0 * 366.0 * 86_400.0;
    let seconds = open as f64 / rate;
    (rate > 0.0 && seconds < TEN_YEARS_S).then(|| Time(now_ms + (seconds * 1000.0) as u64))
}

/// The name in a template's text; `None` for a text we made for rows of messages.
fn template_name(source: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let named = serde_json::from_str::<Named>(source).ok()?;
    (!Template::is_for_messages(source)).then_some(named.name)
}
