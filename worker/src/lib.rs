//! The worker role: claims chunks, runs their items on the apalis runtime, settles what they came to, and ends batches of a single row.
//!
//! One apalis task is one item. The loops are: the session (beats, [`session`]), the pump (claims and feeds, [`pump`]), the
//! apalis worker ([`runtime`]) and the settler (groups and writes, [`settler`]). Start at [`Worker::start`];
//! [`role`] is the process.

mod active;
mod batches;
mod end;
mod gate;
mod guard;
mod hints;
mod pace;
mod pump;
pub mod role;
mod runtime;
mod session;
mod settler;
mod slots;
mod stock;
mod templates;
mod worker;

pub use worker::{Worker, WorkerConfig, WorkerError};
