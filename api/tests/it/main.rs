//! The service from outside, over real sockets on loopback.

mod auth;
mod bad_http;
mod idempotency;
mod server;
mod service;
mod support;
mod templates;
