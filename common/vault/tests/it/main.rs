//! Tests of the vault from outside, as one binary.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod api_key;
mod key_file;
mod vault;
