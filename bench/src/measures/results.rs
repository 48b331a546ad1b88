//! Results read back over HTTP as NDJSON, by a client that only counts bytes.

use std::time::Duration;

use super::Lab;
use super::against_bare::batch;
use crate::client::Coding;
use crate::engine::{Engine, Settings};
use crate::figures::{Number, Runs};
use crate::table::{Goal, Table};
use crate::work;

/// Items a second from the request to the end of the answer.
///
/// # Errors
/// Something did not work.
pub async fn run(lab: &Lab, table: &mut Table) -> anyhow::Result<()> {
    let items = lab.sizes.result_items;
    let fake = lab.programs.fake(Duration::ZERO)?;
    let desk = lab.desk()?;
    let settings = Settings { provider: Some(&fake.url), ..Settings::default() };
    let engine = Engine::start(&lab.binary, desk.path(), None, settings).await?;
    let client = engine.client()?;
    batch(&engine, &client, &fake, 100.min(items), work::rows(100.min(items))).await?;
    let id = client.draft().await?;
    client.put_rows(&id, u64::from(items), work::rows(items), Coding::Plain).await?;
    let calls_before = fake.seen().await?.calls;
    client.submit(&id).await?;
    client.completed(&id, u64::from(items), &fake, calls_before).await?;
    let (mut rates, mut megabytes, mut costs) = (Runs::default(), Runs::default(), Runs::default());
    for run in 1..=lab.sizes.runs {
        let cpu_before = engine.cpu_time()?;
        let read = client.read_results(&id, u64::from(items)).await?;
        let cpu_seconds = (engine.cpu_time()? - cpu_before).as_secs_f64();
        let rate = f64::from(items) / read.seconds;
        let cost = cpu_seconds * 1e3 / f64::from(items);
        eprintln!(
            "results {run}/{}: {} items/s, {} bytes an item, {} CPU s per 1,000",
            lab.sizes.runs,
            Number(rate),
            Number(read.bytes as f64 / f64::from(items)),
            Number(cost),
        );
        rates.push(rate);
        costs.push(cost);
        megabytes.push(read.bytes as f64 / read.seconds / 1e6);
    }
    engine.stop()?;
    let what = format!("{} results read over HTTP as NDJSON", Number(f64::from(items)));
    table.push(what, Goal::AtLeast { target: 250_000.0, failure: 80_000.0 }, " items/s", rates);
    table.push("- engine's CPU s per 1,000 items read", Goal::Told, "", costs);
    table.push("- the same in bytes", Goal::Told, " MB/s", megabytes);
    Ok(())
}
