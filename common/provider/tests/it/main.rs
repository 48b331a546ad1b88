//! The clients over real sockets against a server that plays prepared bytes, well-formed and not.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod doubles;
mod ollama;
mod openai_shape;
mod server;
mod streaming;
mod support;
