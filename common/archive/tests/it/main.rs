//! Archives from outside: every kind of record moves between SQLite and MongoDB and stays what it was, and what is no whole archive is told.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod broken;
mod moves;
mod recurring;
mod scene;
mod stores;
