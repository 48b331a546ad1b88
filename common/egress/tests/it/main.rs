//! The client against receivers that mean harm: loopback servers that count their connections, and a resolver played by the test.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod answers;
mod guard;
mod readings;
mod support;
