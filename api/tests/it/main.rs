//! The service from outside, over real sockets on loopback.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod auth;
mod bad_http;
mod batch_steps;
mod batches;
mod binary;
mod desk;
mod endpoints;
mod events;
mod generations;
mod idempotency;
mod items;
mod parts;
mod results;
mod retry;
mod row_sets;
mod schedules;
mod scripted;
mod server;
mod service;
mod shares;
mod sources;
mod sse;
mod steering;
mod submits;
mod support;
mod templates;
