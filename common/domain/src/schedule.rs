//! A schedule: a batch that recurs, the ticks at which it is due, and what became of each.
//!
//! What a look at a schedule decides is written in the schedule itself, in one step with the time up to which it is decided
//! ([`Schedule::begun`]). So a tick is decided once, with any number of processes that look, and whoever comes next carries on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchLimits, BatchSpec, BatchState};
use crate::budget::Period;
use crate::endpoint::SealedHeaders;
use crate::filter::OutcomeName;
use crate::ids::{BatchId, RowSetId, ScheduleId, TemplateId, TenantId};
use crate::money::Money;

/// Schedules a tenant may have.
pub const MOST_SCHEDULES: u32 = 10_000;

/// The longest interval: 366 days.
pub const MAX_INTERVAL_SECONDS: u64 = 366 * 86_400;

/// The most that ticks may be put off, so that many schedules of one minute do not begin at once, seconds.
pub const MOST_JITTER_S: u64 = 3_600;

/// Lateness up to which a tick is on time unless told, milliseconds.
pub const GRACE_MS: u64 = 60_000;

/// Ticks that were missed and are made up for at one look, at most.
pub const MOST_MADE_UP: u32 = 100;

/// Runs of failed rows after a run, at most.
pub const MOST_RETRIES: u32 = 10;

/// A batch that recurs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its id.
    pub id: ScheduleId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it is due.
    pub timing: Timing,
    /// What is done about runs that overlap, ticks that were missed and rows that failed.
    pub policies: Policies,
    /// Whether it is looked at.
    pub state: ScheduleState,
    /// Its first tick that is not decided, Unix milliseconds; `None` when no more come.
    pub next_ms: Option<u64>,
    /// What the last look decided, until it stands among its ticks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Begun>,
    /// What its runs of a month cost, where there is a limit of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend: Option<MonthSpend>,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// When it was changed by somebody, Unix milliseconds.
    pub changed_ms: u64,
    /// Counts its changes, from 1, those too that a look makes.
    pub ver: u64,
    /// What is run.
    pub run: RunSpec,
}

/// When a schedule is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// By which rule.
    pub rule: Rule,
    /// No tick lies before it, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<u64>,
    /// No tick lies after it, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ms: Option<u64>,
    /// Each of its runs begins up to so many milliseconds after its tick, always by the same ([`Schedule::offset_ms`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jitter_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// By which rule a schedule is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Rule {
    /// When the wall clock of a time zone shows a time that a cron pattern names.
    Cron {
        /// Five fields, or six with the second first.
        pattern: String,
        /// The zone's name in the IANA database, such as `Europe/Berlin` or `UTC`.
        zone: String,
    },
    /// At `from_ms`, and whenever so many seconds more have passed.
    Every {
        /// The interval: 1 to [`MAX_INTERVAL_SECONDS`].
        seconds: u64,
        /// The first tick, Unix milliseconds.
        from_ms: u64,
    },
}

/// What is done about runs that overlap, ticks that were missed and rows that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// What a tick does while an earlier run goes on.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// What becomes of ticks that are late when they are looked at.
    #[serde(default)]
    pub misfire: Misfire,
    /// How late a tick may be and is on time still, milliseconds.
    #[serde(default = "Policies::grace_ms")]
    pub grace_ms: u64,
    /// What is done about rows that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryFailed>,
    /// What all runs that begin in a month (UTC) may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_per_month: Option<Money>,
}

impl Policies {
    const fn grace_ms() -> u64 {
        GRACE_MS
    }
}

impl Policies {
    /// After how many milliseconds failed rows of a final batch are to run again, which is the `retry`-th of its run; `None` where none are.
    pub fn runs_again(&self, batch: &Batch, retry: u32) -> Option<u64> {
        let failed = batch.final_counts.as_ref().filter(|_| batch.state == BatchState::Completed);
        let policy = self.retry.filter(|policy| retry < policy.times);
        policy.filter(|_| failed.is_some_and(|counts| counts.all_failed() > 0)).map(|policy| policy.after_ms)
    }
}

impl Default for Policies {
    /// Each as if it were not told.
    fn default() -> Self {
        Self {
            concurrency: Concurrency::default(),
            misfire: Misfire::default(),
            grace_ms: GRACE_MS,
            retry: None,
            max_cost_per_month: None,
        }
    }
}

/// What a tick does while an earlier run of its schedule goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    /// It is skipped.
    #[default]
    Skip,
    /// It runs beside.
    Allow,
    /// It runs, and the earlier one is cancelled.
    Replace,
}

/// What becomes of ticks that are late when they are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Misfire {
    /// The newest of them runs, unless one runs that is on time.
    #[default]
    RunOnce,
    /// The newest of them run, oldest first.
    RunEach {
        /// How many at most.
        most: u32,
    },
    /// None of them runs.
    Skip,
}

/// Rows that failed run again after the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryFailed {
    /// How often, at most.
    pub times: u32,
    /// How long after the end of the run before, milliseconds.
    pub after_ms: u64,
}

/// What the runs of a schedule that began in a month cost, or may cost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthSpend {
    /// Which month ([`Period::of`]).
    pub month: String,
    /// What those that are over cost.
    pub spent: Money,
    /// What the others may cost at most, by the time of their tick.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<(u64, Money)>,
}

/// Whether a schedule is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum ScheduleState {
    /// It is.
    Active,
    /// It is not, since then (Unix milliseconds). What was due meanwhile is not made up for.
    Paused {
        /// Since when.
        at_ms: u64,
    },
}

/// What a schedule runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Which template, where it may be another one at each tick; that in `spec` where it is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateChoice>,
    /// Where rows come from.
    pub rows: RowSource,
    /// Which rows of the run before are taken instead, where there is one; `None` takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousRows>,
    /// Limits of each batch.
    pub limits: BatchLimits,
    /// What each batch is to do; its webhook is sealed for the batch of the schedule's own bytes ([`Schedule::sealed_for`]).
    pub spec: BatchSpec,
}

/// A template that is looked up at each tick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateChoice {
    /// Which.
    pub id: TemplateId,
    /// The version that has this label then; the newest where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Where the rows of a run come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum RowSource {
    /// A stored row set. Rows that came with the schedule are one that has its bytes ([`Schedule::own_rows`]).
    Set {
        /// Which.
        set: RowSetId,
        /// Which version; the newest at each tick where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<u32>,
    },
    /// A server that is asked at each tick. What it gave stands in the row set that has the schedule's bytes ([`Schedule::own_rows`]), as its newest version.
    Http(HttpRows),
}

/// A server that rows come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRows {
    /// Where they are.
    pub url: String,
    /// How they are written; the answer tells it where this does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<HttpFormat>,
    /// Headers of the request, sealed for [`Schedule::headers_context`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<SealedHeaders>,
}

/// How rows of a server are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpFormat {
    /// One JSON object per line.
    Ndjson,
    /// Comma separated values with a header row.
    Csv,
}

/// Which rows of the run before a run takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousRows {
    /// Those that came to one of these; at least one.
    pub outcomes: BTreeSet<OutcomeName>,
    /// Of runs that began before that no rows are taken: the rows named beside it are newer. Unix milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since_ms: u64,
}

/// What a look decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Ticks, by their time (Unix milliseconds), ascending. Of those that were missed only the newest.
    pub ticks: Vec<(u64, Decided)>,
    /// All that were missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Missed>,
}

/// Ticks that were due while nobody looked and that are not made up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// The first, Unix milliseconds.
    pub first_ms: u64,
    /// The last, Unix milliseconds.
    pub last_ms: u64,
    /// How many there are.
    pub count: u64,
    /// Whether they were counted to the end; there are more of them where they were not.
    pub is_exact: bool,
}

/// What was decided about a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// It runs.
    Run,
    /// It does not, because an earlier run goes on.
    Overlaps,
    /// It does not, because a later one takes its place.
    Replaced,
    /// It does not, because nobody looked in time.
    Missed,
}

impl Schedule {
    /// How long after a tick its run begins, milliseconds: the same for all of them, and spread evenly over schedules.
    pub fn offset_ms(&self) -> u64 {
        let random = self.id.as_bytes().last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        random.checked_rem(self.timing.jitter_ms.saturating_add(1)).unwrap_or(0)
    }

    /// When it is to be looked at, Unix milliseconds: at once where something that was decided is not among its ticks, never where nothing is to come.
    pub fn look_ms(&self) -> Option<u64> {
        if self.begun.is_some() {
            return Some(0);
        }
        match self.state {
            ScheduleState::Active => self.next_ms.map(|next| next.saturating_add(self.offset_ms())),
            ScheduleState::Paused { .. } => None,
        }
    }

    /// Sets aside what the run of a tick may cost, at most what is left of the month. Answers that; `None` where nothing is left. Of a run for which it was done before it is the same again.
    pub fn hold(&mut self, at_ms: u64, most: Money, now_ms: u64) -> Option<Money> {
        let month = Period::Month.of(now_ms);
        let spend = self.spend.get_or_insert_default();
        // A clock that goes back does not make the month before begin anew.
        if spend.month < month {
            *spend = MonthSpend { month, ..MonthSpend::default() };
        }
        if let Some((_, held)) = spend.held.iter().find(|(of, _)| *of == at_ms) {
            return Some(*held);
        }
        let held = spend.held.iter().fold(Money::ZERO, |sum, (_, held)| sum + *held);
        let left = most.less(spend.spent).less(held);
        if left == Money::ZERO {
            return None;
        }
        let may = self.run.limits.max_cost.map_or(left, |of_run| of_run.min(left));
        spend.held.push((at_ms, may));
        Some(may)
    }

    /// The run of a tick is over and cost that much. Answers whether that is anything new.
    pub fn settle(&mut self, at_ms: u64, cost: Money) -> bool {
        let Some(spend) = &mut self.spend else { return false };
        let before = spend.held.len();
        spend.held.retain(|(of, _)| *of != at_ms);
        let was_held = spend.held.len() < before;
        if was_held {
            spend.spent += cost;
        }
        was_held
    }

    /// Whether its rows came with it.
    pub fn has_own_rows(&self) -> bool {
        matches!(&self.run.rows, RowSource::Set { set, .. } if *set == Self::own_rows(self.id))
    }

    /// Which version of its own row set they are, where they did.
    pub fn own_version(&self) -> Option<u32> {
        match &self.run.rows {
            RowSource::Set { version, .. } if self.has_own_rows() => *version,
            RowSource::Set { .. } | RowSource::Http(_) => None,
        }
    }

    /// The row set of rows that came with it, or of those that its server gave.
    pub const fn own_rows(id: ScheduleId) -> RowSetId {
        RowSetId::from_bytes(*id.as_bytes())
    }

    /// What the headers of its rows' server are sealed for.
    pub fn headers_context(tenant: &TenantId, id: ScheduleId) -> String {
        format!("{tenant}|schedule|{id}|headers")
    }

    /// What its webhook's secret is sealed for.
    pub const fn sealed_for(id: ScheduleId) -> BatchId {
        BatchId::from_bytes(*id.as_bytes())
    }
}

/// A due time of a schedule, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// Whose.
    pub schedule: ScheduleId,
    /// The schedule's tenant.
    pub tenant: TenantId,
    /// Its time, Unix milliseconds. With the schedule it is the tick's identity.
    pub at_ms: u64,
    /// Why there is one.
    #[serde(default)]
    pub by: TickBy,
    /// What became of it.
    pub state: TickState,
    /// Counts its changes, from 1.
    pub ver: u64,
}

/// Why there is a tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TickBy {
    /// Its time came.
    #[default]
    Time,
    /// Somebody asked for a run.
    Request,
}

/// What became of a tick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum TickState {
    /// Its batch is to be made.
    Due {
        /// How often that was tried.
        tries: u32,
        /// When it is tried, Unix milliseconds.
        not_before_ms: u64,
    },
    /// Its batch runs.
    Running {
        /// When that was queued, Unix milliseconds.
        started_ms: u64,
        /// Which of its batches runs: 0 the first, others of rows that failed in the one before.
        retry: u32,
    },
    /// Rows of its batch failed, and are to be run again.
    Again {
        /// When its first batch was queued, Unix milliseconds.
        started_ms: u64,
        /// Which of its batches is to be made.
        retry: u32,
        /// How often that was tried.
        tries: u32,
        /// When it is tried, Unix milliseconds.
        not_before_ms: u64,
    },
    /// Its last batch ended.
    Ended {
        /// When its first was queued, Unix milliseconds.
        started_ms: u64,
        /// When the last ended, Unix milliseconds.
        ended_ms: u64,
        /// Which one that was.
        retry: u32,
    },
    /// There was no run of it.
    Skipped {
        /// Why.
        why: WhySkipped,
    },
    /// Its batch could not be made.
    Failed {
        /// In words fit to show.
        why: String,
    },
}

/// Why there was no run of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhySkipped {
    /// An earlier run went on.
    Overlaps,
    /// A later one took its place.
    Replaced,
    /// The month's runs have spent what they may.
    Budget,
    /// The schedule was paused before it began.
    Paused,
    /// Nobody looked when it was due, and it is not made up for.
    Missed,
    /// No row of the run before came to what it takes.
    NoRows,
}

impl TickState {
    /// To be done as soon as it can be.
    pub const DUE: Self = Self::Due { tries: 0, not_before_ms: 0 };

    /// Whether something is to be done about it still.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Due { .. } | Self::Running { .. } | Self::Again { .. })
    }

    /// The name in JSON, metrics and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Due { .. } => "due",
            Self::Running { .. } => "running",
            Self::Again { .. } => "again",
            Self::Ended { .. } => "ended",
            Self::Skipped { .. } => "skipped",
            Self::Failed { .. } => "failed",
        }
    }

    /// The last of its batches, counted from 0; `None` where there is none.
    pub const fn last_batch(&self) -> Option<u32> {
        match self {
            Self::Running { retry, .. } | Self::Ended { retry, .. } => Some(*retry),
            Self::Again { retry, .. } => Some(retry.saturating_sub(1)),
            Self::Due { .. } | Self::Skipped { .. } | Self::Failed { .. } => None,
        }
    }
}

impl Tick {
    /// The tick of a schedule at that time as a look decided it.
    pub fn decided(schedule: &Schedule, at_ms: u64, decided: Decided) -> Self {
        let state = match decided {
            Decided::Run => TickState::DUE,
            Decided::Overlaps => TickState::Skipped { why: WhySkipped::Overlaps },
            Decided::Replaced => TickState::Skipped { why: WhySkipped::Replaced },
            Decided::Missed => TickState::Skipped { why: WhySkipped::Missed },
        };
        let (schedule, tenant) = (schedule.id, schedule.tenant.clone());
        Self { schedule, tenant, at_ms, by: TickBy::Time, state, ver: 1 }
    }

    /// When its next batch is to be made, Unix milliseconds; `None` where none is.
    pub const fn due_ms(&self) -> Option<u64> {
        match self.state {
            TickState::Due { not_before_ms, .. } | TickState::Again { not_before_ms, .. } => {
                Some(not_before_ms)
            }
            TickState::Running { .. }
            | TickState::Ended { .. }
            | TickState::Skipped { .. }
            | TickState::Failed { .. } => None,
        }
    }

    /// The batch of a schedule's tick: the first, or the one that runs rows again that failed in the one before. Whoever asks gets the same, and
    /// another for each: the time is the tick's, and the schedule's random half says whose it is.
    pub fn batch(schedule: ScheduleId, at_ms: u64, retry: u32) -> BatchId {
        let mut random = [0; 10];
        random.copy_from_slice(&schedule.as_bytes()[6..]);
        let nth = retry.to_be_bytes();
        for (byte, nth) in random[6..].iter_mut().zip(nth) {
            *byte ^= nth;
        }
        BatchId::at(at_ms, random)
    }
}

#[cfg(test)]
mod tests;
