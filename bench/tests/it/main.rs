//! The bench's own parts, and both tables in small against the real binary. Nothing here asserts a speed.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail a test like the tests themselves")]

mod bare;
mod end_to_end;
mod fake;
mod fleet;
mod limits;
mod schedules;
mod table;
mod webhooks;
mod work;
