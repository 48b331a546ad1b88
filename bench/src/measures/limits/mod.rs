//! How fully a provider's limit is used, and how rarely it is run against: real processes against a server that limits and counts.
//!
//! *Used* is what was taken of what could be: calls taken / (bucket + rate x (last - first call)). *Refused* is the part of all calls that
//! came to nothing. Every row must succeed, or there is no figure.

mod cells;
mod desk;

use clap::ValueEnum;

use super::Lab;
use crate::table::Table;

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// One cell of a minute: 600 calls a minute, told by headers, against `promptmill serve`.
    Minute,
    /// 600 calls a minute, told by headers and by `Retry-After` alone, one worker and three.
    Steady,
    /// Nothing told, and a limit that changes twice.
    Phases,
    /// 137 and 4,321 calls a minute, three seeds.
    Odd,
    /// Two lanes that share a limit and do not know.
    Shared,
    /// A minute of 429, of 503, and of silence.
    Trouble,
    /// Four slots and a queue of eight.
    Slots,
    /// Redis loses all it knows in the midst of it.
    Flush,
    /// A limit of money at half the batch, three workers, one of them killed.
    Money,
}

impl Part {
    /// The chosen parts in the order of the table; all of them where none was chosen.
    pub fn chosen(only: &[Self]) -> impl Iterator<Item = Self> + use<'_> {
        super::chosen(only)
    }
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows of the shorter and the longer batches.
    pub rows: [u32; 2],
    /// Runs with different seeds.
    pub seeds: u8,
    /// Seconds of each phase of a limit that changes, and those at its beginning that do not count.
    pub phase: f64,
    /// The same.
    pub settling: f64,
    /// Seconds before trouble comes, and that it stays.
    pub trouble: (f64, f64),
    /// Seconds of the cells that have a time and no number of rows.
    pub timed: f64,
}

impl Sizes {
    /// Of the table.
    pub const fn full(seeds: u8) -> Self {
        Self { rows: [600, 3_000], seeds, phase: 180.0, settling: 30.0, trouble: (60.0, 60.0), timed: 180.0 }
    }

    /// To see that everything works.
    pub const fn quick() -> Self {
        Self { rows: [60, 60], seeds: 1, phase: 4.0, settling: 2.0, trouble: (3.0, 3.0), timed: 6.0 }
    }
}

/// Measures one part and adds its lines to the table. Each run is told on standard error as it ends.
///
/// # Errors
/// Something did not work: no figure is made from a run that broke.
pub async fn run(part: Part, lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    match part {
        Part::Minute => cells::minute(lab, table).await,
        Part::Steady => cells::steady(lab, table).await,
        Part::Phases => cells::phases(lab, table).await,
        Part::Odd => cells::odd(lab, table).await,
        Part::Shared => cells::shared(lab, table).await,
        Part::Trouble => cells::trouble(lab, table).await,
        Part::Slots => cells::slots(lab, table).await,
        Part::Flush => cells::flush(lab, table).await,
        Part::Money => cells::money(lab, table).await,
    }
}
