//! How soon events reach their receivers, and how many a second: real processes and receivers that each are a host of their own, some of which never answer.
//!
//! An event is the end of a job of one row, whose provider answers at once. Its time is taken before the write, so what is measured is longer than the time
//! since the commit.

mod cells;
mod desk;

use clap::ValueEnum;

use super::Lab;
use crate::table::Table;

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// 500 events a second to 100 endpoints of as many tenants, five of which never answer: `promptmill serve`, and a fleet.
    Soon,
    /// Events of a tenant with 100 endpoints that answer at once: deliveries a second, and what one costs.
    Many,
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
    /// Endpoints, and those of them that never answer.
    pub endpoints: (usize, usize),
    /// Events a second.
    pub rate: u32,
    /// For so many seconds.
    pub secs: u32,
    /// Jobs whose events go to every endpoint of a tenant.
    pub to_all: u32,
    /// Interleaved runs.
    pub runs: u8,
}

impl Sizes {
    /// Of the table.
    pub const fn full(runs: u8) -> Self {
        Self { endpoints: (100, 5), rate: 500, secs: 60, to_all: 300, runs }
    }

    /// To see that everything works.
    pub const fn quick() -> Self {
        Self { endpoints: (6, 1), rate: 20, secs: 2, to_all: 5, runs: 1 }
    }
}

/// Measures one part and adds its lines to the table. Each run is told on standard error as it ends.
///
/// # Errors
/// Something did not work: no figure is made from a run that broke, nor from one in which an event was lost.
pub async fn run(part: Part, lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    match part {
        Part::Soon => cells::soon(lab, table).await,
        Part::Many => cells::many(lab, table).await,
    }
}
