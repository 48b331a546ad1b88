//! What was seen of a run, put together for the judge.

use std::collections::BTreeMap;
use std::time::Duration;

use promptmill_doubles::Snapshot;
use serde_json::Value;

use super::journal::Attempt;

/// An outcome as it was given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The batch it was found in.
    pub(crate) batch: String,
    /// The row's marker.
    pub(crate) marker: String,
    /// The marker that stands in the reply, where there is a reply: another one is another row's outcome.
    pub(crate) echoed: Option<String>,
    /// Calls the engine says it made for the row.
    pub(crate) calls: u64,
    /// Everything about it, to tell whether it changed.
    pub(crate) whole: String,
}

impl Found {
    /// From one line of results, whose `custom_id` is the marker.
    pub(crate) fn of_line(batch: &str, line: &Value) -> Self {
        let text = line["output"].as_str();
        let echoed = text.and_then(|text| {
            let (_, behind) = text.rsplit_once("(row ")?;
            Some(behind.split(')').next()?.to_owned())
        });
        Self {
            batch: batch.to_owned(),
            marker: line["custom_id"].as_str().unwrap_or_default().to_owned(),
            echoed,
            calls: line["calls"].as_u64().unwrap_or_default(),
            whole: line.to_string(),
        }
    }
}

/// Outcomes that were given out before the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sighting {
    pub(crate) found: Vec<Found>,
    /// How many calls the provider had seen once they had been read: a call with this number or a later one was begun after that.
    pub(crate) calls_before: u64,
}

/// Counts of one batch at one moment, as the API gave them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) rows: u64,
    /// Waiting, leased, parked and settled.
    pub(crate) places: [u64; 4],
}

impl Counted {
    /// From a batch as the API shows it.
    pub(crate) fn of_batch(view: &Value) -> Self {
        let count = |name: &str| view["counts"][name].as_u64().unwrap_or(u64::MAX);
        Self {
            rows: view["rows"].as_u64().unwrap_or_default(),
            places: ["waiting", "leased", "parked", "settled"].map(count),
        }
    }
}

/// A run.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// From the client's journal.
    pub(crate) attempts: Vec<Attempt>,
    /// Given out before the end, in order.
    pub(crate) sightings: Vec<Sighting>,
    /// Given out at the end, after everything was drained.
    pub(crate) export: Vec<Found>,
    /// For each marker the number of every call begun, counted over all markers.
    pub(crate) calls: BTreeMap<String, Vec<u64>>,
    /// Counts at any moments.
    pub(crate) counts: Vec<Counted>,
    /// From the last fault to the end of all work.
    pub(crate) recovery: Duration,
    /// The most memory any engine process had, KiB; 0 where it was not looked at.
    pub(crate) peak_kib: u64,
}

impl History {
    /// Takes the calls of a ledger behind those that are there.
    pub(crate) fn add_calls(&mut self, ledger: &Snapshot) {
        let before = self.calls.values().flatten().max().map_or(0, |last| last + 1);
        for (marker, record) in &ledger.markers {
            let calls = record.history.iter().map(|call| before + call.seq);
            self.calls.entry(marker.clone()).or_default().extend(calls);
        }
    }
}

/// What the scenario allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// How often a process died, or was taken for dead, while it held items.
    pub(crate) deaths: u64,
    /// The most items such a process may have begun and not settled.
    pub(crate) slots: u64,
    /// The most calls one item needs when nobody dies.
    pub(crate) calls_per_item: u64,
    /// Statuses by which a submit may be refused.
    pub(crate) refusals: &'static [u16],
    /// The most memory, KiB.
    pub(crate) peak_kib: u64,
}

impl Allowed {
    /// No death, one call an item, no refusal, and memory that was not looked at.
    pub(crate) const NOTHING: Self =
        Self { deaths: 0, slots: 0, calls_per_item: 1, refusals: &[], peak_kib: u64::MAX };
}
