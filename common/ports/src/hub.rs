//! The in-memory hub: what one process runs on, and the reference model of the hub ports.
//!
//! [`FaultyHub`] is the same hub made unreliable on purpose (seeded): it drops, repeats and delays hints and signals and
//! forgets everything at random. A fleet must end every batch on it.

mod faulty;
mod limiter;
mod memory;
pub mod pace;

pub use faulty::{Faults, FaultyHub};
pub use memory::MemoryHub;
