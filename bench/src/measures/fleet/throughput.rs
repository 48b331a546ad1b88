//! Items without latency: the fleet against the embedded engine in turns, and what an item costs the servers.

use std::time::Duration;

use super::{Sizes, at_least, at_most};
use crate::engine::{Engine, Settings};
use crate::figures::{Number, Runs};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::measures::against_bare::{batch, watched};
use crate::table::{Goal, Table};
use crate::work;

/// Items that open connections and fill caches before anything is measured.
const WARM_UP: u32 = 2_000;

const CONCURRENCY: u32 = 64;

/// What the runs gave.
#[derive(Debug, Default)]
struct Compared {
    ratio: Runs,
    fleet_rate: Runs,
    embedded_rate: Runs,
    redis: Runs,
    mongo: Runs,
    cpu_ours: Runs,
    cpu_mongo: Runs,
    cpu_redis: Runs,
    cpu_embedded: Runs,
}

/// Items a second over the embedded engine's, and commands for an item.
pub(super) async fn run(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let items = sizes.throughput_items;
    let desk = lab.desk()?;
    let fake = lab.programs.fake(Duration::ZERO)?;
    let settings = Settings {
        provider: Some(&fake.url),
        concurrency: CONCURRENCY,
        threads: sizes.threads,
        ..Settings::default()
    };
    let engine = Engine::start(&lab.binary, desk.path(), None, settings).await?;
    let fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    let (embedded, distributed) = (engine.client()?, fleet.client()?);
    let rows = work::rows(items);
    let warm_up = WARM_UP.min(items);
    batch(&engine, &embedded, &fake, warm_up, work::rows(warm_up)).await?;
    watched(&distributed, &fake, warm_up, work::rows(warm_up), || Ok(())).await?;
    let mut compared = Compared::default();
    for run in 1..=sizes.runs {
        // What MongoDB has still to write of the run before is not the embedded engine's to wait for.
        fleet.servers.settle();
        let ours = batch(&engine, &embedded, &fake, items, rows.clone()).await?;
        // From the first row on: to accept, to submit and to close are work of the batch as well.
        let asked_before = fleet.servers.asked()?;
        let (seconds, cpu_before, cpu_after) =
            watched(&distributed, &fake, items, rows.clone(), || fleet.cpu_times()).await?;
        let asked = fleet.servers.asked()?.since(&asked_before);
        let cpu = cpu_after.since(&cpu_before);
        let items = f64::from(items);
        let (embedded_rate, fleet_rate) = (items / ours.seconds, items / seconds);
        eprintln!(
            "throughput {run}/{}: embedded {} items/s, fleet {} items/s; for 1,000 items MongoDB {}; Redis {}",
            sizes.runs,
            Number(embedded_rate),
            Number(fleet_rate),
            asked.mongo.for_each_of(items / 1e3),
            asked.redis.for_each_of(items / 1e3),
        );
        compared.ratio.push(fleet_rate / embedded_rate);
        compared.fleet_rate.push(fleet_rate);
        compared.embedded_rate.push(embedded_rate);
        compared.redis.push(asked.redis.sum() as f64 * 50.0 / items);
        compared.mongo.push(asked.mongo.sum() as f64 / items);
        let per_1000 = |cpu: Duration| cpu.as_secs_f64() * 1e3 / items;
        compared.cpu_ours.push(per_1000(cpu.ours));
        compared.cpu_mongo.push(per_1000(cpu.mongo));
        compared.cpu_redis.push(per_1000(cpu.redis));
        compared.cpu_embedded.push(ours.cpu_seconds * 1e3 / items);
    }
    fleet.stop()?;
    engine.stop()?;
    let what = format!("{} items, 0 ms, {CONCURRENCY} at once", Number(f64::from(items)));
    table.push(
        format!("{what}: items/s of the fleet over the embedded engine's"),
        at_least(0.55),
        "",
        compared.ratio,
    );
    table.push("- items/s of the fleet", Goal::Told, "", compared.fleet_rate);
    table.push("- items/s of the embedded engine", Goal::Told, "", compared.embedded_rate);
    for (name, cpu) in [
        ("api, worker and scheduler", compared.cpu_ours),
        ("MongoDB", compared.cpu_mongo),
        ("Redis", compared.cpu_redis),
        ("the embedded engine", compared.cpu_embedded),
    ] {
        table.push(format!("- CPU s per 1,000 items of {name}"), Goal::Told, "", cpu);
    }
    table.push(format!("{what}: Redis commands per 50 items"), at_most(2.0), "", compared.redis);
    table.push(format!("{what}: MongoDB commands per item"), at_most(0.06), "", compared.mongo);
    Ok(())
}
