//! The counting. Names of invariants are those of the table in `docs/faults.md`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use super::history::{Allowed, Found, History};
use super::journal::{Answer, Attempt};

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Invariant {
    /// Every acknowledged row has an outcome.
    NothingLost,
    /// Every outcome is of a row that was asked for, and of that row.
    NothingUnexpected,
    /// No row has two outcomes.
    OneOutcome,
    /// An outcome that was given out stays as it is.
    NothingChanged,
    /// Of a submit of unknown outcome all rows are there or none, in one batch; of a refused one none.
    AllOrNothing,
    /// Submitted = waiting + leased + parked + settled, whenever it is looked at.
    Conservation,
    /// Only items begun and unsettled at a death repeat their calls.
    BoundedCalls,
    /// No call after an outcome was given out.
    NoLateCall,
    /// What cannot be taken is refused with a status that says so.
    Honesty,
    /// Memory stays bounded.
    Memory,
}

/// The row of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Rows of submits that were acknowledged.
    pub(crate) acked: u64,
    /// Rows of submits of unknown outcome that are there.
    pub(crate) recovered: u64,
    /// Acknowledged rows without an outcome.
    pub(crate) lost: u64,
    /// Outcomes nobody asked for, or of another row.
    pub(crate) unexpected: u64,
    /// Outcomes beyond a row's first.
    pub(crate) duplicated: u64,
    /// Outcomes that were given out and are another or gone.
    pub(crate) changed: u64,
    /// Submits of which some rows are there and some not, or which made two batches.
    pub(crate) partial: u64,
    /// Calls beyond those recorded with the outcomes.
    pub(crate) extra_calls: u64,
    /// Calls begun after the row's outcome was given out.
    pub(crate) late_calls: u64,
}

/// Counts, and every invariant that broke with what broke it.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) counts: Counts,
    pub(crate) broken: BTreeMap<Invariant, String>,
}

impl Verdict {
    /// Fails the test unless everything held.
    #[track_caller]
    pub(crate) fn check(&self, what: &str) {
        let mut words = String::new();
        for (invariant, why) in &self.broken {
            let _ = write!(words, "\n  {invariant:?}: {why}");
        }
        assert!(self.broken.is_empty(), "{what}: {:?}{words}", self.counts);
    }

    fn note(&mut self, invariant: Invariant, broken: bool, why: impl FnOnce() -> String) {
        if broken {
            self.broken.entry(invariant).or_insert_with(why);
        }
    }
}

/// Judges a run.
pub(crate) fn judge(history: &History, allowed: &Allowed) -> Verdict {
    let mut verdict = Verdict { counts: Counts::default(), broken: BTreeMap::new() };
    let mut outcomes: HashMap<&str, Vec<&Found>> = HashMap::new();
    for found in &history.export {
        outcomes.entry(&found.marker).or_default().push(found);
    }
    judge_rows(&mut verdict, history, &outcomes);
    judge_submits(&mut verdict, history, &outcomes, allowed);
    judge_sightings(&mut verdict, history, &outcomes);
    judge_calls(&mut verdict, history, &outcomes, allowed);
    for counted in &history.counts {
        let sum = counted.places.iter().fold(0_u64, |sum, place| sum.saturating_add(*place));
        // A batch that is not submitted yet has no heads.
        verdict.note(Invariant::Conservation, sum != counted.rows && sum != 0, || format!("{counted:?}"));
    }
    verdict.note(Invariant::Memory, history.peak_kib > allowed.peak_kib, || {
        format!("{} KiB at the most, {} allowed", history.peak_kib, allowed.peak_kib)
    });
    verdict
}

type Outcomes<'a> = HashMap<&'a str, Vec<&'a Found>>;

/// How the submits with one key stand together: acknowledged if any was, refused if all were.
fn by_key(attempts: &[Attempt]) -> BTreeMap<&str, (&Attempt, Answer)> {
    let mut keys: BTreeMap<&str, (&Attempt, Answer)> = BTreeMap::new();
    for attempt in attempts {
        let (_, answer) = keys.entry(&attempt.key).or_insert((attempt, attempt.answer.clone()));
        match (&*answer, &attempt.answer) {
            (Answer::Acked, _) | (Answer::Unknown, Answer::Refused(_)) => {}
            (_, new) => *answer = new.clone(),
        }
    }
    keys
}

fn judge_rows(verdict: &mut Verdict, history: &History, outcomes: &Outcomes<'_>) {
    let asked: HashSet<&str> =
        history.attempts.iter().flat_map(|attempt| &attempt.markers).map(String::as_str).collect();
    let (mut unexpected, mut doubled) = (Vec::new(), Vec::new());
    for (marker, found) in outcomes {
        for one in found {
            let foreign = one.echoed.as_ref().is_some_and(|echoed| echoed != marker);
            if foreign || !asked.contains(marker) {
                unexpected.push(format!("{marker} {}", one.whole));
            }
        }
        if found.len() > 1 {
            doubled.push(format!("{marker} has {} outcomes", found.len()));
            verdict.counts.duplicated += found.len() as u64 - 1;
        }
    }
    verdict.counts.unexpected = unexpected.len() as u64;
    verdict.note(Invariant::NothingUnexpected, !unexpected.is_empty(), || unexpected.swap_remove(0));
    verdict.note(Invariant::OneOutcome, !doubled.is_empty(), || doubled.swap_remove(0));
}

fn judge_submits(verdict: &mut Verdict, history: &History, outcomes: &Outcomes<'_>, allowed: &Allowed) {
    for (key, (attempt, answer)) in by_key(&history.attempts) {
        let there = attempt.markers.iter().filter(|marker| outcomes.contains_key(marker.as_str())).count();
        let rows = attempt.markers.len();
        let batches: BTreeSet<&str> = attempt
            .markers
            .iter()
            .filter_map(|marker| outcomes.get(marker.as_str()))
            .flatten()
            .map(|found| found.batch.as_str())
            .collect();
        let torn = match answer {
            Answer::Acked => {
                verdict.counts.acked += rows as u64;
                verdict.counts.lost += (rows - there) as u64;
                verdict
                    .note(Invariant::NothingLost, there < rows, || format!("{key}: {there} of {rows} rows"));
                false
            }
            Answer::Unknown => {
                verdict.counts.recovered += there as u64;
                there != 0 && there != rows
            }
            Answer::Refused(status) => {
                verdict.note(Invariant::Honesty, !allowed.refusals.contains(&status), || {
                    format!("{key} was refused with {status}")
                });
                there != 0
            }
        };
        let torn = torn || batches.len() > 1;
        verdict.counts.partial += u64::from(torn);
        verdict.note(Invariant::AllOrNothing, torn, || {
            format!("{key}, {answer:?}: {there} of {rows} rows in {} batches", batches.len())
        });
    }
}

fn judge_sightings(verdict: &mut Verdict, history: &History, outcomes: &Outcomes<'_>) {
    let mut first: HashMap<&str, &str> = HashMap::new();
    let mut late: HashSet<u64> = HashSet::new();
    for sighting in &history.sightings {
        for seen in &sighting.found {
            let before = *first.entry(&seen.marker).or_insert(&seen.whole);
            let last = outcomes.get(seen.marker.as_str()).and_then(|found| found.first());
            let changed = before != seen.whole || last.is_none_or(|last| last.whole != seen.whole);
            verdict.counts.changed += u64::from(changed);
            verdict.note(Invariant::NothingChanged, changed, || {
                format!("{} became {}", seen.whole, last.map_or("nothing", |last| &last.whole))
            });
            let calls = history.calls.get(&seen.marker).map_or(&[][..], Vec::as_slice);
            late.extend(calls.iter().filter(|call| **call >= sighting.calls_before));
        }
    }
    verdict.counts.late_calls = late.len() as u64;
    verdict.note(Invariant::NoLateCall, !late.is_empty(), || {
        format!("{} calls for rows whose outcome had been given out", late.len())
    });
}

fn judge_calls(verdict: &mut Verdict, history: &History, outcomes: &Outcomes<'_>, allowed: &Allowed) {
    let mut repeated = 0_u64;
    for (marker, calls) in &history.calls {
        let recorded = outcomes.get(marker.as_str()).map_or(0, |found| found[0].calls);
        let extra = (calls.len() as u64).saturating_sub(recorded);
        verdict.counts.extra_calls += extra;
        repeated += u64::from(extra > 0);
        verdict.note(Invariant::BoundedCalls, extra > allowed.deaths * allowed.calls_per_item, || {
            format!("{marker} was called {} times, {recorded} are recorded", calls.len())
        });
    }
    verdict.note(Invariant::BoundedCalls, repeated > allowed.deaths * allowed.slots, || {
        format!("{repeated} rows were called again after {} deaths", allowed.deaths)
    });
}
