//! Schedules and their ticks as clients see them.

use std::collections::BTreeSet;

use promptmill_domain::schedule::{
    Concurrency, HttpRows, Misfire, MonthSpend, RetryFailed, RowSource, Rule, TemplateChoice, TickBy,
};
use promptmill_domain::{Batch, BatchSpec, Money, OutcomeName, Schedule, ScheduleState, Tick, TickState};
use promptmill_ports::StoreError;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::FormatName;
use super::names::{ConcurrencyName, MisfireName, ScheduleStateName, SkippedName, TickStateName};
use crate::App;
use crate::batches::names::StateNames;
use crate::batches::webhook;
use crate::outcome_view::OutcomeNames;
use crate::problem::Problem;
use crate::time::Time;

/// A batch that recurs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Schedule)]
pub(crate) struct ScheduleView {
    /// `sched_` and 32 hexadecimal digits.
    pub(super) id: String,
    /// What people call it.
    name: Option<String>,
    /// Whether it goes on.
    state: ScheduleStateName,
    /// Its next tick; null while it is paused and when none comes.
    next_at: Option<Time>,
    /// The cron pattern it is due by.
    cron: Option<String>,
    /// The time zone of the pattern.
    timezone: Option<String>,
    /// Seconds from one tick to the next, where there is no pattern.
    every: Option<u64>,
    /// No tick lies before it.
    start: Option<Time>,
    /// No tick lies after it.
    end: Option<Time>,
    /// Seconds up to which runs begin after their ticks.
    jitter: u64,
    /// Milliseconds after its ticks that runs of this one begin.
    offset_ms: u64,
    /// What a tick does while an earlier run goes on.
    concurrency: ConcurrencyName,
    /// What becomes of ticks that were not looked at in time.
    misfire: MisfireName,
    /// How many of them run, where each does.
    misfire_runs: Option<u32>,
    /// Seconds that a tick may be late and is in time still.
    grace: u64,
    /// Whether rows that failed run again after a run.
    retry: Option<RetryView>,
    /// What all runs that begin in a month (UTC) may cost together, US dollars.
    #[schema(value_type = Option<String>)]
    max_cost_per_month: Option<Money>,
    /// What those of its last month cost and may cost; null where there is no limit, and before the first.
    cost_of_month: Option<MonthView>,
    /// When it was paused, where it is.
    paused_at: Option<Time>,
    /// When it was made.
    created_at: Time,
    /// When somebody changed it last.
    changed_at: Time,
    /// Where the rows of its runs come from; null where they came with it.
    rows_from: Option<RowsFromView>,
    /// What its runs are.
    batch: RecurringView,
    /// The signing secret of the webhook, told once by the request for which it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_secret: Option<String>,
}

/// What the runs of a month cost.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleMonth)]
pub(crate) struct MonthView {
    /// Which month (UTC), as 2026-11.
    month: String,
    /// US dollars of those that are over.
    #[schema(value_type = String)]
    spent: Money,
    /// US dollars that those which go on may cost.
    #[schema(value_type = String)]
    held: Money,
}

impl MonthView {
    fn of(spend: &MonthSpend) -> Self {
        let held = spend.held.iter().fold(Money::ZERO, |sum, (_, held)| sum + *held);
        Self { month: spend.month.clone(), spent: spend.spent, held }
    }
}

/// Rows that failed run again after a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleRetry)]
pub(crate) struct RetryView {
    /// How often at most.
    times: u32,
    /// Seconds after the end of the batch before.
    after: u64,
}

/// Where the rows of a schedule's runs come from.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ScheduleRows)]
pub(crate) struct RowsFromView {
    /// The row set's name; null where it was deleted, and where there is none.
    row_set: Option<String>,
    /// Which of its versions; null for the newest at each tick.
    version: Option<u32>,
    /// The server that is asked at each tick.
    url: Option<String>,
    /// How its rows are written; null where it says that itself.
    #[schema(inline)]
    format: Option<FormatName>,
    /// The names of the headers that were set for the request.
    headers: Vec<String>,
    /// Rows of the run before that came to one of these are taken instead, where there is one; null where none are.
    #[schema(value_type = Option<Vec<OutcomeNames>>, inline)]
    previous_run: Option<BTreeSet<OutcomeName>>,
}

impl RowsFromView {
    async fn of(app: &App, schedule: &Schedule) -> Result<Option<Self>, Problem> {
        let previous_run = schedule.run.previous.as_ref().map(|previous| previous.outcomes.clone());
        let view = Self { previous_run, ..Self::default() };
        Ok(Some(match &schedule.run.rows {
            RowSource::Http(HttpRows { url, format, headers }) => Self {
                url: Some(url.clone()),
                format: format.map(Into::into),
                headers: headers.iter().flat_map(|headers| headers.names.clone()).collect(),
                ..view
            },
            RowSource::Set { .. } if schedule.has_own_rows() => {
                return Ok(Some(view).filter(|view| view.previous_run.is_some()));
            }
            RowSource::Set { set, version } => {
                let row_set = match app.engine().records.row_set(&schedule.tenant, *set).await {
                    Ok(set) => set.name,
                    Err(StoreError::NotFound) => None,
                    Err(error) => return Err(error.into()),
                };
                Self { row_set, version: *version, ..view }
            }
        }))
    }
}

/// What the runs of a schedule are.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Recurring)]
pub(crate) struct RecurringView {
    /// The stored template, as `tmpl_...@version`, `tmpl_...@label` where it is the version that has the label at each tick, or `tmpl_...` where it is the newest then; null
    /// of an inline one, and of rows of messages.
    template: Option<String>,
    /// The model that answers.
    model: String,
    /// What people call each batch.
    name: Option<String>,
    /// Where their events are posted.
    webhook_url: Option<String>,
    /// No call of a run begins once this much of it is spent, US dollars.
    #[schema(value_type = Option<String>)]
    max_cost: Option<Money>,
}

impl ScheduleView {
    /// Tells the signing secret of the webhook too.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn tell_secret(&mut self, app: &App, schedule: &Schedule) -> Result<(), Problem> {
        let told = schedule.run.spec.webhook.as_ref();
        let sealed_for = Schedule::sealed_for(schedule.id);
        let secret = told.map(|told| webhook::opened(app, &schedule.tenant, sealed_for, told)).transpose()?;
        self.webhook_secret = secret.map(|secret| secret.text().expose_secret().to_owned());
        Ok(())
    }

    /// The schedule as it stands.
    pub(super) async fn of(app: &App, schedule: &Schedule) -> Result<Self, Problem> {
        let (cron, timezone, every) = match &schedule.timing.rule {
            Rule::Cron { pattern, zone } => (Some(pattern.clone()), Some(zone.clone()), None),
            Rule::Every { seconds, .. } => (None, None, Some(*seconds)),
        };
        let (state, paused_at) = match schedule.state {
            ScheduleState::Paused { at_ms } => (ScheduleStateName::Paused, Some(Time(at_ms))),
            ScheduleState::Active if schedule.next_ms.is_none() => (ScheduleStateName::Ended, None),
            ScheduleState::Active => (ScheduleStateName::Active, None),
        };
        let (misfire, misfire_runs) = match schedule.policies.misfire {
            Misfire::RunOnce => (MisfireName::RunOnce, None),
            Misfire::RunEach { most } => (MisfireName::RunEach, Some(most)),
            Misfire::Skip => (MisfireName::Skip, None),
        };
        let spec: &BatchSpec = &schedule.run.spec;
        let template = match (&schedule.run.template, &spec.template_ref) {
            (Some(TemplateChoice { id, label: Some(label) }), _) => Some(format!("{id}@{label}")),
            (Some(TemplateChoice { id, label: None }), _) => Some(id.to_string()),
            (None, Some(pinned)) => Some(format!("{}@{}", pinned.id, pinned.version)),
            (None, None) => None,
        };
        let concurrency: Concurrency = schedule.policies.concurrency;
        Ok(Self {
            id: schedule.id.to_string(),
            name: schedule.name.clone(),
            state,
            next_at: schedule.next_ms.filter(|_| state == ScheduleStateName::Active).map(Time),
            cron,
            timezone,
            every,
            start: schedule.timing.start_ms.map(Time),
            end: schedule.timing.end_ms.map(Time),
            jitter: schedule.timing.jitter_ms / 1_000,
            offset_ms: schedule.offset_ms(),
            concurrency: concurrency.into(),
            misfire,
            misfire_runs,
            grace: schedule.policies.grace_ms / 1_000,
            retry: schedule
                .policies
                .retry
                .map(|RetryFailed { times, after_ms }| RetryView { times, after: after_ms / 1_000 }),
            max_cost_per_month: schedule.policies.max_cost_per_month,
            cost_of_month: schedule.spend.as_ref().map(MonthView::of),
            paused_at,
            created_at: Time(schedule.created_ms),
            changed_at: Time(schedule.changed_ms),
            rows_from: RowsFromView::of(app, schedule).await?,
            batch: RecurringView {
                template,
                model: spec.model.to_string(),
                name: spec.name.clone(),
                webhook_url: spec.webhook.as_ref().map(|webhook| webhook.url.clone()),
                max_cost: schedule.run.limits.max_cost,
            },
            webhook_secret: None,
        })
    }
}

/// A due time of a schedule, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tick)]
pub(crate) struct TickView {
    /// Its time.
    at: Time,
    /// Whether somebody asked for this run, instead of its time having come.
    requested: bool,
    /// What became of it.
    state: TickStateName,
    /// Why there was no run of it, where it was skipped.
    skipped_because: Option<SkippedName>,
    /// Why its batch could not be made.
    error: Option<String>,
    /// How often that was tried, and when it is tried next, while it is due.
    tries: Option<u32>,
    /// When its batch is made, at the earliest.
    not_before: Option<Time>,
    /// When its batch was queued.
    started_at: Option<Time>,
    /// When its batch ended.
    ended_at: Option<Time>,
    /// How often rows that failed were run again.
    retries: u32,
    /// Its last batch. One that runs failed rows again says so (`retry_of`), and its results are read merged with those before.
    batch: Option<TickBatchView>,
}

/// The batch of a tick.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TickBatch)]
pub(crate) struct TickBatchView {
    /// Its id.
    id: String,
    /// Where it is read.
    url: String,
    /// Where it stands; null where it was deleted, as are the members that follow.
    #[schema(value_type = Option<StateNames>, inline)]
    state: Option<&'static str>,
    /// Its rows.
    rows: Option<u64>,
    /// Its succeeded items, once it is final.
    succeeded: Option<u64>,
    /// Its failed items, once it is final.
    failed: Option<u64>,
    /// US dollars, once it is final.
    #[schema(value_type = Option<String>)]
    cost: Option<Money>,
}

impl TickView {
    /// The tick, with its batch where that is among `batches`.
    pub(super) fn of(tick: &Tick, batches: &[Batch]) -> Self {
        let mut view = Self {
            at: Time(tick.at_ms),
            requested: tick.by == TickBy::Request,
            state: TickStateName::Due,
            skipped_because: None,
            error: None,
            tries: None,
            not_before: None,
            started_at: None,
            ended_at: None,
            retries: tick.state.last_batch().unwrap_or(0),
            batch: None,
        };
        match &tick.state {
            TickState::Due { tries, not_before_ms } => {
                view.tries = Some(*tries);
                view.not_before = (*not_before_ms > 0).then_some(Time(*not_before_ms));
            }
            TickState::Running { started_ms, .. } => {
                (view.state, view.started_at) = (TickStateName::Running, Some(Time(*started_ms)));
            }
            TickState::Again { started_ms, tries, not_before_ms, .. } => {
                (view.state, view.started_at) = (TickStateName::Again, Some(Time(*started_ms)));
                (view.tries, view.not_before) = (Some(*tries), Some(Time(*not_before_ms)));
            }
            TickState::Ended { started_ms, ended_ms, .. } => {
                (view.state, view.started_at) = (TickStateName::Ended, Some(Time(*started_ms)));
                view.ended_at = Some(Time(*ended_ms));
            }
            TickState::Skipped { why } => {
                (view.state, view.skipped_because) = (TickStateName::Skipped, Some((*why).into()));
            }
            TickState::Failed { why } => {
                (view.state, view.error) = (TickStateName::Failed, Some(why.clone()));
            }
        }
        view.batch = tick.state.last_batch().map(|retry| {
            let id = Tick::batch(tick.schedule, tick.at_ms, retry);
            let batch = batches.iter().find(|batch| batch.id == id);
            let counts = batch.and_then(|batch| batch.final_counts.as_ref());
            TickBatchView {
                id: id.to_string(),
                url: format!("/v1/batches/{id}"),
                state: batch.map(|batch| batch.state.as_str()),
                rows: batch.map(|batch| u64::from(batch.total)),
                succeeded: counts.map(promptmill_domain::Counts::all_succeeded),
                failed: counts.map(promptmill_domain::Counts::all_failed),
                cost: counts.map(|counts| counts.totals.cost),
            }
        });
        view
    }
}
