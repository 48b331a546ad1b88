//! A time zone, as the stretches of time in which its clock keeps its distance to UTC.
//!
//! Only the way from a moment to the wall clock is asked for. The way back, and the last change before a moment, are wrong in jiff next
//! to a zone's last listed change (America/Nuuk in October 2023, America/Ciudad_Juarez in November 2022).

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::rule::RuleError;

/// No tick lies behind it: the end of the year 9998, so that no wall clock leaves the years that jiff knows.
pub(crate) const LAST_SECOND: i64 = 253_370_764_799;

/// How far back a change of the clock is looked for. If there is none, the stretch begins at a distance from what was not looked at, so
/// that no change lies just before it.
const LOOK_BACK: i64 = 400 * 86_400;

/// More than any clock is changed by, and less than two changes of one are apart.
const DISTANCE: i64 = 2 * 86_400;

/// Longer names are not repeated in errors.
const MAX_NAME_BYTES: usize = 64;

/// Names in the database that are not places with a clock.
const NOT_ZONES: &[&str] = &["Etc/Unknown", "Factory"];

#[derive(Debug, Clone)]
pub(crate) struct Zone(TimeZone);

/// A time in which the clock is not changed: from `from` until before `to`, Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// What the wall clock is ahead of UTC.
    pub(crate) offset: i64,
    /// What it was ahead until `from`.
    pub(crate) offset_before: i64,
}

impl Zone {
    pub(crate) fn named(name: &str) -> Result<Self, RuleError> {
        let found = TimeZoneDatabase::bundled().get(name).ok();
        let known = found.as_ref().and_then(TimeZone::iana_name).filter(|known| !NOT_ZONES.contains(known));
        match (known, &found) {
            (Some(known), Some(zone)) if known == name => Ok(Self(zone.clone())),
            (Some(known), _) => Err(RuleError::Zone(format!("the time zone `{name}` is spelled `{known}`"))),
            (None, _) if name.len() <= MAX_NAME_BYTES => Err(RuleError::Zone(format!(
                "`{}` is not the name of a time zone in the IANA database; give one such as `Europe/Berlin` or `UTC`",
                name.escape_default()
            ))),
            (None, _) => Err(RuleError::Zone(
                "this is not the name of a time zone in the IANA database; give one such as `Europe/Berlin` or `UTC`"
                    .to_owned(),
            )),
        }
    }

    /// The stretch that holds the moment.
    pub(crate) fn stretch_at(&self, second: i64) -> Stretch {
        let from = second - LOOK_BACK;
        let offset = self.offset(from);
        let mut stretch =
            Stretch { from: from + DISTANCE, to: LAST_SECOND + 1, offset, offset_before: offset };
        for change in self.0.following(timestamp(from)) {
            let (at, offset) = (change.timestamp().as_second(), i64::from(change.offset().seconds()));
            if at > second {
                stretch.to = stretch.to.min(at);
                break;
            }
            stretch = Stretch { from: at, offset, offset_before: stretch.offset, ..stretch };
        }
        stretch
    }

    fn offset(&self, second: i64) -> i64 {
        i64::from(self.0.to_offset(timestamp(second)).seconds())
    }
}

fn timestamp(second: i64) -> Timestamp {
    Timestamp::from_second(second)
        .expect("ticks lie between the years 1970 and 9998, and one looks back by a year")
}
