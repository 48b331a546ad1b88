//! The scheduler role: admits chunks, wakes parked ones, puts lost hints back, finds dead sessions, closes batches.
//!
//! Every task is a `run_once` that reads the store, does what is due and may run twice: several schedulers may run at the same
//! time, and one that starts anew needs to know nothing. Start at [`Scheduler::start`].

mod admit;
mod close;
mod scheduler;
mod sessions;
mod sweep;

pub use scheduler::Scheduler;
