//! The parts of the fleet's table. Each starts servers, an api, a worker and a scheduler of its own over a fresh folder and removes them.
//!
//! A target here is what is wanted of a fleet on one machine; a measure twice as far from it as it should be has failed.

mod accept;
mod counts;
mod lone;
mod neighbours;
mod sizes;
mod space;
mod throughput;
mod waiting;
mod workers;

use clap::ValueEnum;

pub use self::sizes::Sizes;
use super::Lab;
use crate::table::{Goal, Table};

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Items a second without latency against the embedded engine, and what an item costs in commands.
    Throughput,
    /// A job of a single row that is alone.
    Lone,
    /// Jobs of a single row, many clients waiting.
    Waiting,
    /// Rows accepted over HTTP, against a document for each row.
    Accept,
    /// Counts of a large batch.
    Counts,
    /// Two workers against one.
    Workers,
    /// Ten rows of one tenant beside very many of another.
    Neighbours,
    /// What an item takes in the stores, what a slot takes in memory, and how fast an installation moves.
    Space,
}

impl Part {
    /// The chosen parts in the order of the table; all of them where none was chosen.
    pub fn chosen(only: &[Self]) -> impl Iterator<Item = Self> + use<'_> {
        super::chosen(only)
    }
}

/// Measures one part and adds its lines to the table. Each run is told on standard error as it ends.
///
/// # Errors
/// Something did not work: no figure is made from a run that broke.
pub async fn run(part: Part, lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    match part {
        Part::Throughput => throughput::run(lab, table).await,
        Part::Lone => lone::run(lab, table).await,
        Part::Waiting => waiting::run(lab, table).await,
        Part::Accept => accept::run(lab, table).await,
        Part::Counts => counts::run(lab, table).await,
        Part::Workers => workers::run(lab, table).await,
        Part::Neighbours => neighbours::run(lab, table).await,
        Part::Space => space::run(lab, table).await,
    }
}

const fn at_most(target: f64) -> Goal {
    Goal::AtMost { target, failure: 2.0 * target }
}

const fn at_least(target: f64) -> Goal {
    Goal::AtLeast { target, failure: target / 2.0 }
}
