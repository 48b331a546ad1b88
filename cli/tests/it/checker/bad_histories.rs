//! Histories that are bad in one way each: the checker names exactly that way. And a good one that it leaves alone.

use std::collections::BTreeMap;

use super::history::{Allowed, Counted, Found, History, Sighting};
use super::journal::{Answer, Attempt};
use super::judge::{Invariant, judge};

/// One death with four items begun.
const ALLOWED: Allowed =
    Allowed { deaths: 1, slots: 4, refusals: &[507], peak_kib: 1_000, ..Allowed::NOTHING };

fn attempt(key: &str, markers: &[&str], answer: Answer) -> Attempt {
    Attempt { key: key.into(), markers: markers.iter().map(|marker| (*marker).to_owned()).collect(), answer }
}

fn found(batch: &str, marker: &str) -> Found {
    Found {
        batch: batch.into(),
        marker: marker.into(),
        echoed: Some(marker.into()),
        calls: 1,
        whole: format!("outcome of {marker}"),
    }
}

/// Three rows acknowledged, two that came out of an unknown answer, two that did not, two refused; one was called again after a death.
fn good() -> History {
    let calls = [("a", vec![0]), ("b", vec![1, 5]), ("c", vec![2]), ("d", vec![3]), ("e", vec![4])];
    History {
        attempts: vec![
            attempt("acked", &["a", "b", "c"], Answer::Acked),
            attempt("unknown", &["d", "e"], Answer::Unknown),
            attempt("never", &["f", "g"], Answer::Unknown),
            attempt("full", &["h", "i"], Answer::Refused(507)),
        ],
        sightings: vec![Sighting { found: vec![found("1", "a")], calls_before: 5 }],
        export: ["a", "b", "c"]
            .map(|marker| found("1", marker))
            .into_iter()
            .chain(["d", "e"].map(|marker| found("2", marker)))
            .collect(),
        calls: calls
            .into_iter()
            .map(|(marker, calls)| (marker.to_owned(), calls))
            .collect::<BTreeMap<_, _>>(),
        counts: vec![Counted { rows: 3, places: [1, 1, 0, 1] }, Counted { rows: 3, places: [0; 4] }],
        peak_kib: 900,
        ..History::default()
    }
}

/// Exactly this invariant breaks once the history is bent.
#[track_caller]
fn check_red(invariant: Invariant, bend: impl FnOnce(&mut History)) {
    let mut history = good();
    bend(&mut history);
    let broken: Vec<_> = judge(&history, &ALLOWED).broken.into_keys().collect();
    assert_eq!(broken, [invariant]);
}

#[test]
fn a_good_history_is_green_and_counted() {
    let verdict = judge(&good(), &ALLOWED);
    verdict.check("good");
    let counts = verdict.counts;
    assert_eq!((counts.acked, counts.recovered, counts.extra_calls), (3, 2, 1));
    assert_eq!(
        (
            counts.lost,
            counts.unexpected,
            counts.duplicated,
            counts.changed,
            counts.partial,
            counts.late_calls
        ),
        (0, 0, 0, 0, 0, 0)
    );
}

#[test]
fn a_lost_row_is_red() {
    check_red(Invariant::NothingLost, |history| history.export.retain(|found| found.marker != "c"));
}

#[test]
fn a_doubled_outcome_is_red() {
    check_red(Invariant::OneOutcome, |history| history.export.push(found("1", "c")));
}

#[test]
fn an_outcome_nobody_asked_for_is_red() {
    check_red(Invariant::NothingUnexpected, |history| history.export.push(found("1", "z")));
}

#[test]
fn an_outcome_of_another_row_is_red() {
    check_red(Invariant::NothingUnexpected, |history| history.export[1].echoed = Some("c".into()));
}

#[test]
fn an_outcome_that_changed_is_red() {
    check_red(Invariant::NothingChanged, |history| history.export[0].whole = "another".into());
    check_red(Invariant::NothingChanged, |history| {
        let mut other = found("1", "b");
        other.whole = "another".into();
        history.sightings.push(Sighting { found: vec![other], calls_before: 6 });
    });
}

#[test]
fn an_outcome_that_vanished_is_red_even_where_the_row_was_never_acknowledged() {
    let bend = |history: &mut History| {
        history.sightings.push(Sighting { found: vec![found("3", "f"), found("3", "g")], calls_before: 6 });
    };
    check_red(Invariant::NothingChanged, bend);
}

#[test]
fn a_call_after_a_durable_outcome_is_red_even_within_the_bound_of_deaths() {
    check_red(Invariant::NoLateCall, |history| {
        history.calls.get_mut("a").unwrap().push(9);
    });
}

#[test]
fn more_repeated_calls_than_deaths_explain_are_red() {
    check_red(Invariant::BoundedCalls, |history| {
        history.calls.get_mut("b").unwrap().push(9);
    });
    check_red(Invariant::BoundedCalls, |history| {
        for (marker, calls) in &mut history.calls {
            // The row with an early sighting is left out, or its call would be late as well.
            if marker != "a" && marker != "b" {
                calls.push(9);
            }
        }
        history.calls.insert("f".into(), vec![10]);
    });
}

#[test]
fn a_partial_batch_is_red() {
    check_red(Invariant::AllOrNothing, |history| history.export.retain(|found| found.marker != "d"));
    check_red(Invariant::AllOrNothing, |history| history.export.push(found("3", "h")));
}

#[test]
fn a_key_that_made_two_batches_is_red() {
    check_red(Invariant::AllOrNothing, |history| history.export[4].batch = "3".into());
}

#[test]
fn a_repeated_submit_counts_as_acknowledged_when_one_of_its_attempts_was() {
    let mut history = good();
    history.attempts.push(attempt("never", &["f", "g"], Answer::Acked));
    let verdict = judge(&history, &ALLOWED);
    assert_eq!((verdict.counts.acked, verdict.counts.lost), (5, 2));
    // A refusal after an unknown answer does not say that the first attempt did nothing.
    let mut history = good();
    history.attempts.push(attempt("unknown", &["d", "e"], Answer::Refused(507)));
    judge(&history, &ALLOWED).check("still unknown");
}

#[test]
fn counts_that_do_not_add_up_are_red() {
    check_red(Invariant::Conservation, |history| history.counts[0].places[0] = 0);
}

#[test]
fn a_refusal_that_does_not_say_why_is_red() {
    check_red(Invariant::Honesty, |history| history.attempts[3].answer = Answer::Refused(500));
}

#[test]
fn memory_above_its_bound_is_red() {
    check_red(Invariant::Memory, |history| history.peak_kib = 1_001);
}
