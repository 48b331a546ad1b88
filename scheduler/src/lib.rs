//! The scheduler role: admits chunks, wakes parked ones, puts lost hints back, finds dead sessions, ends batches, makes those that recur,
//! delivers events, and deletes what was kept long enough.
//!
//! Every task is a `run_once` that reads what it does not know of the store, does what is due and may run twice: several schedulers may run at the same
//! time, of which one leads, and one that starts anew needs to know nothing. Start at [`Scheduler::with`]; [`role`] is the process.

mod admit;
mod budgets;
mod close;
mod config;
mod deliveries;
mod fleet;
mod lead;
mod offers;
mod ready;
mod replies;
mod retention;
pub mod role;
mod scheduler;
mod schedules;
mod sessions;
mod submits;
mod sweep;
mod waiting;

pub use config::{Keeping, Recurring, SchedulerConfig, Standing, Webhooks};
pub use scheduler::Scheduler;
