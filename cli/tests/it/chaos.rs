//! Faults made on purpose around the real binary, each judged by the [`checker`](crate::checker) and never by timing.
//!
//! [`scene`] has what they share: a double with its ledger, clients that keep a journal, and the reading of everything at the end.
//! `bench/faults.sh` runs them all and prints the table of `docs/faults.md`.

mod disk_full;
mod failing_file;
mod failing_writes;
mod fleet;
mod ground;
mod mutations;
mod poison;
mod power_cut;
mod provider;
pub(crate) mod scene;
mod stopped;
mod tear;
mod two_steps;
pub(crate) mod wrong_clock;
