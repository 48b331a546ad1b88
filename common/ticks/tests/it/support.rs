//! Timetables and moments as people write them.

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use promptmill_ticks::{Rule, RuleError, Timetable};

pub(crate) fn cron_rule(pattern: &str, zone: &str) -> Rule {
    Rule::Cron { pattern: pattern.to_owned(), zone: zone.to_owned() }
}

pub(crate) fn try_cron(pattern: &str, zone: &str) -> Result<Timetable, RuleError> {
    Timetable::new(&cron_rule(pattern, zone), None, None)
}

#[track_caller]
pub(crate) fn cron(pattern: &str, zone: &str) -> Timetable {
    try_cron(pattern, zone).unwrap_or_else(|error| panic!("`{pattern}` in {zone}: {error}"))
}

#[track_caller]
pub(crate) fn every(seconds: u64, from_ms: u64) -> Timetable {
    Timetable::new(&Rule::Every { seconds, from_ms }, None, None).unwrap()
}

/// `2025-03-30T02:30:00+01:00` in Unix milliseconds.
#[track_caller]
pub(crate) fn ms(text: &str) -> u64 {
    text.parse::<Timestamp>().unwrap().as_millisecond().try_into().unwrap()
}

pub(crate) fn zone(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).unwrap()
}

/// `2025-03-30T02:30:00+01:00` for Unix milliseconds.
pub(crate) fn shown(ms: u64, zone: &TimeZone) -> String {
    let zoned = Timestamp::from_millisecond(ms.try_into().unwrap()).unwrap().to_zoned(zone.clone());
    zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

pub(crate) fn after(timetable: &Timetable, after_ms: u64) -> impl Iterator<Item = u64> + '_ {
    std::iter::successors(timetable.next_after(after_ms), |tick| timetable.next_after(*tick))
}

/// The latest one first.
pub(crate) fn until(timetable: &Timetable, until_ms: u64) -> impl Iterator<Item = u64> + '_ {
    std::iter::successors(timetable.last_until(until_ms), |tick| timetable.last_until(tick.checked_sub(1)?))
}
