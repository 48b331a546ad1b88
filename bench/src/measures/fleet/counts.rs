//! Counts of a large batch in the middle of its work: made anew, and as the api remembers them for a second.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::{Sizes, at_most};
use crate::client::{Client, Coding, Look};
use crate::engine::Settings;
use crate::figures::{Number, Runs};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::programs::Fake;
use crate::table::Table;
use crate::work;

/// For so long counts are remembered, and a little more.
const REMEMBERED: Duration = Duration::from_millis(1_050);

/// Within so long a paused batch is to stand still.
const STANDS_STILL_WITHIN: Duration = Duration::from_secs(60);

/// Milliseconds of a look.
pub(super) async fn run(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let desk = lab.desk()?;
    let fake = lab.programs.fake(sizes.counted_latency)?;
    let settings = Settings { provider: Some(&fake.url), threads: sizes.threads, ..Settings::default() };
    let fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    let client = fleet.client()?;
    let batch = half_done(&client, &fake, sizes).await?;
    let (mut exact, mut cached) = (Runs::default(), Runs::default());
    for run in 1..=sizes.runs {
        let (mut exact_ms, mut cached_ms) = (Runs::default(), Runs::default());
        let mut last = client.look(&batch).await?;
        for _ in 0..sizes.looks {
            tokio::time::sleep(REMEMBERED).await;
            let fresh = client.look(&batch).await?;
            ensure!(fresh.counted_at != last.counted_at, "counts that are too old were told again");
            exact_ms.push(ms(&fresh));
            last = client.look(&batch).await?;
            // Nobody else looks, so they are only counted again where this machine stood still for a second.
            if last.counted_at == fresh.counted_at {
                cached_ms.push(ms(&last));
            }
        }
        eprintln!(
            "counts {run}/{}: exact {} ms, cached {} ms",
            sizes.runs,
            Number(exact_ms.median()),
            Number(cached_ms.median()),
        );
        exact.push(exact_ms.median());
        cached.push(cached_ms.median());
    }
    fleet.stop()?;
    let what = format!("counts of a batch of {}", Number(f64::from(sizes.counted_items)));
    table.push(format!("{what}, exact: p50"), at_most(20.0), " ms", exact);
    table.push(format!("{what}, cached: p50"), at_most(2.0), " ms", cached);
    Ok(())
}

fn ms(look: &Look) -> f64 {
    look.took.as_secs_f64() * 1e3
}

/// A batch of which a part is done and that is paused, so that its counts stand still and are not final.
async fn half_done(client: &Client, fake: &Fake, sizes: &Sizes) -> anyhow::Result<String> {
    let items = sizes.counted_items;
    let batch = client.draft().await?;
    client.put_rows(&batch, items.into(), work::rows(items), Coding::Plain).await?;
    client.submit(&batch).await?;
    let begun = Instant::now();
    while fake.seen().await?.calls < u64::from(sizes.counted_after) {
        if begun.elapsed() > 10 * STANDS_STILL_WITHIN {
            bail!("the batch is not worked on");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.steer(&batch, "pause").await?;
    let begun = Instant::now();
    let mut last = client.look(&batch).await?;
    loop {
        tokio::time::sleep(REMEMBERED).await;
        let look = client.look(&batch).await?;
        if look.leased == 0 && look.settled == last.settled {
            ensure!(0 < look.settled && look.settled < look.rows, "the batch is not in the middle: {look:?}");
            return Ok(batch);
        }
        if begun.elapsed() > STANDS_STILL_WITHIN {
            bail!("the batch does not stand still: {look:?}");
        }
        last = look;
    }
}
