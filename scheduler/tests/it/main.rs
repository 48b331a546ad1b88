//! The scheduler from outside: real SQLite, the in-memory hub, sessions played by the test, receivers on loopback.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod binary;
mod budgets;
mod deliveries;
mod fairness;
mod receiver;
mod retention;
mod schedules;
mod scheduling;
mod single_rows;
mod sources;
mod support;
