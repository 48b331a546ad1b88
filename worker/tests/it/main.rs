//! The worker from outside: real SQLite, the in-memory hub or one that misbehaves, and a scripted provider with a ledger.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod binary;
mod cache;
mod deaths;
mod ends;
mod failing_store;
mod fairness;
mod money;
mod provider;
mod quarantine;
mod reports;
mod rows;
mod steering;
mod store_faults;
mod support;
