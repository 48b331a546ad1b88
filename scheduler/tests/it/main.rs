//! The scheduler from outside: real SQLite, the in-memory hub, and sessions played by the test.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod scheduling;
mod support;
