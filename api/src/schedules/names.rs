//! The words of schedules, on the wire and in the OpenAPI document.

use promptmill_domain::schedule::{Concurrency, WhySkipped};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a tick does while an earlier run of its schedule goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConcurrencyName {
    /// It is skipped.
    Skip,
    /// It runs beside.
    Allow,
    /// It runs, and the earlier one is cancelled.
    Replace,
}

impl From<ConcurrencyName> for Concurrency {
    fn from(name: ConcurrencyName) -> Self {
        match name {
            ConcurrencyName::Skip => Self::Skip,
            ConcurrencyName::Allow => Self::Allow,
            ConcurrencyName::Replace => Self::Replace,
        }
    }
}

impl From<Concurrency> for ConcurrencyName {
    fn from(concurrency: Concurrency) -> Self {
        match concurrency {
            Concurrency::Skip => Self::Skip,
            Concurrency::Allow => Self::Allow,
            Concurrency::Replace => Self::Replace,
        }
    }
}

/// What becomes of ticks that are late when they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MisfireName {
    /// The newest of them runs, unless one runs that is on time.
    RunOnce,
    /// The newest of them run, at most `misfire_runs`.
    RunEach,
    /// None of them runs.
    Skip,
}

/// Whether a schedule goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ScheduleStateName {
    /// It does.
    Active,
    /// Not until it is resumed.
    Paused,
    /// Its last tick is over.
    Ended,
}

/// What became of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TickStateName {
    /// Its batch is to be made.
    Due,
    /// Its batch runs.
    Running,
    /// Rows of its batch failed, and run again soon.
    Again,
    /// Its batch ended.
    Ended,
    /// There was no run of it.
    Skipped,
    /// Its batch could not be made.
    Failed,
}

/// Why there was no run of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SkippedName {
    /// An earlier run went on.
    Overlaps,
    /// A later one took its place.
    Replaced,
    /// The runs of the month have spent what they may.
    Budget,
    /// The schedule was paused before it began.
    Paused,
    /// Nobody looked when it was due, and it is not made up for.
    Missed,
    /// No row of the run before came to what it takes.
    NoRows,
}

impl From<WhySkipped> for SkippedName {
    fn from(why: WhySkipped) -> Self {
        match why {
            WhySkipped::Overlaps => Self::Overlaps,
            WhySkipped::Replaced => Self::Replaced,
            WhySkipped::Budget => Self::Budget,
            WhySkipped::Paused => Self::Paused,
            WhySkipped::Missed => Self::Missed,
            WhySkipped::NoRows => Self::NoRows,
        }
    }
}
