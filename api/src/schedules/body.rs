//! What a client asks for when it makes or changes a schedule, checked.

use promptmill_domain::schedule::{
    MAX_INTERVAL_SECONDS, MOST_JITTER_S, MOST_MADE_UP, MOST_RETRIES, Misfire, Policies, RetryFailed, Rule,
    Timing,
};
use promptmill_ticks::{RuleError, Timetable};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::names::{ConcurrencyName, MisfireName};
use crate::App;
use crate::batches::draft::{NewBatchBody, check_name, cost_of};
use crate::problem::{FieldError, Problem, ProblemId};
use crate::shapes::{BatchName, Dollars};
use crate::time::Time;

/// The most seconds that a late tick is on time still.
const MOST_GRACE_S: u64 = 7 * 86_400;

/// Seconds from the end of a batch until its failed rows run again, unless told, and the most.
const RETRY_AFTER_S: u64 = 60;
const MOST_RETRY_AFTER_S: u64 = 86_400;

/// The time zone where none is named.
const ZONE: &str = "UTC";

/// A schedule to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewSchedule)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewScheduleBody {
    /// What people call it.
    #[schema(value_type = Option<BatchName>, inline)]
    pub(super) name: Option<String>,
    /// When it is due: a cron pattern of five fields, or six with the second before them. Either this or `every`.
    #[schema(max_length = 100, example = "0 3 * * *")]
    pub(super) cron: Option<String>,
    /// The time zone of `cron`, as the IANA database names it; UTC unless told.
    #[schema(example = "Europe/Berlin")]
    pub(super) timezone: Option<String>,
    /// Seconds from one tick to the next, the first of them at `start`, or as long after now. Instead of `cron`.
    #[schema(minimum = 1, maximum = 31622400)]
    pub(super) every: Option<u64>,
    /// No tick lies before it.
    pub(super) start: Option<Time>,
    /// No tick lies after it.
    pub(super) end: Option<Time>,
    /// Runs begin up to so many seconds after their ticks, those of one schedule always by the same, so that many schedules of one minute do not begin at once.
    #[schema(minimum = 0, maximum = 3600)]
    pub(super) jitter: Option<u64>,
    /// What a tick does while an earlier run goes on; `skip` unless told.
    #[schema(inline)]
    pub(super) concurrency: Option<ConcurrencyName>,
    /// What becomes of ticks that were not looked at in time; `run_once` unless told.
    #[schema(inline)]
    pub(super) misfire: Option<MisfireName>,
    /// How many of them run where each does, 1 unless told.
    #[schema(minimum = 1, maximum = 100)]
    pub(super) misfire_runs: Option<u32>,
    /// Seconds that a tick may be late and is in time still, 60 unless told.
    #[schema(minimum = 1, maximum = 604800)]
    pub(super) grace: Option<u64>,
    /// Runs rows that failed again after a run, in a batch that is linked to it; not unless told.
    #[schema(inline)]
    pub(super) retry: Option<RetryArg>,
    /// What all runs that begin in a month (UTC) may cost together, US dollars. A run may cost what is left of it, and where nothing is, it is skipped.
    #[schema(value_type = Option<Dollars>, inline, example = "50")]
    pub(super) max_cost_per_month: Option<String>,
    /// Whether it begins paused. No unless told.
    #[serde(default)]
    pub(super) paused: bool,
    /// Where the rows of each run come from, instead of `rows` of the batch.
    #[schema(inline)]
    pub(super) rows_from: Option<RowsFrom>,
    /// What each run is: all that makes a batch, with its rows unless `rows_from` names others, but for `deadline`, for which `completion_window` stands. A stored
    /// template that is named without a version is the newest at each tick.
    pub(super) batch: NewBatchBody,
}

/// Where the rows of runs come from.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowsFrom {
    /// A row set, by its name.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,99}$")]
    pub(super) row_set: String,
    /// Which of its versions; the newest at each tick unless told.
    #[schema(minimum = 1)]
    pub(super) version: Option<u32>,
}

/// What is to be different; what is left out stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ChangedSchedule)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChangedScheduleBody {
    /// What people call it; an empty one removes it.
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub(super) name: Option<String>,
    /// A cron pattern, instead of what says now when it is due.
    #[schema(max_length = 100)]
    pub(super) cron: Option<String>,
    /// The time zone of the pattern.
    pub(super) timezone: Option<String>,
    /// Seconds from one tick to the next, instead of what says now when it is due.
    #[schema(minimum = 1, maximum = 31622400)]
    pub(super) every: Option<u64>,
    /// No tick lies before it.
    pub(super) start: Option<Time>,
    /// No tick lies after it.
    pub(super) end: Option<Time>,
    /// Runs begin up to so many seconds after their ticks.
    #[schema(minimum = 0, maximum = 3600)]
    pub(super) jitter: Option<u64>,
    /// What a tick does while an earlier run goes on.
    #[schema(inline)]
    pub(super) concurrency: Option<ConcurrencyName>,
    /// What becomes of ticks that were not looked at in time.
    #[schema(inline)]
    pub(super) misfire: Option<MisfireName>,
    /// How many of them run where each does.
    #[schema(minimum = 1, maximum = 100)]
    pub(super) misfire_runs: Option<u32>,
    /// Seconds that a tick may be late and is in time still.
    #[schema(minimum = 1, maximum = 604800)]
    pub(super) grace: Option<u64>,
    /// Whether rows that failed run again after a run; 0 times for not.
    #[schema(inline)]
    pub(super) retry: Option<RetryArg>,
    /// What all runs that begin in a month (UTC) may cost together, US dollars; an empty text for no limit.
    #[schema(max_length = 32)]
    pub(super) max_cost_per_month: Option<String>,
}

/// How rows that failed run again after a run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryArg {
    /// How often at most.
    #[schema(minimum = 0, maximum = 10)]
    pub(super) times: u32,
    /// Seconds after the end of the batch before, 60 unless told.
    #[schema(minimum = 0, maximum = 86400)]
    pub(super) after: Option<u64>,
}

/// The policies that a request names.
#[derive(Clone, Copy)]
pub(super) struct PoliciesArg<'a> {
    concurrency: Option<ConcurrencyName>,
    misfire: Option<MisfireName>,
    misfire_runs: Option<u32>,
    grace: Option<u64>,
    retry: Option<RetryArg>,
    max_cost_per_month: Option<&'a str>,
}

/// Those of a body.
macro_rules! policies_of {
    ($body:ty) => {
        impl $body {
            pub(super) fn policies(&self) -> PoliciesArg<'_> {
                PoliciesArg {
                    concurrency: self.concurrency,
                    misfire: self.misfire,
                    misfire_runs: self.misfire_runs,
                    grace: self.grace,
                    retry: self.retry,
                    max_cost_per_month: self.max_cost_per_month.as_deref(),
                }
            }
        }
    };
}

policies_of!(NewScheduleBody);
policies_of!(ChangedScheduleBody);

/// Checks what is asked for, and gives what is there another value where one is named.
pub(super) struct Checks<'a> {
    pub(super) app: &'a App,
    pub(super) now_ms: u64,
    pub(super) errors: Vec<FieldError>,
}

impl Checks<'_> {
    fn wrong(&mut self, pointer: &str, detail: impl Into<String>) {
        self.errors.push(FieldError::at(pointer, detail));
    }

    /// Whether a schedule may be called that.
    pub(super) fn name(&mut self, name: &str) {
        self.errors.extend(check_name(name).err());
    }

    /// The rule that a request names, if it names any.
    pub(super) fn rule(
        &mut self,
        cron: Option<&str>,
        timezone: Option<&str>,
        every: Option<u64>,
        start: Option<Time>,
        before: Option<&Rule>,
    ) -> Option<Rule> {
        match (cron, every, before) {
            (Some(_), Some(_), _) => {
                self.wrong("/every", "stands for cron; leave one of them out");
                None
            }
            (None, None, None) => {
                self.wrong("/cron", "or every is needed: when the schedule is due");
                None
            }
            (None, Some(seconds), before) => {
                if timezone.is_some() {
                    self.wrong("/timezone", "is of use only with cron");
                }
                if !(1..=MAX_INTERVAL_SECONDS).contains(&seconds) {
                    self.wrong("/every", "must be 1 to 31622400 seconds");
                    return None;
                }
                // The same interval again keeps its times.
                if let (Some(Rule::Every { seconds: before, from_ms }), None) = (before, start)
                    && *before == seconds
                {
                    return Some(Rule::Every { seconds, from_ms: *from_ms });
                }
                let soon_ms = self.now_ms.saturating_add(seconds * 1_000) / 1_000 * 1_000;
                let from_ms = start.map_or(soon_ms, |start| start.0);
                Some(Rule::Every { seconds, from_ms })
            }
            (Some(pattern), None, before) => {
                let zone = match (timezone, before) {
                    (Some(zone), _) => zone,
                    (None, Some(Rule::Cron { zone, .. })) => zone,
                    (None, Some(Rule::Every { .. }) | None) => ZONE,
                };
                Some(Rule::Cron { pattern: pattern.to_owned(), zone: zone.to_owned() })
            }
            (None, None, Some(Rule::Cron { pattern, zone })) => {
                let zone = timezone.unwrap_or(zone).to_owned();
                Some(Rule::Cron { pattern: pattern.clone(), zone })
            }
            (None, None, Some(Rule::Every { seconds, from_ms })) => {
                if timezone.is_some() {
                    self.wrong("/timezone", "is of use only with cron");
                }
                let from_ms = start.map_or(*from_ms, |start| start.0);
                Some(Rule::Every { seconds: *seconds, from_ms })
            }
        }
    }

    /// Milliseconds up to which runs are put off.
    pub(super) fn jitter_ms(&mut self, seconds: u64) -> u64 {
        if seconds > MOST_JITTER_S {
            self.wrong("/jitter", "must be 0 to 3600 seconds");
        }
        seconds.min(MOST_JITTER_S) * 1_000
    }

    /// The policies with those that a request names.
    pub(super) fn policies(&mut self, before: &Policies, asked: PoliciesArg<'_>) -> Policies {
        let PoliciesArg { concurrency, misfire, misfire_runs, grace, retry, max_cost_per_month } = asked;
        let most = misfire_runs.unwrap_or(match before.misfire {
            Misfire::RunEach { most } => most,
            Misfire::RunOnce | Misfire::Skip => 1,
        });
        let misfire = match misfire {
            None => match before.misfire {
                Misfire::RunEach { .. } => Misfire::RunEach { most },
                other => other,
            },
            Some(MisfireName::RunOnce) => Misfire::RunOnce,
            Some(MisfireName::RunEach) => Misfire::RunEach { most },
            Some(MisfireName::Skip) => Misfire::Skip,
        };
        if !(1..=MOST_MADE_UP).contains(&most) {
            self.wrong("/misfire_runs", "must be 1 to 100");
        }
        if misfire_runs.is_some() && !matches!(misfire, Misfire::RunEach { .. }) {
            self.wrong("/misfire_runs", "is of use only with the misfire \"run_each\"");
        }
        if grace.is_some_and(|grace| !(1..=MOST_GRACE_S).contains(&grace)) {
            self.wrong("/grace", "must be 1 to 604800 seconds");
        }
        let grace_ms = grace.map_or(before.grace_ms, |grace| grace.min(MOST_GRACE_S) * 1_000);
        let concurrency = concurrency.map_or(before.concurrency, Into::into);
        let retry = match retry {
            None => before.retry,
            Some(RetryArg { times, after }) => {
                let after = after.unwrap_or(RETRY_AFTER_S);
                if times > MOST_RETRIES {
                    self.wrong("/retry/times", "must be 0 to 10");
                }
                if after > MOST_RETRY_AFTER_S {
                    self.wrong("/retry/after", "must be 0 to 86400 seconds");
                }
                let after_ms = after.min(MOST_RETRY_AFTER_S) * 1_000;
                (times > 0).then_some(RetryFailed { times, after_ms })
            }
        };
        let max_cost_per_month = match max_cost_per_month {
            None => before.max_cost_per_month,
            Some("") => None,
            Some(text) => {
                let cost = cost_of(text).map_err(|error| FieldError::at("/max_cost_per_month", error.detail));
                self.errors.extend(cost.as_ref().err().cloned());
                cost.ok()
            }
        };
        Policies { concurrency, misfire, grace_ms, retry, max_cost_per_month }
    }

    /// The timetable of a timing, which may be as frequent as the installation allows.
    pub(super) fn timetable(&mut self, timing: &Timing) -> Option<Timetable> {
        let timetable = match Timetable::new(&timing.rule, timing.start_ms, timing.end_ms) {
            Ok(timetable) => timetable,
            Err(error) => {
                self.wrong(pointer(&error), error.to_string());
                return None;
            }
        };
        let least_ms = self.app.config().schedule_seconds.saturating_mul(1_000);
        if timetable.shortest_gap_ms() < least_ms {
            let pointer = match &timing.rule {
                Rule::Cron { .. } => "/cron",
                Rule::Every { .. } => "/every",
            };
            let least = self.app.config().schedule_seconds;
            self.wrong(pointer, format!("must leave at least {least} seconds between two ticks"));
            return None;
        }
        if timetable.next_after(self.now_ms).is_none() {
            self.wrong("/end", "leaves no tick: the schedule would never be due");
            return None;
        }
        Some(timetable)
    }

    /// What was found.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(Problem::new(ProblemId::Invalid).errors(self.errors)),
        }
    }
}

/// Where a request says what a rule is refused for.
fn pointer(error: &RuleError) -> &'static str {
    match error {
        RuleError::Pattern(_) => "/cron",
        RuleError::Zone(_) => "/timezone",
        RuleError::Seconds(_) => "/every",
        RuleError::Start(_) => "/start",
        RuleError::End(_) => "/end",
    }
}
