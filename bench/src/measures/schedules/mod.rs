//! How soon batches begin that are all due at the same moment: real processes, a thousand schedules of one tenant.
//!
//! A run is begun when its batch is queued, which its tick tells ([`cells`]); the schedules are made before, while nothing is due.

mod cells;
mod desk;

use clap::ValueEnum;

use super::Lab;
use crate::table::{Goal, Table};

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// 1,000 schedules that are due at the same moment: `promptmill serve`, and a fleet with two schedulers.
    Moment,
    /// 10,000, as many as a tenant may have.
    Most,
    /// The first of these in the fleet, where the scheduler that leads is killed in the midst of it.
    Killed,
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
    /// Schedules that are due at the same moment.
    pub schedules: u32,
    /// Rows of each run.
    pub rows: u32,
    /// Seconds in which all of them are made.
    pub ahead: u64,
    /// The same of the part with the most.
    pub most: (u32, u64),
    /// Runs.
    pub runs: u8,
}

impl Sizes {
    /// Of the table.
    pub const fn full(runs: u8) -> Self {
        Self { schedules: 1_000, rows: 2, ahead: 30, most: (10_000, 150), runs }
    }

    /// The same with the most schedules.
    const fn most(self) -> Self {
        let (schedules, ahead) = self.most;
        Self { schedules, ahead, ..self }
    }

    /// To see that everything works.
    pub const fn quick() -> Self {
        Self { schedules: 40, rows: 2, ahead: 8, most: (120, 10), runs: 1 }
    }
}

/// Measures one part and adds its lines to the table. Each run is told on standard error as it ends.
///
/// # Errors
/// Something did not work: no figure is made from a run that broke, nor from one in which a schedule had other than one batch.
pub async fn run(part: Part, lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    match part {
        Part::Moment => cells::moment(lab, lab.sizes, cells::BEGUN_MS, table).await,
        Part::Most => cells::moment(lab, lab.sizes.most(), Goal::Told, table).await,
        Part::Killed => cells::killed(lab, table).await,
    }
}
