//! What the service takes while it does nothing, and how soon after its start it serves.

use std::time::Duration;

use super::Lab;
use super::against_bare::batch;
use crate::engine::{Engine, Settings};
use crate::figures::{Number, Runs};
use crate::table::{Goal, Table};
use crate::work;

/// Memory and time to ready, over a fresh folder and over one that holds a finished batch.
///
/// # Errors
/// Something did not work.
pub async fn run(lab: &Lab, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let fake = lab.programs.fake(Duration::ZERO)?;
    let settings = Settings { provider: Some(&fake.url), ..Settings::default() };
    let rows = work::rows(sizes.idle_items);
    let (mut at_first, mut after_batch) = (Runs::default(), Runs::default());
    let (mut at_first_of_files, mut after_batch_of_files) = (Runs::default(), Runs::default());
    let (mut fresh, mut existing) = (Runs::default(), Runs::default());
    for run in 1..=sizes.runs {
        let desk = lab.desk()?;
        let engine = Engine::start(&lab.binary, desk.path(), None, settings).await?;
        fresh.push(engine.ready_after.as_secs_f64() * 1e3);
        tokio::time::sleep(sizes.idle_for).await;
        let first = engine.resident()?;
        batch(&engine, &engine.client()?, &fake, sizes.idle_items, rows.clone()).await?;
        tokio::time::sleep(sizes.idle_for).await;
        let later = engine.resident()?;
        let (key, fresh_ms) = (engine.key().to_owned(), engine.ready_after.as_secs_f64() * 1e3);
        engine.stop()?;
        let engine = Engine::start(&lab.binary, desk.path(), Some(&key), settings).await?;
        let existing_ms = engine.ready_after.as_secs_f64() * 1e3;
        engine.stop()?;
        eprintln!(
            "idle {run}/{}: {} MiB after the start, {} MiB after a batch; ready after {} ms, {} ms over the existing folder",
            sizes.runs,
            Number(mib(first.bytes)),
            Number(mib(later.bytes)),
            Number(fresh_ms),
            Number(existing_ms),
        );
        at_first.push(mib(first.bytes));
        at_first_of_files.push(mib(first.of_files));
        after_batch.push(mib(later.bytes));
        after_batch_of_files.push(mib(later.of_files));
        existing.push(existing_ms);
    }
    let memory = Goal::AtMost { target: 40.0, failure: 80.0 };
    table.push("idle memory after the start", memory, " MiB", at_first);
    table.push("- of it pages of files", Goal::Told, " MiB", at_first_of_files);
    let items = Number(f64::from(sizes.idle_items));
    table.push(format!("idle memory after a batch of {items}"), memory, " MiB", after_batch);
    table.push("- of it pages of files", Goal::Told, " MiB", after_batch_of_files);
    let ready = Goal::AtMost { target: 200.0, failure: 500.0 };
    table.push("start to ready, fresh folder", ready, " ms", fresh);
    table.push(format!("start to ready, folder with {items} outcomes"), ready, " ms", existing);
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
