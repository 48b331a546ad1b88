//! What holds for timetables, and for what a look at one decides, whatever the pattern, the zone and the clock.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod clock_changes;
mod croner;
mod croniter;
mod due;
mod patterns;
mod support;
mod timetables;
