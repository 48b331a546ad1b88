//! Jobs of a single row from many clients, each of which waits for its job to end before it hands in the next.
//!
//! Each is answered when its job is completed (`Prefer: wait`). Beside it stands what it costs when each waits at the results of its job instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::task::JoinSet;

use super::{Sizes, at_least, at_most};
use crate::client::Client;
use crate::engine::Settings;
use crate::figures::{Number, Runs};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::servers::Asked;
use crate::table::{Goal, Table};

/// A tenant may run twenty batches at a time unless the operator says otherwise, so this many clients cannot be of one.
const TENANTS: u32 = 4;
const CLIENTS_OF_A_TENANT: u32 = 16;
const CLIENTS: u32 = TENANTS * CLIENTS_OF_A_TENANT;

/// How a client comes to know that its job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the answer to its POST, which is held until then.
    Answer,
    /// It reads the results of its job, and is held until there are some.
    Results,
}

/// What a run gave.
#[derive(Debug)]
struct Done {
    seconds: f64,
    took_ms: Runs,
    asked: Asked,
}

/// What all runs of a way gave.
#[derive(Debug, Default)]
struct Figures {
    rate: Runs,
    commands: Runs,
    p50_ms: Runs,
}

/// Jobs a second, and commands for a job.
pub(super) async fn run(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let desk = lab.desk()?;
    let fake = lab.programs.fake(Duration::ZERO)?;
    let settings = Settings { provider: Some(&fake.url), threads: sizes.threads, ..Settings::default() };
    let fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    let mut tenants = Vec::new();
    for n in 1..=TENANTS {
        let client = fleet.client_of(&format!("tenant-{n}"))?;
        client.store_template().await?;
        tenants.push(client);
    }
    jobs(&fleet, &tenants, CLIENTS, Way::Answer).await?;
    let (mut answer, mut results) = (Figures::default(), Figures::default());
    for run in 1..=sizes.runs {
        for (way, figures) in [(Way::Answer, &mut answer), (Way::Results, &mut results)] {
            let done = jobs(&fleet, &tenants, sizes.waiting_jobs, way).await?;
            let count = f64::from(sizes.waiting_jobs);
            eprintln!(
                "waiting {run}/{} {way:?}: {} jobs/s, p50 {} ms; for a job MongoDB {}; Redis {}",
                sizes.runs,
                Number(count / done.seconds),
                Number(done.took_ms.median()),
                done.asked.mongo.for_each_of(count),
                done.asked.redis.for_each_of(count),
            );
            figures.rate.push(count / done.seconds);
            figures.commands.push(done.asked.mongo.sum() as f64 / count);
            figures.p50_ms.push(done.took_ms.median());
        }
    }
    fleet.stop()?;
    let what = format!("single-row jobs, {CLIENTS} waiting clients");
    table.push(what.clone(), at_least(1_200.0), " jobs/s", answer.rate);
    table.push(format!("{what}: MongoDB commands per job"), at_most(2.5), "", answer.commands);
    table.push(
        "- from POST until it is answered that the job is completed: p50",
        Goal::Told,
        " ms",
        answer.p50_ms,
    );
    table.push("- each waits at its own results instead", Goal::Told, " jobs/s", results.rate);
    table.push("- MongoDB commands per job then", Goal::Told, "", results.commands);
    table.push("- from POST until the outcome is read then: p50", Goal::Told, " ms", results.p50_ms);
    Ok(())
}

async fn jobs(fleet: &Fleet, tenants: &[Client], count: u32, way: Way) -> anyhow::Result<Done> {
    let left = Arc::new(AtomicU32::new(count));
    let mut clients = JoinSet::new();
    let before = fleet.servers.asked()?;
    let begun = Instant::now();
    for client in tenants {
        for _ in 0..CLIENTS_OF_A_TENANT {
            clients.spawn(work(client.clone(), left.clone(), way));
        }
    }
    let mut took = Vec::new();
    while let Some(of_client) = clients.join_next().await {
        took.extend(of_client??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let asked = fleet.servers.asked()?.since(&before);
    ensure!(took.len() == count as usize, "{} of {count} jobs ended", took.len());
    let took_ms = took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
    Ok(Done { seconds, took_ms, asked })
}

/// One client: hands in jobs as long as there are some left, and waits for each.
async fn work(client: Client, left: Arc<AtomicU32>, way: Way) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    let next = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    while let Ok(n) = next() {
        let begun = Instant::now();
        match way {
            Way::Answer => client.run_row(n).await?,
            Way::Results => {
                let job = client.post_row(n).await?;
                client.first_outcome(&job.id).await?;
            }
        }
        took.push(begun.elapsed());
    }
    Ok(took)
}
