//! What an item costs in a large batch against a small one: the engine's CPU from the first row sent until the batch is completed.

use super::Lab;
use super::against_bare::batch;
use crate::engine::{Engine, Settings};
use crate::figures::{Number, Runs};
use crate::table::{Goal, Table};
use crate::work;

/// The cost of an item of the large batch over that of an item of the small one.
///
/// # Errors
/// Something did not work.
pub async fn run(lab: &Lab, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let (large, small) = (work::rows(sizes.large_batch), work::rows(sizes.small_batch));
    let (mut ratios, mut large_costs, mut small_costs) = (Runs::default(), Runs::default(), Runs::default());
    for run in 1..=sizes.runs {
        let fake = lab.programs.fake(std::time::Duration::ZERO)?;
        let desk = lab.desk()?;
        let settings = Settings { provider: Some(&fake.url), threads: Some(1), ..Settings::default() };
        let engine = Engine::start(&lab.binary, desk.path(), None, settings).await?;
        let client = engine.client()?;
        batch(&engine, &client, &fake, sizes.small_batch, small.clone()).await?;
        let cost = async |rows: &bytes::Bytes, items: u32, times: u32| {
            let before = engine.cpu_time()?;
            for _ in 0..times {
                batch(&engine, &client, &fake, items, rows.clone()).await?;
            }
            let cpu_seconds = (engine.cpu_time()? - before).as_secs_f64();
            anyhow::Ok(cpu_seconds * 1e3 / (f64::from(items) * f64::from(times)))
        };
        let small_cost = cost(&small, sizes.small_batch, sizes.small_batches).await?;
        let large_cost = cost(&large, sizes.large_batch, 1).await?;
        eprintln!(
            "scale {run}/{}: {} CPU s per 1,000 in the large batch, {} in the small one",
            sizes.runs,
            Number(large_cost),
            Number(small_cost),
        );
        ratios.push(large_cost / small_cost);
        large_costs.push(large_cost);
        small_costs.push(small_cost);
        engine.stop()?;
    }
    let [large, small] = [sizes.large_batch, sizes.small_batch].map(|items| Number(f64::from(items)));
    let goal = Goal::AtMost { target: 1.1, failure: 1.3 };
    table.push(format!("cost per item of a batch of {large} over one of {small}"), goal, "", ratios);
    table.push(format!("- CPU s per 1,000 items, all of a batch of {large}"), Goal::Told, "", large_costs);
    table.push(format!("- CPU s per 1,000 items, all of a batch of {small}"), Goal::Told, "", small_costs);
    Ok(())
}
