//! The moments at which a wall clock shows what a pattern names.
//!
//! croner's own search, which asks jiff when a wall clock shows a time, goes back in time, repeats a tick or gives up where that answer
//! is wrong or a gap is longer than two hours. Here time is walked stretch by stretch, so ticks can only go one way; what croner does at
//! changes of the clock is kept.

use std::ops::Range;

use crate::pattern::Pattern;
use crate::rule::RuleError;
use crate::zone::{LAST_SECOND, Stretch, Zone};

#[derive(Debug, Clone)]
pub(crate) struct Cron {
    pattern: Pattern,
    zone: Zone,
}

impl Cron {
    pub(crate) fn new(pattern: &str, zone: &str) -> Result<Self, RuleError> {
        Ok(Self { pattern: Pattern::parse(pattern)?, zone: Zone::named(zone)? })
    }

    /// The first tick at or after a moment, Unix seconds.
    pub(crate) fn first_from(&self, second: i64) -> Option<i64> {
        let mut from = second.max(0);
        while from <= LAST_SECOND {
            let stretch = self.zone.stretch_at(from);
            if from == stretch.from && self.is_moved_to_start_of(stretch) {
                return Some(from);
            }
            let own = self.walls(stretch);
            let wall = self.pattern.first_in(own.start.max(from + stretch.offset)..own.end);
            if let Some(wall) = wall {
                return Some(wall - stretch.offset);
            }
            from = stretch.to;
        }
        None
    }

    /// The last tick at or before a moment, Unix seconds.
    pub(crate) fn last_until(&self, second: i64) -> Option<i64> {
        let mut until = second.min(LAST_SECOND);
        while until >= 0 {
            let stretch = self.zone.stretch_at(until);
            let own = self.walls(stretch);
            let from = own.start.max(stretch.offset);
            let wall = self.pattern.last_in(from..own.end.min(until + 1 + stretch.offset));
            if let Some(wall) = wall {
                return Some(wall - stretch.offset);
            }
            if stretch.from >= 0 && self.is_moved_to_start_of(stretch) {
                return Some(stretch.from);
            }
            until = stretch.from - 1;
        }
        None
    }

    pub(crate) fn shortest_gap(&self) -> i64 {
        self.pattern.shortest_gap()
    }

    /// What the wall clock shows in a stretch and the pattern may name: all of it, less what it showed before if that does not count
    /// twice.
    fn walls(&self, stretch: Stretch) -> Range<i64> {
        let shown = if self.pattern.is_fixed() { stretch.offset_before } else { stretch.offset };
        stretch.from + stretch.offset.max(shown)..stretch.to + stretch.offset
    }

    /// Whether a tick lay between what the wall clock showed before the stretch and what it shows at its start.
    fn is_moved_to_start_of(&self, stretch: Stretch) -> bool {
        let gap = stretch.from + stretch.offset_before..stretch.from + stretch.offset;
        self.pattern.is_fixed()
            && !gap.is_empty()
            && self.pattern.has_day_of(gap.end)
            && self.pattern.first_in(gap).is_some()
    }
}
