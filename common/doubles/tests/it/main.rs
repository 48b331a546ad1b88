//! The doubles as a client sees them: bytes on a socket, checked against the providers' pages.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may fail a test like the tests themselves"
)]

mod client;
mod faults;
mod ledger;
mod ollama;
mod openai;
mod openrouter;
mod plans;
mod program;
mod proxy;
