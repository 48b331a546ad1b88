//! The pipeline from outside: a scripted provider, a real in-memory limiter, and time that passes only when all wait.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod cache;
mod fallback;
mod gates;
mod history;
mod lanes;
mod leave;
mod messages;
mod replies;
mod retries;
mod support;
