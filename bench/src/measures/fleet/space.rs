//! What an item takes in the stores and in Redis, what a slot takes in memory, and how fast an installation moves from store to store.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::Sizes;
use crate::engine::{Engine, Settings};
use crate::figures::{Number, Runs};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::measures::against_bare::{batch, watched};
use crate::procfs;
use crate::table::{Goal, Table};
use crate::work;

/// Different replies, so that they compress as those of a model do.
const REPLIES: u32 = 8_192;

/// What the runs gave, for an item where nothing else is said.
#[derive(Debug, Default)]
struct Space {
    data: Runs,
    files: Runs,
    oplog: Runs,
    redis: Runs,
    sqlite: Runs,
    /// Bytes of a slot of a worker.
    slot: Runs,
    archive: Runs,
    /// Items a second.
    exported: Runs,
    imported_folder: Runs,
    imported_fleet: Runs,
}

/// Bytes and rates.
pub(super) async fn run(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let mut space = Space::default();
    for run in 1..=sizes.runs {
        stored(lab, &mut space).await?;
        let (few, many) = sizes.space_slots;
        let (of_few, of_many) = (peak(lab, few).await?, peak(lab, many).await?);
        space.slot.push((of_many as f64 - of_few as f64) / f64::from(many - few));
        eprintln!(
            "space {run}/{}: a worker of {few} slots had {of_few} bytes, one of {many} {of_many}",
            sizes.runs
        );
    }
    let items = Number(f64::from(sizes.space_items));
    let row = work::ROW_BYTES;
    for (what, unit, figure) in [
        (
            format!("{items} rows of {row} bytes with their outcomes, bytes an item: in MongoDB's files"),
            " B",
            space.files,
        ),
        ("- before MongoDB compresses them".to_owned(), " B", space.data),
        ("- written to the oplog".to_owned(), " B", space.oplog),
        ("- in the file of SQLite".to_owned(), " B", space.sqlite),
        ("- in an archive".to_owned(), " B", space.archive),
        ("- in Redis at most, while they are worked on".to_owned(), " B", space.redis),
        ("memory of a worker's slot".to_owned(), " B", space.slot),
        ("items/s exported from MongoDB".to_owned(), "", space.exported),
        ("- imported into SQLite".to_owned(), "", space.imported_folder),
        ("- imported into MongoDB".to_owned(), "", space.imported_fleet),
    ] {
        table.push(what, Goal::Told, unit, figure);
    }
    Ok(())
}

/// The bytes of a batch in every store, and its way from one to the other.
async fn stored(lab: &Lab<Sizes>, space: &mut Space) -> anyhow::Result<()> {
    let items = lab.sizes.space_items;
    let of_item = |bytes: u64| bytes as f64 / f64::from(items);
    let desk = lab.desk()?;
    let fake = lab.programs.fake_of(Duration::ZERO, REPLIES)?;
    let settings = Settings {
        provider: Some(&fake.url),
        concurrency: 64,
        threads: lab.sizes.threads,
        ..Settings::default()
    };
    let fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    fleet.servers.settle();
    let (before, redis) = (fleet.servers.stored()?, fleet.servers.redis_memory()?);
    watched(&fleet.client()?, &fake, items, work::rows_in_words(items), || Ok(())).await?;
    fleet.servers.settle();
    let after = fleet.servers.stored()?;
    space.data.push(of_item(after.data - before.data));
    space.files.push(of_item(after.files.saturating_sub(before.files)));
    space.oplog.push(of_item(after.oplog - before.oplog));
    space.redis.push(of_item(fleet.servers.redis_memory()?.peak.saturating_sub(redis.now)));

    let rate = |begun: Instant| f64::from(items) / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    fleet.promptmill(&["export", "--all", "--fleet", "--out", "all.pmz"])?;
    space.exported.push(rate(begun));
    space.archive.push(of_item(std::fs::metadata(desk.path().join("all.pmz"))?.len()));
    let begun = Instant::now();
    fleet.promptmill(&["import", "all.pmz", "--data", "imported"])?;
    space.imported_folder.push(rate(begun));
    let begun = Instant::now();
    fleet.promptmill_on("imported", &["import", "all.pmz", "--fleet"])?;
    space.imported_fleet.push(rate(begun));
    fleet.stop()?;

    let engine = Engine::start(&lab.binary, desk.path(), None, settings).await?;
    let file = desk.path().join("data/promptmill.db");
    let before = size(&file)?;
    batch(&engine, &engine.client()?, &fake, items, work::rows_in_words(items)).await?;
    engine.stop()?;
    space.sqlite.push(of_item(size(&file)? - before));
    Ok(())
}

fn size(file: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(file).with_context(|| file.display().to_string())?.len())
}

/// The most memory that a worker with so many slots had, all of them in use.
async fn peak(lab: &Lab<Sizes>, slots: u32) -> anyhow::Result<u64> {
    let sizes = &lab.sizes;
    let desk = lab.desk()?;
    let fake = lab.programs.fake(sizes.space_latency)?;
    let settings = Settings {
        provider: Some(&fake.url),
        concurrency: slots,
        threads: sizes.threads,
        ..Settings::default()
    };
    let fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    let items = sizes.space_calls * slots;
    watched(&fleet.client()?, &fake, items, work::rows(items), || Ok(())).await?;
    let most = fake.seen().await?.most_at_once;
    ensure!(most * 10 >= u64::from(slots) * 9, "{most} of {slots} slots were in use");
    let peak = procfs::peak(fleet.worker_id()?)?;
    fleet.stop()?;
    Ok(peak)
}
