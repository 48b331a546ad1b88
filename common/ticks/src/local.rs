//! A moment as the wall clock of a rule's zone shows it.

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use promptmill_domain::schedule::Rule;

/// The moment (Unix milliseconds) in the time zone of the rule, UTC where it has none that is known: RFC 3339 with the zone's offset, to a second, for example
/// `2026-11-29T03:00:00+01:00`.
pub fn local_time(rule: &Rule, at_ms: u64) -> String {
    let zone = match rule {
        Rule::Cron { zone, .. } => TimeZoneDatabase::bundled().get(zone).unwrap_or(TimeZone::UTC),
        Rule::Every { .. } => TimeZone::UTC,
    };
    let moment = i64::try_from(at_ms).ok().and_then(|at_ms| Timestamp::from_millisecond(at_ms).ok());
    // What lies behind the year 9999 is shown as its end.
    moment.unwrap_or(Timestamp::MAX).to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_with_the_offset_of_its_zone() {
        let cron = |zone: &str| Rule::Cron { pattern: "0 3 * * *".to_owned(), zone: zone.to_owned() };
        let at_ms = 1_795_918_800_123;
        assert_eq!(local_time(&cron("Europe/Zurich"), at_ms), "2026-11-29T03:20:00+01:00");
        assert_eq!(local_time(&cron("Asia/Kathmandu"), at_ms), "2026-11-29T08:05:00+05:45");
        let every = Rule::Every { seconds: 60, from_ms: 0 };
        assert_eq!(local_time(&every, at_ms), "2026-11-29T02:20:00+00:00");
        assert_eq!(local_time(&cron("Nowhere/Else"), 0), "1970-01-01T00:00:00+00:00");
        assert!(local_time(&every, u64::MAX).starts_with("9999-12-30"));
    }
}
