//! Rows in and outcomes out, seen from outside the crate.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod csv;
mod hostile;
mod messages;
mod ndjson;
mod outcomes;
mod round_trip;
mod support;
