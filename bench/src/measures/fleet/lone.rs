//! A job of a single row that is alone in the fleet: from its POST until a client that waits at its results has read the outcome.
//!
//! The provider's time is not taken from its settings but from the bare loop, just before.

use std::time::Instant;

use super::{Sizes, at_most};
use crate::bare::Kind;
use crate::client::Client;
use crate::engine::Settings;
use crate::figures::{Number, Runs};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::table::{Goal, Table};

/// Jobs that open connections and leave a sample of a call before anything is measured.
const WARM_UP: u32 = 8;

/// Milliseconds of each job of a run.
#[derive(Debug, Default)]
struct Jobs {
    posted: Runs,
    stored: Runs,
}

/// Milliseconds on top of the provider's.
pub(super) async fn run(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let desk = lab.desk()?;
    let fake = lab.programs.fake(sizes.lone_latency)?;
    let settings = Settings { provider: Some(&fake.url), threads: sizes.threads, ..Settings::default() };
    let fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    let client = fleet.client()?;
    client.store_template().await?;
    jobs(&client, WARM_UP).await?;
    let (mut stored, mut posted) = (Runs::default(), Runs::default());
    for run in 1..=sizes.runs {
        let provider = lab.programs.bare(Kind::Reqwest, &fake, sizes.lone_jobs.into(), 1).await?;
        let ours = jobs(&client, sizes.lone_jobs).await?;
        let added = ours.stored.median() - provider.p50_ms;
        eprintln!(
            "lone {run}/{}: {} ms added, {} ms of them until the POST was answered",
            sizes.runs,
            Number(added),
            Number(ours.posted.median()),
        );
        stored.push(added);
        posted.push(ours.posted.median());
    }
    fleet.stop()?;
    let what =
        format!("a single-row job from POST to stored outcome over the provider's {:?}", sizes.lone_latency);
    table.push(format!("{what}: p50, one client"), at_most(15.0), " ms", stored);
    table.push("- of them until the POST was answered: p50", Goal::Told, " ms", posted);
    Ok(())
}

/// Runs jobs one after the other. Each begins when the one before is closed, so that it is alone.
async fn jobs(client: &Client, count: u32) -> anyhow::Result<Jobs> {
    let mut jobs = Jobs::default();
    for n in 0..count {
        let begun = Instant::now();
        let job = client.post_row(n).await?;
        jobs.posted.push(begun.elapsed().as_secs_f64() * 1e3);
        client.first_outcome(&job.id).await?;
        jobs.stored.push(begun.elapsed().as_secs_f64() * 1e3);
        client.ended(&job.id).await?;
    }
    Ok(jobs)
}
