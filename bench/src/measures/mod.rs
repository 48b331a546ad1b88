//! The parts of the tables: those of the embedded engine here, those of a fleet in [`fleet`]. Each starts engines of its own over fresh data folders and removes them.

pub mod accept;
pub mod against_bare;
mod engines;
pub mod fleet;
pub mod idle;
pub mod immediate;
pub mod limits;
pub mod results;
pub mod scale;
pub mod schedules;
mod sizes;
pub mod webhooks;

use std::path::PathBuf;

use clap::ValueEnum;
use tempfile::TempDir;

pub use self::sizes::Sizes;
use crate::programs::Programs;
use crate::table::Table;

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A provider without latency: CPU and items a second against the bare loop.
    Throughput,
    /// A provider as slow as real ones, many calls at once: items a second against the bare loop.
    Latency,
    /// Rows accepted over HTTP.
    Accept,
    /// What an item costs in a large batch against a small one.
    Scale,
    /// Results read back over HTTP.
    Results,
    /// Immediate generations.
    Immediate,
    /// Idle memory and the time from start to ready.
    Idle,
}

impl Part {
    /// The chosen parts in the order of the table; all of them where none was chosen.
    pub fn chosen(only: &[Self]) -> impl Iterator<Item = Self> + use<'_> {
        chosen(only)
    }
}

fn chosen<P: ValueEnum + PartialEq + Copy>(only: &[P]) -> impl Iterator<Item = P> + use<'_, P> {
    P::value_variants().iter().copied().filter(move |part| only.is_empty() || only.contains(part))
}

/// What every part needs.
#[derive(Debug)]
pub struct Lab<S = Sizes> {
    /// The engine's binary.
    pub binary: PathBuf,
    /// The fake server and the bare loop.
    pub programs: Programs,
    /// Where data folders are made.
    pub folder: PathBuf,
    /// How much of everything.
    pub sizes: S,
}

impl<S> Lab<S> {
    /// A fresh folder, removed when it is dropped.
    fn desk(&self) -> anyhow::Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("promptmill-bench-").tempdir_in(&self.folder)?)
    }
}

/// Measures one part and adds its lines to the table. Each run is told on standard error as it ends.
///
/// # Errors
/// Something did not work: no figure is made from a run that broke.
pub async fn run(part: Part, lab: &Lab, table: &mut Table) -> anyhow::Result<()> {
    match part {
        Part::Throughput => against_bare::throughput(lab, table).await,
        Part::Latency => against_bare::latency(lab, table).await,
        Part::Accept => accept::run(lab, table).await,
        Part::Scale => scale::run(lab, table).await,
        Part::Results => results::run(lab, table).await,
        Part::Immediate => immediate::run(lab, table).await,
        Part::Idle => idle::run(lab, table).await,
    }
}
