//! What a look decides, against the plain rule and over many looks.

use promptmill_ticks::{Due, MOST_LATEST, MOST_RUNS, Misfire, Missed, Rule, Timetable, due};
use proptest::prelude::*;

use crate::support::{after, cron, every, ms};
use crate::timetables::{any_ms, any_rule, near_a_change};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Every minute from the first moment of 1970 on: the nth minute is the nth tick.
fn minutes() -> Timetable {
    every(60, 0)
}

fn at(minute: u64) -> u64 {
    minute * MINUTE_MS
}

/// The whole minutes of a range.
fn ticks(minutes: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    minutes.map(at).collect()
}

fn missed(minutes: std::ops::RangeInclusive<u64>) -> Option<Missed> {
    let (first, last) = (*minutes.start(), *minutes.end());
    let named = last.saturating_sub(MOST_LATEST as u64 - 1).max(first);
    let (first_ms, last_ms, count) = (at(first), at(last), last - first + 1);
    Some(Missed { first_ms, last_ms, count, is_exact: true, latest: ticks(named..=last) })
}

#[test]
fn nothing_is_due_before_the_next_tick_and_the_next_look_begins_there() {
    let nothing = |next_ms| Due { run: vec![], missed: None, next_ms };
    assert_eq!(due(&minutes(), at(5), at(5) - 1, 0, Misfire::RunOnce), nothing(Some(at(5))));
    assert_eq!(due(&minutes(), at(5) - 1, at(5) - 1, 0, Misfire::RunOnce), nothing(Some(at(5))));
    assert_eq!(due(&minutes(), at(5), 0, u64::MAX, Misfire::RunOnce), nothing(Some(at(5))));
    assert_eq!(due(&minutes(), u64::MAX, u64::MAX, u64::MAX, Misfire::RunOnce), nothing(None));
}

#[test]
fn a_tick_that_is_on_time_runs_whatever_the_policy() {
    for misfire in
        [Misfire::RunOnce, Misfire::RunEach { most: 0 }, Misfire::RunEach { most: 9 }, Misfire::Skip]
    {
        let look = Due { run: vec![at(5)], missed: None, next_ms: Some(at(6)) };
        assert_eq!(due(&minutes(), at(5), at(5), 0, misfire), look);
        assert_eq!(due(&minutes(), at(5), at(5) + 30_000, 30_000, misfire), look);
        // The first tick of all, at zero, has nothing before it.
        let look = Due { run: vec![0], missed: None, next_ms: Some(at(1)) };
        assert_eq!(due(&minutes(), 0, 10, u64::MAX, misfire), look);
    }
}

#[test]
fn of_late_ticks_the_latest_runs_once() {
    let look = due(&minutes(), at(5), at(9) + 30_000, 1_000, Misfire::RunOnce);
    assert_eq!(look, Due { run: vec![at(9)], missed: missed(5..=8), next_ms: Some(at(10)) });
    let look = due(&minutes(), at(9), at(9) + 1_001, 1_000, Misfire::RunOnce);
    assert_eq!(look, Due { run: vec![at(9)], missed: None, next_ms: Some(at(10)) });
}

#[test]
fn a_tick_that_is_on_time_stands_for_the_late_ones() {
    let look = due(&minutes(), at(5), at(9) + 500, 1_000, Misfire::RunOnce);
    assert_eq!(look, Due { run: vec![at(9)], missed: missed(5..=8), next_ms: Some(at(10)) });
    let look = due(&minutes(), at(5), at(9) + 500, MINUTE_MS + 500, Misfire::RunOnce);
    assert_eq!(look, Due { run: ticks(8..=9), missed: missed(5..=7), next_ms: Some(at(10)) });
}

#[test]
fn the_latest_late_ticks_run_each_beside_those_on_time() {
    let look = due(&minutes(), at(5), at(9) + 500, 1_000, Misfire::RunEach { most: 2 });
    assert_eq!(look, Due { run: ticks(7..=9), missed: missed(5..=6), next_ms: Some(at(10)) });
    let look = due(&minutes(), at(5), at(9) + 500, 1_000, Misfire::RunEach { most: u32::MAX });
    assert_eq!(look, Due { run: ticks(5..=9), missed: None, next_ms: Some(at(10)) });
    let look = due(&minutes(), at(5), at(9) + 500, 1_000, Misfire::RunEach { most: 0 });
    assert_eq!(look, Due { run: ticks(9..=9), missed: missed(5..=8), next_ms: Some(at(10)) });
}

#[test]
fn late_ticks_that_are_skipped_are_missed() {
    let look = due(&minutes(), at(5), at(9) + 30_000, 1_000, Misfire::Skip);
    assert_eq!(look, Due { run: vec![], missed: missed(5..=9), next_ms: Some(at(10)) });
}

#[test]
fn more_than_a_thousand_runs_are_left_for_the_next_look() {
    let look = due(&minutes(), at(0), at(2_500), DAY_MS * 2, Misfire::Skip);
    assert_eq!(look, Due { run: ticks(0..=999), missed: None, next_ms: Some(at(1_000)) });
    let look = due(&minutes(), at(1_000), at(2_500), DAY_MS * 2, Misfire::Skip);
    assert_eq!(look, Due { run: ticks(1_000..=1_999), missed: None, next_ms: Some(at(2_000)) });
    let look = due(&minutes(), at(2_000), at(2_500), DAY_MS * 2, Misfire::Skip);
    assert_eq!(look, Due { run: ticks(2_000..=2_500), missed: None, next_ms: Some(at(2_501)) });
    // Late ones and those on time together.
    let look = due(&minutes(), at(0), at(2_000), at(500), Misfire::RunEach { most: 700 });
    assert_eq!(look, Due { run: ticks(800..=1_799), missed: missed(0..=799), next_ms: Some(at(1_800)) });
}

#[test]
fn years_of_sleep_cost_no_more_than_a_few_thousand_steps() {
    let (from, now) = (ms("1980-01-01T00:00:00Z"), ms("2025-06-01T00:00:00Z"));
    let timetable = cron("* * * * * *", "Europe/Berlin");
    let look = due(&timetable, from, now, 0, Misfire::RunEach { most: 3 });
    assert_eq!(look.run, [now - 3_000, now - 2_000, now - 1_000, now]);
    assert_eq!(look.next_ms, Some(now + 1_000));
    let missed = look.missed.unwrap();
    assert_eq!((missed.first_ms, missed.last_ms), (from, now - 4_000));
    assert_eq!((missed.count, missed.is_exact, missed.latest.len()), (1_000, false, MOST_LATEST));

    // An interval is counted by arithmetic.
    let missed = due(&every(1, from), from, now, 0, Misfire::RunOnce).missed.unwrap();
    assert_eq!((missed.count, missed.is_exact), ((now - from) / 1_000, true));
}

#[test]
fn the_end_of_a_timetable_ends_the_looks() {
    let rule = Rule::Every { seconds: 60, from_ms: 0 };
    let timetable = Timetable::new(&rule, None, Some(at(9))).unwrap();
    let look = due(&timetable, at(5), u64::MAX, 0, Misfire::RunOnce);
    assert_eq!(look, Due { run: vec![at(9)], missed: missed(5..=8), next_ms: None });
    assert_eq!(due(&timetable, at(10), u64::MAX, 0, Misfire::RunOnce).next_ms, None);
}

#[test]
fn a_repeated_hour_is_two_ticks_and_a_left_out_one_none() {
    let timetable = cron("0 2,5 * * *", "Europe/Berlin");
    let (first, second) = (ms("2025-10-26T02:00:00+02:00"), ms("2025-10-26T02:00:00+01:00"));
    let five = ms("2025-10-26T05:00:00+01:00");
    let look = due(&timetable, first, five, 0, Misfire::RunEach { most: 9 });
    assert_eq!(look.run, [first, second, five]);
    let spring = ms("2025-03-30T00:00:00+01:00");
    let look = due(&timetable, spring, ms("2025-03-30T12:00:00+02:00"), 0, Misfire::RunEach { most: 9 });
    assert_eq!(look.run, [ms("2025-03-30T05:00:00+02:00")]);
}

fn any_misfire() -> impl Strategy<Value = Misfire> {
    let most = prop_oneof![4 => 0..30_u32, 1 => Just(u32::MAX)];
    prop_oneof![Just(Misfire::RunOnce), Just(Misfire::Skip), most.prop_map(|most| Misfire::RunEach { most })]
}

fn any_span() -> impl Strategy<Value = u64> {
    prop_oneof![0..10_000_u64, 0..10 * MINUTE_MS, 0..2 * DAY_MS, 0..400 * DAY_MS]
}

/// The rule, word by word, of as many ticks as there may be.
fn plainly(ticks: &[u64], now: u64, grace: u64, misfire: Misfire) -> (Vec<u64>, Vec<u64>) {
    let (late, on_time): (Vec<u64>, Vec<u64>) = ticks.iter().partition(|tick| now - **tick > grace);
    let late_runs = match misfire {
        Misfire::RunOnce if on_time.is_empty() => 1,
        Misfire::RunOnce | Misfire::Skip => 0,
        Misfire::RunEach { most } => most as usize,
    };
    let (missed, late_runs) = late.split_at(late.len() - late_runs.min(MOST_RUNS).min(late.len()));
    let run = [late_runs, &on_time].concat();
    (missed.to_vec(), run.into_iter().take(MOST_RUNS).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_look_decides_as_the_rule_says(
        rule in any_rule(),
        from in prop_oneof![any_ms(), near_a_change()],
        slept in any_span(),
        grace in prop_oneof![any_span(), Just(0), Just(u64::MAX)],
        misfire in any_misfire(),
    ) {
        let timetable = Timetable::new(&rule, None, None).unwrap();
        let now = from + slept;
        let look = due(&timetable, from, now, grace, misfire);
        prop_assert!(look.run.len() <= MOST_RUNS);

        const MOST: usize = 3_000;
        let ticks: Vec<u64> = after(&timetable, from - 1).take_while(|tick| *tick <= now).take(MOST).collect();
        if ticks.len() == MOST {
            // Too many to tell them all: those that are named are right.
            let named: Vec<u64> = look.missed.iter().flat_map(|missed| &missed.latest).chain(&look.run).copied().collect();
            prop_assert!(named.iter().zip(&named[1..]).all(|(one, next)| timetable.next_after(*one) == Some(*next)));
            prop_assert_eq!(look.missed.as_ref().map(|missed| missed.first_ms).or(look.run.first().copied()), Some(ticks[0]));
            prop_assert_eq!(look.next_ms, timetable.next_after(*named.last().unwrap()));
            return Ok(());
        }
        let (missed, run) = plainly(&ticks, now, grace, misfire);
        prop_assert_eq!(&look.run, &run);
        let left = ticks.get(missed.len() + run.len()).copied();
        prop_assert_eq!(look.next_ms, left.or(timetable.next_after(now)));
        match look.missed {
            None => prop_assert!(missed.is_empty()),
            Some(said) => {
                prop_assert_eq!(Some(&said.first_ms), missed.first());
                prop_assert_eq!(Some(&said.last_ms), missed.last());
                prop_assert_eq!(said.latest, &missed[missed.len().saturating_sub(MOST_LATEST)..]);
                let is_counted = matches!(rule, Rule::Every { .. }) || missed.len() <= 1_000;
                prop_assert_eq!(said.is_exact, is_counted);
                prop_assert_eq!(said.count, if is_counted { missed.len() as u64 } else { 1_000 });
            }
        }
    }

    /// The clock goes on, stands still, jumps and goes back between the looks, and the policy is changed.
    #[test]
    fn no_tick_is_decided_twice_or_left_out_whatever_the_clock_does(
        rule in any_rule(),
        from in prop_oneof![any_ms(), near_a_change()],
        looks in prop::collection::vec((any_span(), any::<bool>(), any_span(), any_misfire()), 1..12),
    ) {
        let timetable = Timetable::new(&rule, None, None).unwrap();
        let (mut next, mut now) = (from, from);
        let mut decided_until = from - 1;
        for (span, is_back, grace, misfire) in looks {
            now = if is_back { now.saturating_sub(span) } else { now + span };
            let look = due(&timetable, next, now, grace, misfire);
            let first = look.missed.as_ref().map(|missed| missed.first_ms).or(look.run.first().copied());
            if let Some(first) = first {
                prop_assert!(now >= next);
                // It goes on where the last look ended, and what it missed ends where its runs begin.
                prop_assert_eq!(Some(first), timetable.next_after(decided_until));
                let missed_last = look.missed.as_ref().map(|missed| missed.last_ms);
                if let (Some(last), Some(run)) = (missed_last, look.run.first()) {
                    prop_assert_eq!(timetable.next_after(last), Some(*run));
                }
                prop_assert!(look.run.iter().zip(&look.run[1.min(look.run.len())..]).all(|(one, run)| timetable.next_after(*one) == Some(*run)));
                decided_until = look.run.last().copied().or(missed_last).unwrap();
                prop_assert!(decided_until <= now);
            }
            prop_assert_eq!(look.next_ms, timetable.next_after(decided_until));
            let Some(undecided) = look.next_ms else { break };
            prop_assert!(undecided > now || look.run.len() == MOST_RUNS);
            next = undecided;
        }
    }
}
