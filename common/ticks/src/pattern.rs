//! A cron pattern: what it may look like, and which times of a wall clock it names.
//!
//! croner reads the fields and knows which days match; the search is ours ([`cron`](crate::cron) says why).

use std::ops::Range;

use croner::{CronPattern, JobType, Weekday};
use jiff::civil::Date;

use crate::form;
use crate::rule::RuleError;
use crate::wall::{DAY, Day, Numbers, join, month_of, split};

/// What matching days are apart at most, as far as [`Pattern::shortest_gap`] looks.
const MOST_DAYS: i64 = 366;

#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    days: CronPattern,
    seconds: Numbers,
    minutes: Numbers,
    hours: Numbers,
    months: Numbers,
    is_fixed: bool,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, RuleError> {
        let cron = form::read(text)?;
        let pattern = Self {
            is_fixed: cron.determine_job_type() == JobType::FixedTime,
            seconds: Numbers::from(cron.pattern.seconds.values()),
            minutes: Numbers::from(cron.pattern.minutes.values()),
            hours: Numbers::from(cron.pattern.hours.values()),
            months: Numbers::from(cron.pattern.months.values()),
            days: cron.pattern,
        };
        if pattern.days_of_a_cycle().next().is_none() {
            return Err(RuleError::Pattern(format!(
                "`{text}` never comes, as no year has such a day; give days that the months have"
            )));
        }
        Ok(pattern)
    }

    /// Whether it names one time of day, and by numbers alone.
    pub(crate) const fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// The first wall of the range that it names.
    pub(crate) fn first_in(&self, walls: Range<i64>) -> Option<i64> {
        let mut day = Day::of(walls.start)?;
        let mut from = walls.start - day.start;
        while day.start < walls.end {
            if let Some(time) = self.time_from(from).filter(|_| self.has_day(day.date)) {
                return Some(day.start + time).filter(|wall| *wall < walls.end);
            }
            day = if self.months.has(month_of(day.date)) { day.next()? } else { day.next_month()? };
            from = 0;
        }
        None
    }

    /// The last wall of the range that it names.
    pub(crate) fn last_in(&self, walls: Range<i64>) -> Option<i64> {
        let mut day = Day::of(walls.end - 1)?;
        let mut until = walls.end - 1 - day.start;
        while day.start + DAY > walls.start {
            if let Some(time) = self.time_until(until).filter(|_| self.has_day(day.date)) {
                return Some(day.start + time).filter(|wall| *wall >= walls.start);
            }
            day = if self.months.has(month_of(day.date)) { day.previous()? } else { day.previous_month()? };
            until = DAY - 1;
        }
        None
    }

    /// Whether it matches the day that a wall clock then shows.
    pub(crate) fn has_day_of(&self, wall: i64) -> bool {
        Day::of(wall).is_some_and(|day| self.has_day(day.date))
    }

    /// The shortest time between two walls that it names, in seconds: at most 366 days.
    pub(crate) fn shortest_gap(&self) -> i64 {
        let seconds = self.seconds.span();
        let minutes = self.minutes.span() * 60 + seconds;
        let hours = self.hours.span() * 3_600 + minutes;
        let between_days = self.fewest_days_apart() * DAY - hours;
        let gaps = [
            self.seconds.shortest_gap(),
            self.minutes.shortest_gap().map(|gap| gap * 60 - seconds),
            self.hours.shortest_gap().map(|gap| gap * 3_600 - minutes),
        ];
        gaps.into_iter().flatten().fold(between_days, i64::min)
    }

    fn fewest_days_apart(&self) -> i64 {
        let mut fewest = MOST_DAYS;
        let mut before = None;
        for day in self.days_of_a_cycle() {
            fewest = before.map_or(fewest, |before: i64| fewest.min(day - before));
            if fewest == 1 {
                break;
            }
            before = Some(day);
        }
        fewest
    }

    /// The days it matches in a time that has every kind of year (whether it is a leap year, and its first day of the week) and every
    /// kind of year after it: 28 years, and one more. What does not come in it never comes.
    fn days_of_a_cycle(&self) -> impl Iterator<Item = i64> + '_ {
        const FROM: i64 = 946_684_800; // 2000-01-01
        const UNTIL: i64 = 1_861_920_000; // 2029-01-01
        let days = std::iter::successors(Day::of(FROM), |day| day.next());
        days.take_while(|day| day.start < UNTIL)
            .filter(|day| self.has_day(day.date))
            .map(|day| day.start / DAY)
    }

    fn has_day(&self, date: Date) -> bool {
        let (year, month, day) =
            (i32::from(date.year()), month_of(date), u32::from(date.day().unsigned_abs()));
        let weekday =
            Weekday::from_days_from_sunday(date.weekday().to_sunday_zero_offset().unsigned_abs().into());
        // It is an error for days that do not exist, and this one does.
        self.months.has(month) && self.days.day_match(year, month, day, weekday).unwrap_or(false)
    }

    /// The first second of a day that it names, from one on.
    fn time_from(&self, second: i64) -> Option<i64> {
        let (hour, minute, second) = split(second);
        let time = |hour, minute, second| Some(join(hour, minute?, second?));
        let in_minute = || time(hour, Some(minute), self.seconds.first_from(second));
        let in_hour = || time(hour, self.minutes.first_from(minute + 1), self.seconds.first_from(0));
        let in_day = |hour| time(hour, self.minutes.first_from(0), self.seconds.first_from(0));
        let this_minute = if self.minutes.has(minute) { in_minute() } else { None };
        let this_hour = if self.hours.has(hour) { this_minute.or_else(in_hour) } else { None };
        this_hour.or_else(|| in_day(self.hours.first_from(hour + 1)?))
    }

    /// The last second of a day that it names, up to one.
    fn time_until(&self, second: i64) -> Option<i64> {
        let (hour, minute, second) = split(second);
        let time = |hour, minute, second| Some(join(hour, minute?, second?));
        let last = |numbers: Numbers| numbers.last_before(64);
        let in_minute = || time(hour, Some(minute), self.seconds.last_before(second + 1));
        let in_hour = || time(hour, self.minutes.last_before(minute), last(self.seconds));
        let in_day = |hour| time(hour, last(self.minutes), last(self.seconds));
        let this_minute = if self.minutes.has(minute) { in_minute() } else { None };
        let this_hour = if self.hours.has(hour) { this_minute.or_else(in_hour) } else { None };
        this_hour.or_else(|| in_day(self.hours.last_before(hour)?))
    }
}
