//! What is measured of webhooks.

use std::time::Duration;

use super::Sizes;
use super::desk::{Desk, Mode, post_at, post_many};
use crate::figures::{Number, Runs};
use crate::measures::Lab;
use crate::measures::engines::Engines;
use crate::receivers::Arrived;
use crate::servers::Asked;
use crate::table::{Goal, Table};

/// Milliseconds from the event to its receiver that 99 % must not exceed.
const SOON_MS: Goal = Goal::AtMost { target: 500.0, failure: 1_000.0 };

/// Deliveries a second.
const fn at_least(target: f64) -> Goal {
    Goal::AtLeast { target, failure: target / 2.0 }
}

pub(super) async fn soon(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let Sizes { endpoints, rate, secs, runs, .. } = lab.sizes;
    for mode in Mode::ALL {
        let (mut p99s, mut medians, mut mosts) = (Runs::default(), Runs::default(), Runs::default());
        let (mut cpu, mut commands) = (Runs::default(), Runs::default());
        for run in 1..=runs {
            let desk = Desk::new(lab, mode, endpoints.0, endpoints).await?;
            desk.prepare().await?;
            // Tenants take turns, and the endpoints of the last ones hang.
            let answers = |n: &u32| *n as usize % endpoints.0 < endpoints.0 - endpoints.1;
            let answered = (0..rate * secs).filter(answers).count();
            let before = Before::of(&desk)?;
            post_at(&desk.clients, rate, secs).await?;
            desk.came(answered).await?;
            let cost = before.cost(&desk, answered)?;
            let mut waits: Vec<f64> = desk.receivers.arrived().iter().map(wait_ms).collect();
            waits.sort_by(f64::total_cmp);
            let part = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
            let (p99, median, most) = (part(0.99), part(0.5), part(1.0));
            eprintln!(
                "soon, {}, run {run}: p99 {} ms, median {}, most {}; {cost}",
                mode.name(),
                Number(p99),
                Number(median),
                Number(most),
            );
            p99s.push(p99);
            medians.push(median);
            mosts.push(most);
            cpu.push(cost.cpu_ms);
            commands.push(cost.commands);
            desk.stop()?;
        }
        let (all, hang) = endpoints;
        table.push(
            format!(
                "{}: {rate} events/s, {hang} of {all} endpoints hang: 99 % at the others within",
                mode.name()
            ),
            SOON_MS,
            " ms",
            p99s,
        );
        table.push("- half of them", Goal::Told, " ms", medians);
        table.push("- all of them", Goal::Told, " ms", mosts);
        push_cost(table, mode, cpu, commands);
    }
    Ok(())
}

pub(super) async fn many(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let Sizes { endpoints, to_all, runs, .. } = lab.sizes;
    for mode in Mode::ALL {
        let mut rates = Runs::default();
        let (mut cpu, mut commands) = (Runs::default(), Runs::default());
        for run in 1..=runs {
            let desk = Desk::new(lab, mode, 1, (endpoints.0, 0)).await?;
            desk.prepare().await?;
            let deliveries = to_all as usize * endpoints.0;
            let before = Before::of(&desk)?;
            post_many(&desk.clients[0], to_all).await?;
            desk.came(deliveries).await?;
            let cost = before.cost(&desk, deliveries)?;
            let arrived = desk.receivers.arrived();
            let times = arrived.iter().map(|arrived| arrived.at_us);
            let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
            let rate = (deliveries - 1) as f64 / (last.saturating_sub(first) as f64 / 1e6);
            eprintln!("many, {}, run {run}: {} deliveries/s; {cost}", mode.name(), Number(rate));
            rates.push(rate);
            cpu.push(cost.cpu_ms);
            commands.push(cost.commands);
            desk.stop()?;
        }
        let goal = at_least(match mode {
            Mode::Serve => 2_000.0,
            Mode::Fleet => 1_000.0,
        });
        table.push(
            format!("{}: deliveries to endpoints that answer at once", mode.name()),
            goal,
            "/s",
            rates,
        );
        push_cost(table, mode, cpu, commands);
    }
    Ok(())
}

fn push_cost(table: &mut Table, mode: Mode, cpu: Runs, commands: Runs) {
    table.push("- CPU a delivery, with the job", Goal::Told, " ms", cpu);
    if mode == Mode::Fleet {
        table.push("- commands of MongoDB a delivery, with those of the job", Goal::Told, "", commands);
    }
}

fn wait_ms(arrived: &Arrived) -> f64 {
    Duration::from_micros(arrived.at_us.saturating_sub(arrived.event_us)).as_secs_f64() * 1e3
}

/// What was used before.
struct Before {
    cpu: Duration,
    asked: Option<Asked>,
}

/// What a delivery took.
struct Cost {
    cpu_ms: f64,
    /// Of MongoDB.
    commands: f64,
    kinds: String,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ms of CPU and {} commands a delivery ({})",
            Number(self.cpu_ms),
            Number(self.commands),
            self.kinds
        )
    }
}

impl Before {
    fn of(desk: &Desk) -> anyhow::Result<Self> {
        Ok(Self { cpu: cpu(desk)?, asked: asked(desk)? })
    }

    fn cost(&self, desk: &Desk, deliveries: usize) -> anyhow::Result<Cost> {
        let deliveries = deliveries.max(1) as f64;
        let cpu_ms = (cpu(desk)?.saturating_sub(self.cpu)).as_secs_f64() * 1e3 / deliveries;
        let (commands, kinds) = match (&self.asked, asked(desk)?) {
            (Some(before), Some(after)) => {
                let came = after.since(before).mongo;
                (came.sum() as f64 / deliveries, came.for_each_of(deliveries))
            }
            _ => (0.0, "there is no MongoDB".to_owned()),
        };
        Ok(Cost { cpu_ms, commands, kinds })
    }
}

/// CPU of our processes and of the servers beneath.
fn cpu(desk: &Desk) -> anyhow::Result<Duration> {
    let times = desk.engines.cpu_times()?;
    Ok(times.ours + times.mongo + times.redis)
}

fn asked(desk: &Desk) -> anyhow::Result<Option<Asked>> {
    match &desk.engines {
        Engines::Serve(_) => Ok(None),
        Engines::Fleet(fleet) => fleet.servers.asked().map(Some),
    }
}
