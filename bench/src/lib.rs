//! The speed of the engine against the machine's limit, as tables.
//!
//! The engine is the real binary, asked over HTTP. What it is held against stands in [`fake`] (a chat server that costs as little as
//! possible) and [`bare`] (the plainest loop of calls that the engine's own HTTP library allows); each runs as a process of its own, so that
//! nobody's CPU is counted as the engine's. A [`fleet`] is held against the embedded engine in the same way, over real [`servers`].
//! [`measures`] has one module for each part of the tables, [`table`] the limits and the verdicts.

pub mod bare;
pub mod build;
pub mod client;
pub mod engine;
pub mod fake;
pub mod figures;
pub mod fleet;
pub mod limited;
pub mod measures;
pub mod process;
pub mod procfs;
pub mod programs;
pub mod receivers;
pub mod servers;
mod serving;
pub mod table;
pub mod work;
