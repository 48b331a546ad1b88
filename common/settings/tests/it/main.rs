//! Settings from a file and an environment, as a process finds them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod sources;
mod told;
