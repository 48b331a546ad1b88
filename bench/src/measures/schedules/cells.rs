//! What is measured of schedules.

use std::time::Duration;

use super::Sizes;
use super::desk::{Desk, Mode};
use crate::figures::{Number, Runs};
use crate::measures::Lab;
use crate::measures::engines::Engines;
use crate::servers::Asked;
use crate::table::{Goal, Table};

/// Milliseconds after the moment in which all runs are to have begun.
pub(super) const BEGUN_MS: Goal = Goal::AtMost { target: 5_000.0, failure: 10_000.0 };

/// How long after the moment runs began, milliseconds, of several runs of the measure.
#[derive(Default)]
struct Waits {
    all: Runs,
    median: Runs,
    p99: Runs,
    /// Until the last row of all was called for.
    called: Runs,
}

impl Waits {
    /// Takes those of one run, ascending, and tells of them.
    fn push(&mut self, what: &str, waits: &[f64], called_ms: f64) {
        let part = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
        let (all, median, p99) = (part(1.0), part(0.5), part(0.99));
        let [told_all, told_median, told_p99, told_called] = [all, median, p99, called_ms].map(Number);
        eprintln!(
            "{what}: begun within {told_all} ms, half within {told_median}, 99 % within {told_p99}, called for within {told_called}"
        );
        self.all.push(all);
        self.median.push(median);
        self.p99.push(p99);
        self.called.push(called_ms);
    }

    fn tabulate(self, measure: String, goal: Goal, table: &mut Table) {
        table.push(measure, goal, " ms", self.all);
        table.push("- half of them", Goal::Told, " ms", self.median);
        table.push("- 99 % of them", Goal::Told, " ms", self.p99);
        table.push("- their last row is called for", Goal::Told, " ms", self.called);
    }
}

pub(super) async fn moment(
    lab: &Lab<Sizes>,
    sizes: Sizes,
    goal: Goal,
    table: &mut Table,
) -> anyhow::Result<()> {
    let Sizes { schedules, runs, .. } = sizes;
    for mode in Mode::ALL {
        let (mut waits, mut cpu, mut commands) = (Waits::default(), Runs::default(), Runs::default());
        for run in 1..=runs {
            let desk = Desk::new(lab, sizes, mode).await?;
            let before = (spent(&desk)?, asked(&desk)?);
            let called_ms = desk.called(desk.calls()).await?;
            let after = (spent(&desk)?, asked(&desk)?);
            let what = format!("{}, {schedules} schedules, run {run}", mode.name());
            waits.push(&what, &desk.waits().await?, called_ms);
            let pieces = f64::from(schedules);
            cpu.push(after.0.saturating_sub(before.0).as_secs_f64() * 1e3 / pieces);
            if let (Some(before), Some(after)) = (before.1, after.1) {
                let came = after.since(&before).mongo;
                eprintln!("{what}: commands of MongoDB a run: {}", came.for_each_of(pieces));
                commands.push(came.sum() as f64 / pieces);
            }
            desk.stop()?;
        }
        let measure = format!("{}: {schedules} schedules due at the same moment have all begun", mode.name());
        waits.tabulate(measure, goal, table);
        table.push("- CPU a run, until its rows are called for", Goal::Told, " ms", cpu);
        if mode == Mode::Fleet {
            table.push(
                "- commands of MongoDB a run, until its rows are called for",
                Goal::Told,
                "",
                commands,
            );
        }
    }
    Ok(())
}

pub(super) async fn killed(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let Sizes { schedules, runs, .. } = lab.sizes;
    let (mut waits, mut kills) = (Waits::default(), Runs::default());
    for run in 1..=runs {
        let mut desk = Desk::new(lab, lab.sizes, Mode::Fleet).await?;
        let killed_ms = desk.kill_leader(schedules / 4).await?;
        let called_ms = desk.called(desk.calls()).await?;
        waits.push(
            &format!("the leader killed after {} ms, run {run}", Number(killed_ms)),
            &desk.waits().await?,
            called_ms,
        );
        kills.push(killed_ms);
        desk.stop()?;
    }
    let measure = "fleet: the same, and the scheduler that leads is killed when a quarter of them has begun";
    waits.tabulate(measure.to_owned(), Goal::Told, table);
    table.push("- it is killed", Goal::Told, " ms", kills);
    Ok(())
}

/// CPU of our processes and of the servers beneath.
fn spent(desk: &Desk) -> anyhow::Result<Duration> {
    let times = desk.engines.cpu_times()?;
    Ok(times.ours + times.mongo + times.redis)
}

fn asked(desk: &Desk) -> anyhow::Result<Option<Asked>> {
    match &desk.engines {
        Engines::Serve(_) => Ok(None),
        Engines::Fleet(fleet) => fleet.servers.asked().map(Some),
    }
}
