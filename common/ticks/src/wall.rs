//! Times that a wall clock shows, and the numbers in the fields of a pattern.
//!
//! A *wall* is written as the Unix seconds at which a clock on UTC shows it.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;

/// The seconds of a day on the wall: there every day has as many.
pub(crate) const DAY: i64 = 86_400;

/// A day, and the wall at its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Day {
    pub(crate) date: Date,
    pub(crate) start: i64,
}

impl Day {
    /// The day of a wall; `None` outside of the years that jiff knows.
    pub(crate) fn of(wall: i64) -> Option<Self> {
        let start = wall - wall.rem_euclid(DAY);
        let date = Offset::UTC.to_datetime(Timestamp::from_second(start).ok()?).date();
        Some(Self { date, start })
    }

    pub(crate) fn next(self) -> Option<Self> {
        Some(Self { date: self.date.tomorrow().ok()?, start: self.start + DAY })
    }

    pub(crate) fn previous(self) -> Option<Self> {
        Some(Self { date: self.date.yesterday().ok()?, start: self.start - DAY })
    }

    /// The first day of the next month.
    pub(crate) fn next_month(self) -> Option<Self> {
        let date = self.date.last_of_month();
        let start = self.start + i64::from(date.day() - self.date.day()) * DAY;
        Self { date, start }.next()
    }

    /// The last day of the previous month.
    pub(crate) fn previous_month(self) -> Option<Self> {
        let start = self.start - i64::from(self.date.day() - 1) * DAY;
        Self { date: self.date.first_of_month(), start }.previous()
    }
}

/// The month of a date as a number, from 1 on.
pub(crate) fn month_of(date: Date) -> u32 {
    date.month().unsigned_abs().into()
}

/// A second of a day as hour, minute and second.
pub(crate) fn split(second_of_day: i64) -> (u32, u32, u32) {
    let second = u32::try_from(second_of_day.clamp(0, DAY - 1)).unwrap_or(0);
    (second / 3_600, second / 60 % 60, second % 60)
}

/// The second of a day.
pub(crate) fn join(hour: u32, minute: u32, second: u32) -> i64 {
    i64::from(hour * 3_600 + minute * 60 + second)
}

/// Numbers from 0 to 63: the ones that a field names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers(u64);

impl From<Vec<u16>> for Numbers {
    fn from(numbers: Vec<u16>) -> Self {
        Self(numbers.into_iter().fold(0, |bits, number| bits | 1 << number))
    }
}

impl Numbers {
    pub(crate) const fn has(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }

    /// The first one from a number on, which is below 64.
    pub(crate) const fn first_from(self, number: u32) -> Option<u32> {
        let from = self.0 >> number << number;
        if from == 0 { None } else { Some(from.trailing_zeros()) }
    }

    /// The last one before a number, which is at most 64.
    pub(crate) const fn last_before(self, number: u32) -> Option<u32> {
        let before = if number < 64 { self.0 & ((1 << number) - 1) } else { self.0 };
        before.checked_ilog2()
    }

    /// From the first to the last one.
    pub(crate) fn span(self) -> i64 {
        self.last_before(64).zip(self.first_from(0)).map_or(0, |(last, first)| i64::from(last - first))
    }

    /// The least that two of them are apart.
    pub(crate) fn shortest_gap(self) -> Option<i64> {
        // Two of them are so far apart where the set meets itself, moved by it.
        (1..64).find(|gap| self.0 & self.0 >> gap != 0)
    }
}
