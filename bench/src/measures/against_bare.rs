//! The engine against the bare loop: the same server, the same bytes, the same calls in flight, in turns.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;

use super::Lab;
use crate::bare::{Kind, Taken};
use crate::client::{Client, Coding};
use crate::engine::{Engine, Settings};
use crate::figures::{Number, Runs};
use crate::programs::Fake;
use crate::table::{Goal, Table};
use crate::work;

/// Items that open connections, fill caches and leave a sample of a call before anything is measured.
const WARM_UP: u32 = 2_000;

/// Calls in flight where the provider has no latency.
const THROUGHPUT_CONCURRENCY: u32 = 64;

/// What the pairs of runs gave.
#[derive(Debug, Default)]
struct Compared {
    cpu_ratio: Runs,
    rate_ratio: Runs,
    engine: Side,
    bare: Side,
    /// The bare loop without reqwest, where it was measured.
    bare_hyper: Option<Side>,
}

impl Compared {
    /// Adds what both sides took, for comparison.
    fn tell_sides(self, table: &mut Table) {
        let hyper = self.bare_hyper.map(|side| ("a bare loop with the engine's client", side));
        for (name, side) in
            [("the engine", self.engine), ("the bare loop", self.bare)].into_iter().chain(hyper)
        {
            table.push(format!("- items/s of {name}"), Goal::Told, "", side.items_per_s);
            table.push(format!("- CPU s per 1,000 items of {name}"), Goal::Told, "", side.cpu_s_per_1000);
        }
    }
}

#[derive(Debug, Default)]
struct Side {
    items_per_s: Runs,
    cpu_s_per_1000: Runs,
}

impl Side {
    fn push(&mut self, taken: &Taken) {
        self.items_per_s.push(rate(taken));
        self.cpu_s_per_1000.push(cpu_per_1000(taken));
    }
}

fn rate(taken: &Taken) -> f64 {
    taken.items as f64 / taken.seconds
}

fn cpu_per_1000(taken: &Taken) -> f64 {
    taken.cpu_seconds * 1e3 / taken.items as f64
}

/// CPU of an item and items a second, without latency.
///
/// # Errors
/// Something did not work.
pub async fn throughput(lab: &Lab, table: &mut Table) -> anyhow::Result<()> {
    let items = lab.sizes.throughput_items;
    let compared = compare(lab, "throughput", items, Duration::ZERO, THROUGHPUT_CONCURRENCY).await?;
    let what = format!("{} items, 0 ms, {THROUGHPUT_CONCURRENCY} at once", Number(f64::from(items)));
    let cpu = Goal::AtMost { target: 3.0, failure: 4.5 };
    table.push(
        format!("{what}: engine's CPU per item over the bare loop's"),
        cpu,
        "",
        compared.cpu_ratio.clone(),
    );
    let rate = Goal::AtLeast { target: 0.45, failure: 0.3 };
    table.push(format!("{what}: items/s over the bare loop's"), rate, "", compared.rate_ratio.clone());
    compared.tell_sides(table);
    Ok(())
}

/// Items a second with a provider that takes its time.
///
/// # Errors
/// Something did not work.
pub async fn latency(lab: &Lab, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let (items, concurrency) = (sizes.latency_items, sizes.latency_concurrency);
    let compared = compare(lab, "latency", items, sizes.latency, concurrency).await?;
    let what = format!("{} items, {:?}, {concurrency} at once", Number(f64::from(items)), sizes.latency);
    let goal = Goal::AtLeast { target: 0.99, failure: 0.96 };
    table.push(format!("{what}: items/s over the bare loop's"), goal, "", compared.rate_ratio.clone());
    compared.tell_sides(table);
    Ok(())
}

async fn compare(
    lab: &Lab,
    name: &str,
    items: u32,
    latency: Duration,
    concurrency: u32,
) -> anyhow::Result<Compared> {
    let desk = lab.desk()?;
    let fake = lab.programs.fake(latency)?;
    let settings =
        Settings { provider: Some(&fake.url), concurrency, threads: Some(1), ..Settings::default() };
    let engine = Engine::start(&lab.binary, desk.path(), None, settings).await?;
    let client = engine.client()?;
    let warm_up = WARM_UP.min(items);
    batch(&engine, &client, &fake, warm_up, work::rows(warm_up)).await?;
    let rows = work::rows(items);
    let mut compared = Compared::default();
    for run in 1..=lab.sizes.runs {
        let bare = lab.programs.bare(Kind::Reqwest, &fake, u64::from(items), concurrency).await?;
        let ours = batch(&engine, &client, &fake, items, rows.clone()).await?;
        eprintln!(
            "{name} {run}/{}: bare loop {} items/s, {} CPU s per 1,000; engine {} items/s, {} CPU s per 1,000",
            lab.sizes.runs,
            Number(rate(&bare)),
            Number(cpu_per_1000(&bare)),
            Number(rate(&ours)),
            Number(cpu_per_1000(&ours)),
        );
        compared.cpu_ratio.push(ours.cpu_seconds / bare.cpu_seconds);
        compared.rate_ratio.push(rate(&ours) / rate(&bare));
        compared.engine.push(&ours);
        compared.bare.push(&bare);
        // With a latency the timer decides and not the client.
        if latency.is_zero() {
            let bare = lab.programs.bare(Kind::Hyper, &fake, u64::from(items), concurrency).await?;
            compared.bare_hyper.get_or_insert_default().push(&bare);
        }
    }
    let most = fake.seen().await?.most_at_once;
    ensure!(
        most <= u64::from(concurrency),
        "{most} calls were under way at once, {concurrency} were allowed"
    );
    engine.stop()?;
    Ok(compared)
}

/// Runs one batch; measures from the answer to its submit until it is completed.
pub(super) async fn batch(
    engine: &Engine,
    client: &Client,
    fake: &Fake,
    items: u32,
    rows: Bytes,
) -> anyhow::Result<Taken> {
    let (seconds, cpu_before, cpu_after) = watched(client, fake, items, rows, || engine.cpu_time()).await?;
    let cpu_seconds = (cpu_after - cpu_before).as_secs_f64();
    // The single call is the bare loop's to tell.
    Ok(Taken { items: items.into(), seconds, cpu_seconds, p50_ms: f64::NAN })
}

/// Runs one batch; answers the seconds from the answer to its submit until it is completed, and what `look` saw at both moments.
pub(super) async fn watched<T>(
    client: &Client,
    fake: &Fake,
    items: u32,
    rows: Bytes,
    look: impl Fn() -> anyhow::Result<T>,
) -> anyhow::Result<(f64, T, T)> {
    let batch = client.draft().await?;
    let items = u64::from(items);
    client.put_rows(&batch, items, rows, Coding::Plain).await?;
    let calls_before = fake.seen().await?.calls;
    client.submit(&batch).await?;
    let (begun, before) = (Instant::now(), look()?);
    client.completed(&batch, items, fake, calls_before).await?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok((seconds, before, look()?))
}
