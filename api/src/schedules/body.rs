//! What a client asks for when it makes or changes a schedule, checked.

use std::collections::BTreeMap;

use promptmill_domain::schedule::{
    HttpFormat, MAX_INTERVAL_SECONDS, MOST_JITTER_S, MOST_MADE_UP, MOST_RETRIES, Misfire, Policies,
    RetryFailed, Rule, Timing,
};
use promptmill_domain::{OutcomeName, Schedule};
use promptmill_egress::{extra_headers, vet_url};
use promptmill_ticks::{RuleError, Timetable};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::names::{ConcurrencyName, MisfireName};
use crate::App;
use crate::batches::draft::{NewBatchBody, check_name, cost_of};
use crate::outcome_view::OutcomeNames;
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
    /// Where the rows of each run come from, instead of `rows` of the batch; beside them with `previous_run` alone.
    #[schema(inline)]
    pub(super) rows_from: Option<RowsFrom>,
    /// What each run is: all that makes a batch, with its rows unless `rows_from` names others, but for `deadline`, for which `completion_window` stands. A stored
    /// template that is named without a version is the newest at each tick.
    pub(super) batch: NewBatchBody,
}

/// Where the rows of runs come from: a row set or a server, and the run before where there is one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowsFrom {
    /// A row set, by its name.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,99}$")]
    pub(super) row_set: Option<String>,
    /// Which of its versions; the newest at each tick unless told.
    #[schema(minimum = 1)]
    pub(super) version: Option<u32>,
    /// A server that is asked at each tick, with the ETag of what it gave before: JSON Lines, or CSV with a header row, plain or packed with gzip or zstd.
    #[schema(max_length = 2048, example = "https://example.com/cities.csv")]
    pub(super) url: Option<String>,
    /// How its rows are written; its Content-Type says it, or the end of the URL's path, unless told.
    #[schema(inline)]
    pub(super) format: Option<FormatName>,
    /// Headers of the request: `Authorization` and names that begin with `X-`, up to ten. They are kept encrypted, and only their names are shown.
    pub(super) headers: Option<BTreeMap<String, String>>,
    /// Takes the rows of the run before that came to one of these; of the first run, and where that was deleted, those that are named beside it.
    #[schema(value_type = Option<Vec<OutcomeNames>>, inline, min_items = 1, max_items = 4)]
    pub(super) previous_run: Option<Vec<OutcomeName>>,
}

/// How rows of a server are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FormatName {
    /// One JSON object per line.
    Ndjson,
    /// Comma separated values with a header row.
    Csv,
}

impl From<FormatName> for HttpFormat {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Ndjson => Self::Ndjson,
            FormatName::Csv => Self::Csv,
        }
    }
}

impl From<HttpFormat> for FormatName {
    fn from(format: HttpFormat) -> Self {
        match format {
            HttpFormat::Ndjson => Self::Ndjson,
            HttpFormat::Csv => Self::Csv,
        }
    }
}

/// What is to be different; what is left out stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ChangedSchedule)]
#[serde(deny_unknown_fields)]
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
    /// No tick lies before it; null takes that away.
    #[serde(default, deserialize_with = "told")]
    pub(super) start: Option<Option<Time>>,
    /// No tick lies after it; null takes that away.
    #[serde(default, deserialize_with = "told")]
    pub(super) end: Option<Option<Time>>,
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
    /// Where the rows of each run come from, with the `batch` that they are for.
    #[schema(inline)]
    pub(super) rows_from: Option<RowsFrom>,
    /// What each run is from now on, all of it. Rows stay where they come from a row set or a server and no others are named. A webhook at the same URL keeps its secret where none is sent.
    pub(super) batch: Option<NewBatchBody>,
}

/// What a member says, null too.
fn told<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// How rows that failed run again after a run.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
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
    app: &'a App,
    now_ms: u64,
    errors: Vec<FieldError>,
}

impl<'a> Checks<'a> {
    /// Nothing is wrong yet.
    pub(super) const fn new(app: &'a App, now_ms: u64) -> Self {
        Self { app, now_ms, errors: Vec::new() }
    }

    pub(super) fn wrong(&mut self, pointer: &str, detail: impl Into<String>) {
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

    /// Whether a batch is one that may recur.
    pub(super) fn batch(&mut self, batch: &NewBatchBody) {
        if batch.deadline.is_some() {
            self.wrong(
                "/batch/deadline",
                "has passed at later runs; use completion_window, which begins with each",
            );
        }
        if batch.rows.as_ref().is_some_and(Vec::is_empty) {
            self.wrong("/batch/rows", "must hold at least one row");
        }
    }

    /// Whether rows are named in one way: those of the batch, where it `has_rows`, or others. Where they are not named they are those that runs have
    /// `before`, but for those that came with the schedule.
    pub(super) fn rows(&mut self, has_rows: bool, from: Option<&RowsFrom>, before: Option<&Schedule>) {
        let none = RowsFrom::default();
        let RowsFrom { row_set, version, url, format, headers, previous_run } = from.unwrap_or(&none);
        match (has_rows, row_set.is_some(), url.is_some()) {
            (false, false, false) => match before {
                Some(before) if !before.has_own_rows() => {}
                Some(_) => self.wrong(
                    "/batch/rows",
                    "must be sent again, or rows_from: those that are kept were checked for what ran before",
                ),
                None if previous_run.is_some() => {
                    self.wrong(
                        "/batch/rows",
                        "or a row_set or url in rows_from is needed, for the first run",
                    );
                }
                None => self.wrong("/batch/rows", "or rows_from is needed"),
            },
            (true, false, false) if from.is_some() && previous_run.is_none() => {
                self.wrong("/rows_from", "must name a row_set, a url or a previous_run");
            }
            (true, false, false) | (false, true, false) | (false, false, true) => {}
            (true, _, _) => self.wrong("/rows_from", "stands for rows of the batch; leave one of them out"),
            (false, true, true) => self.wrong("/rows_from/url", "stands for row_set; leave one of them out"),
        }
        if version.is_some() && row_set.is_none() {
            self.wrong("/rows_from/version", "is of use only with row_set");
        }
        if format.is_some() && url.is_none() {
            self.wrong("/rows_from/format", "is of use only with url");
        }
        if headers.is_some() && url.is_none() {
            self.wrong("/rows_from/headers", "are of use only with url");
        }
        if previous_run.as_ref().is_some_and(Vec::is_empty) {
            self.wrong("/rows_from/previous_run", "must name at least one outcome");
        }
        if let Some(Err(refused)) = url.as_ref().map(|url| vet_url(url, &self.app.config().sources)) {
            self.wrong("/rows_from/url", refused.to_string());
        }
        if let Some(Err(refused)) = headers.as_ref().map(extra_headers) {
            self.wrong("/rows_from/headers", refused.to_string());
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

    /// A schedule with what is asked to be different, but for what it runs.
    pub(super) fn changed(&mut self, before: &Schedule, asked: &ChangedScheduleBody) -> Schedule {
        if let Some(name) = asked.name.as_deref().filter(|name| !name.is_empty()) {
            self.name(name);
        }
        let mut schedule = before.clone();
        let unix_ms = |time: Option<Time>| time.map(|time| time.0);
        let (cron, timezone) = (asked.cron.as_deref(), asked.timezone.as_deref());
        let rule = self.rule(cron, timezone, asked.every, asked.start.flatten(), Some(&before.timing.rule));
        let timing = rule.map(|rule| Timing {
            rule,
            start_ms: asked.start.map_or(before.timing.start_ms, unix_ms),
            end_ms: asked.end.map_or(before.timing.end_ms, unix_ms),
            jitter_ms: before.timing.jitter_ms,
        });
        if let Some(timing) = timing.filter(|timing| *timing != before.timing) {
            self.timetable(&timing);
            schedule.next_ms = next_ms(&timing, self.now_ms);
            schedule.timing = timing;
        }
        if let Some(jitter) = asked.jitter {
            schedule.timing.jitter_ms = self.jitter_ms(jitter);
        }
        if let Some(name) = &asked.name {
            schedule.name = (!name.is_empty()).then(|| name.clone());
        }
        schedule.policies = self.policies(&before.policies, asked.policies());
        schedule
    }

    /// What was found.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(Problem::new(ProblemId::Invalid).errors(self.errors)),
        }
    }
}

/// The first tick after now.
pub(super) fn next_ms(timing: &Timing, now_ms: u64) -> Option<u64> {
    let timetable = Timetable::new(&timing.rule, timing.start_ms, timing.end_ms).ok()?;
    timetable.next_after(now_ms)
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
