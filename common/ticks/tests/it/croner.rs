//! Our search against croner's own, at every change of the clock from 1993 to 2030.
//!
//! It asks jiff for the moment at which a wall clock shows a time. Ours only asks what the wall clock shows at a moment. Where croner
//! finds ticks they agree; where it does not stands here, and a fault that is mended must leave.

use std::collections::BTreeSet;

use ::croner::Cron;
use ::croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use promptmill_ticks::Timetable;

use crate::support::{after, cron, shown, until, zone};

/// Fixed ones, recurring ones, and some that do not match every day.
const PATTERNS: &[&str] = &[
    "30 2 * * *",
    "0 0 * * *",
    "0 12 * * *",
    "15 1 * * *",
    "59 59 23 * * *",
    "*/30 * * * *",
    "17 3,5 0-4,22,23 * * *",
    "30 2 * * 0",
    "45 0 1 * *",
    "0 12 L * *",
];

/// Those of the differential test, and those that ever left out more than two hours.
const ZONES: &[&str] = &[
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "America/Ciudad_Juarez",
    "America/Danmarkshavn",
    "America/Havana",
    "America/Metlakatla",
    "America/New_York",
    "America/Nuuk",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Casey",
    "Antarctica/Troll",
    "Antarctica/Vostok",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Asia/Ust-Nera",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Europe/Dublin",
    "Europe/Lisbon",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Fakaofo",
    "Pacific/Kiritimati",
    "Pacific/Kwajalein",
    "UTC",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// It looks no further than two hours for the end of a gap, and names no tick at all from there on.
    GivesUp,
    /// jiff names a moment at which the clock shows another time: croner goes back in time, leaves a tick out or panics. It is not asked.
    IsMisled,
}
use Fault::{GivesUp, IsMisled};

/// By zone and by what its clock shows at the change.
const FAULTS: &[(&str, &str, Fault)] = &[
    ("America/Danmarkshavn", "1996-01-01T03:00:00+00:00", GivesUp),
    ("America/Nuuk", "2023-10-28T23:00:00-02:00", IsMisled),
    ("Antarctica/Casey", "2009-10-18T05:00:00+11:00", GivesUp),
    ("Antarctica/Casey", "2011-10-28T05:00:00+11:00", GivesUp),
    ("Antarctica/Casey", "2016-10-22T03:00:00+11:00", GivesUp),
    ("Antarctica/Casey", "2020-10-04T03:01:00+11:00", GivesUp),
    ("Antarctica/Casey", "2021-10-03T03:01:00+11:00", GivesUp),
    ("Antarctica/Casey", "2022-10-02T03:01:00+11:00", GivesUp),
    ("Antarctica/Vostok", "1994-11-01T07:00:00+07:00", GivesUp),
    ("Pacific/Apia", "2011-12-31T00:00:00+14:00", GivesUp),
    ("Pacific/Fakaofo", "2011-12-31T00:00:00+13:00", GivesUp),
    ("Pacific/Kiritimati", "1995-01-01T00:00:00+14:00", GivesUp),
    ("Pacific/Kwajalein", "1993-08-22T00:00:00+12:00", GivesUp),
];

#[test]
fn ticks_are_where_croner_finds_them_but_for_its_known_faults() {
    let known: BTreeSet<_> =
        FAULTS.iter().map(|(zone, at, fault)| (*zone, (*at).to_owned(), *fault)).collect();
    let found: BTreeSet<_> = ZONES.iter().flat_map(|name| faults_in(name)).collect();
    let added: Vec<_> = found.difference(&known).collect();
    let mended: Vec<_> = known.difference(&found).collect();
    assert!(
        added.is_empty() && mended.is_empty(),
        "differences that are not listed: {added:#?}\nlisted and gone: {mended:#?}"
    );
}

fn faults_in(name: &'static str) -> BTreeSet<(&'static str, String, Fault)> {
    let zone = zone(name);
    let from: Timestamp = "1993-01-01T00:00:00Z".parse().unwrap();
    let until: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
    let changes = zone.following(from).map(|change| change.timestamp()).take_while(|at| *at < until);
    let both: Vec<_> = PATTERNS.iter().map(|pattern| (cron(pattern, name), croner(pattern))).collect();
    let mut faults = BTreeSet::new();
    for change in changes {
        let at = shown(change.as_millisecond().unsigned_abs(), &zone);
        if is_jiff_wrong(&zone, change) {
            faults.insert((name, at, IsMisled));
        } else if both.iter().any(|(timetable, croner)| gives_up(timetable, croner, &zone, change)) {
            faults.insert((name, at, GivesUp));
        }
    }
    faults
}

/// Both ways through the three days around a change, unless croner does not find them.
fn gives_up(timetable: &Timetable, croner: &Cron, zone: &TimeZone, change: Timestamp) -> bool {
    let (from, to) = (change.as_second() - 36 * 3_600, change.as_second() + 36 * 3_600);
    let in_ms = |second: i64| second.unsigned_abs() * 1_000;
    let seconds =
        |ticks: Vec<u64>| ticks.into_iter().map(|tick| (tick / 1_000).cast_signed()).collect::<Vec<_>>();
    let ours = seconds(after(timetable, in_ms(from)).take_while(|tick| *tick < in_ms(to)).collect());
    let mut ours_back =
        seconds(until(timetable, in_ms(to) - 1).take_while(|tick| *tick > in_ms(from)).collect());
    ours_back.reverse();
    assert_eq!(ours, ours_back, "`{croner}` in {zone:?} around {change}");

    let forward = theirs(croner, zone, from, |tick| tick < to, Cron::find_next_occurrence);
    let back = theirs(croner, zone, to, |tick| tick > from, Cron::find_previous_occurrence);
    let (Some(forward), Some(mut back)) = (forward, back) else { return true };
    back.reverse();
    assert_eq!(forward, ours, "`{croner}` in {zone:?} around {change}");
    assert_eq!(back, ours, "`{croner}` in {zone:?} around {change}, backwards");
    false
}

/// Whether there is a time next to the change that the clock shows, but not at the moment that jiff names for it.
fn is_jiff_wrong(zone: &TimeZone, change: Timestamp) -> bool {
    let moments = (-18..18).map(|step| change + SignedDuration::from_mins(10 * step + 5));
    moments.map(|moment| moment.to_zoned(zone.clone()).datetime()).any(|time| {
        let named = zone.to_ambiguous_zoned(time).earlier().unwrap();
        named.timestamp().to_zoned(zone.clone()).datetime() != time
    })
}

fn croner(pattern: &str) -> Cron {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(pattern).unwrap()
}

/// What croner names, one after the other; `None` if it gives up.
fn theirs(
    cron: &Cron,
    zone: &TimeZone,
    from: i64,
    is_in: impl Fn(i64) -> bool,
    step: impl Fn(&Cron, &Zoned, bool) -> Result<Zoned, ::croner::errors::CronError>,
) -> Option<Vec<i64>> {
    let mut ticks = vec![from];
    loop {
        let last = ticks[ticks.len() - 1];
        let zoned = Timestamp::from_second(last).unwrap().to_zoned(zone.clone());
        let tick = step(cron, &zoned, false).ok()?.timestamp().as_second();
        if !is_in(tick) {
            ticks.remove(0);
            return Some(ticks);
        }
        ticks.push(tick);
    }
}
