//! Two workers against one, with a provider as slow as real ones: the provider's time is what they share, not the machine's.

use anyhow::ensure;

use super::{Sizes, at_least};
use crate::client::Client;
use crate::engine::Settings;
use crate::figures::{Number, Runs};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::measures::against_bare::watched;
use crate::programs::Fake;
use crate::table::{Goal, Table};
use crate::work;

/// Items a second of two workers over those of one.
pub(super) async fn run(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let (items, slots) = (sizes.workers_items, sizes.workers_slots);
    let desk = lab.desk()?;
    let fake = lab.programs.fake(sizes.workers_latency)?;
    let settings = Settings {
        provider: Some(&fake.url),
        concurrency: slots,
        threads: sizes.threads,
        ..Settings::default()
    };
    let mut fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    let client = fleet.client()?;
    let (mut ratio, mut of_one, mut of_two) = (Runs::default(), Runs::default(), Runs::default());
    for run in 1..=sizes.runs {
        let one = rate(&client, &fake, items, slots).await?;
        fleet.add_worker().await?;
        let two = rate(&client, &fake, items, 2 * slots).await?;
        fleet.remove_worker()?;
        eprintln!("workers {run}/{}: one {} items/s, two {} items/s", sizes.runs, Number(one), Number(two));
        ratio.push(two / one);
        of_one.push(one);
        of_two.push(two);
    }
    let most = fake.seen().await?.most_at_once;
    ensure!(
        most <= 2 * u64::from(slots),
        "{most} calls were under way at once, two workers have {slots} slots each"
    );
    fleet.stop()?;
    let what = format!("{} items, {:?}, {slots} slots each", Number(f64::from(items)), sizes.workers_latency);
    table.push(format!("{what}: items/s of two workers over one's"), at_least(1.9), "", ratio);
    table.push("- items/s of one", Goal::Told, "", of_one);
    table.push("- items/s of two", Goal::Told, "", of_two);
    Ok(())
}

/// Items a second of a batch, after a small one that opens every connection.
async fn rate(client: &Client, fake: &Fake, items: u32, slots: u32) -> anyhow::Result<f64> {
    let warm_up = 2 * slots;
    watched(client, fake, warm_up, work::rows(warm_up), || Ok(())).await?;
    let (seconds, (), ()) = watched(client, fake, items, work::rows(items), || Ok(())).await?;
    Ok(f64::from(items) / seconds)
}
