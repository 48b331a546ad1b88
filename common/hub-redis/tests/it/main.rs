//! The hub on a real Redis: the conformance suite, and what only a server can do to it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod connect;
mod lanes;
mod losses;
mod nodes;
mod queue;
mod scene;
mod suite;
mod tls;
