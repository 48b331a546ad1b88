//! Immediate generations: what the service adds to the provider's own time, the call in the middle.
//!
//! The provider's time is not taken from its settings but from the bare loop with as many calls in flight, just before.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::LocalSet;

use super::Lab;
use crate::bare::Kind;
use crate::client::Client;
use crate::engine::{Engine, Settings};
use crate::figures::{Number, Runs};
use crate::programs::Fake;
use crate::table::{Goal, Table};

/// Clients of the second line.
const MANY: u32 = 64;

/// Milliseconds on top of the provider's.
///
/// # Errors
/// Something did not work.
pub async fn run(lab: &Lab, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let fake = lab.programs.fake(sizes.generation_latency)?;
    let desk = lab.desk()?;
    let settings = Settings { provider: Some(&fake.url), ..Settings::default() };
    let engine = Engine::start(&lab.binary, desk.path(), None, settings).await?;
    let client = engine.client()?;
    client.store_template().await?;
    // Opens the connections on both sides of the engine, and leaves a sample of a call for the bare loop.
    generate(&client, MANY, MANY).await?;
    let (mut of_one, mut of_many) = (Runs::default(), Runs::default());
    for run in 1..=sizes.runs {
        for (runs, clients, calls) in
            [(&mut of_one, 1, sizes.generations_of_one), (&mut of_many, MANY, sizes.generations_of_many)]
        {
            let added = added_ms(lab, &fake, &client, clients, calls).await?;
            eprintln!("immediate {run}/{}: {clients} clients, {} ms added", sizes.runs, Number(added));
            runs.push(added);
        }
    }
    engine.stop()?;
    let what = format!("immediate generation over the provider's {:?}", sizes.generation_latency);
    let one = Goal::AtMost { target: 2.0, failure: 10.0 };
    table.push(format!("{what}: p50, one client"), one, " ms", of_one);
    let many = Goal::AtMost { target: 10.0, failure: 40.0 };
    table.push(format!("{what}: p50, {MANY} clients"), many, " ms", of_many);
    Ok(())
}

async fn added_ms(lab: &Lab, fake: &Fake, client: &Client, clients: u32, calls: u32) -> anyhow::Result<f64> {
    let provider = lab.programs.bare(Kind::Reqwest, fake, u64::from(calls), clients).await?;
    let ours = generate(client, clients, calls).await?;
    Ok(ours.median() - provider.p50_ms)
}

/// Makes `calls` generations with `clients` of them under way; answers the milliseconds of each.
async fn generate(client: &Client, clients: u32, calls: u32) -> anyhow::Result<Runs> {
    let left = Rc::new(Cell::new(calls));
    let local = LocalSet::new();
    let workers: Vec<_> = (0..clients)
        .map(|_| {
            let (client, left) = (client.clone(), left.clone());
            local.spawn_local(async move {
                let mut took: Vec<Duration> = Vec::new();
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    took.push(client.generate(rest).await?);
                }
                anyhow::Ok(took)
            })
        })
        .collect();
    local
        .run_until(async {
            let mut all = Vec::new();
            for worker in workers {
                all.extend(worker.await??);
            }
            Ok(all.iter().map(|took| took.as_secs_f64() * 1e3).collect())
        })
        .await
}
