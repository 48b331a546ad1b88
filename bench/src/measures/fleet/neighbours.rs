//! Ten rows of one tenant beside very many of another that have every slot: how long until each of the ten is called for, against the same
//! with nobody beside them.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{Sizes, at_most};
use crate::client::{Client, Coding};
use crate::engine::Settings;
use crate::fake::unix_us;
use crate::figures::{Number, Runs};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::programs::Fake;
use crate::table::{Goal, Table};
use crate::work;

/// Rows of a small batch.
const FEW: u32 = 10;

/// How often the provider is asked what came; the batch itself takes its latency.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Within so long the rows are called for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Milliseconds until each row of small batches was called for.
#[derive(Debug, Default)]
struct Starts {
    from_post: Runs,
    from_answer: Runs,
}

/// The time until rows start beside others over that alone.
pub(super) async fn run(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let slots = sizes.workers_slots;
    let desk = lab.desk()?;
    let fake = lab.programs.fake(sizes.neighbour_latency)?;
    let settings = Settings {
        provider: Some(&fake.url),
        concurrency: slots,
        threads: sizes.threads,
        ..Settings::default()
    };
    let fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    let (small, large) = (fleet.client()?, fleet.client_of("large")?);
    small.store_template().await?;
    starts(&small, &fake, 1).await?;
    let (mut ratio, mut alone_ms, mut beside_ms) = (Runs::default(), Runs::default(), Runs::default());
    let mut answered_ratio = Runs::default();
    for run in 1..=sizes.runs {
        let alone = starts(&small, &fake, sizes.neighbour_batches).await?;
        let batch = very_many(&large, &fake, sizes).await?;
        let (begun, before) = (Instant::now(), fake.seen().await?.calls);
        let beside = starts(&small, &fake, sizes.neighbour_batches).await?;
        let calls = (fake.seen().await?.calls - before) as f64;
        let most = f64::from(slots) * begun.elapsed().div_duration_f64(sizes.neighbour_latency);
        ensure!(2.0 * calls > most, "only {calls} calls were made beside, {most} could have been");
        let look = large.look(&batch).await?;
        ensure!(look.settled < look.rows, "the large batch was over before the small ones: {look:?}");
        large.steer(&batch, "cancel").await?;
        large.ended(&batch).await?;
        eprintln!(
            "neighbours {run}/{}: alone {} ms, beside {} ms",
            sizes.runs,
            Number(alone.from_post.p95()),
            Number(beside.from_post.p95()),
        );
        ratio.push(beside.from_post.p95() / alone.from_post.p95());
        answered_ratio.push(beside.from_answer.p95() / alone.from_answer.p95());
        alone_ms.push(alone.from_post.p95());
        beside_ms.push(beside.from_post.p95());
    }
    fleet.stop()?;
    let rows = Number(f64::from(sizes.neighbour_rows));
    let what = format!(
        "{FEW} rows beside {rows} of another tenant, {:?}, {slots} slots: from POST to call of a row",
        sizes.neighbour_latency
    );
    table.push(format!("{what}, p95 over that alone"), at_most(2.0), "", ratio);
    table.push("- beside them: p95", Goal::Told, " ms", beside_ms);
    table.push("- alone: p95", Goal::Told, " ms", alone_ms);
    table.push("- from the answer to the POST on, p95 over that alone", Goal::Told, "", answered_ratio);
    Ok(())
}

/// Runs small batches one after the other.
async fn starts(client: &Client, fake: &Fake, batches: u32) -> anyhow::Result<Starts> {
    let mut starts = Starts::default();
    for n in 0..batches {
        let before = fake.long_calls().await?.len();
        let posted = unix_us();
        let job = client.post_long_rows(n * FEW, FEW).await?;
        let answered = unix_us();
        let asked = Instant::now();
        let calls = loop {
            tokio::time::sleep(ASK_EVERY).await;
            let calls = fake.long_calls().await?.split_off(before);
            if calls.len() >= FEW as usize {
                break calls;
            }
            ensure!(asked.elapsed() < PATIENCE, "{} of {FEW} rows were called for", calls.len());
        };
        ensure!(calls.len() == FEW as usize, "{} calls were made for {FEW} rows", calls.len());
        for call in calls {
            starts.from_post.push(call.saturating_sub(posted) as f64 / 1e3);
            starts.from_answer.push(call.saturating_sub(answered) as f64 / 1e3);
        }
        client.ended(&job.id).await?;
    }
    Ok(starts)
}

/// Hands in the many rows and waits until they have had every slot some times; answers their batch.
async fn very_many(client: &Client, fake: &Fake, sizes: &Sizes) -> anyhow::Result<String> {
    let rows = sizes.neighbour_rows;
    let batch = client.draft().await?;
    client.put_rows(&batch, rows.into(), work::rows(rows), Coding::Plain).await?;
    let before = fake.seen().await?.calls;
    client.submit(&batch).await?;
    let submitted = Instant::now();
    while fake.seen().await?.calls < before + 4 * u64::from(sizes.workers_slots) {
        ensure!(submitted.elapsed() < PATIENCE, "the large batch is not worked on");
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(batch)
}
