//! Whole journeys through the binary, and what holds for the workspace as a whole.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may fail a test like the tests themselves"
)]

mod archive;
mod chaos;
mod checker;
mod config;
mod doctor;
mod edges;
mod faults;
mod fleet;
mod fleet_script;
mod golden;
mod hostile;
mod hub;
mod journeys;
mod kill;
mod llama;
mod memory;
mod openapi;
mod serve;
mod serve_kill;
mod server;
mod service;
mod sources;
mod stand;
mod support;
mod tls;
mod webhooks;
