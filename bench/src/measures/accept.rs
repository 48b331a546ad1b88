//! Rows accepted over HTTP: one part in one request, decoded, checked, rendered once, packed and durably stored.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::Lab;
use crate::client::Coding;
use crate::engine::{Engine, Settings};
use crate::figures::{Number, Runs};
use crate::table::{Goal, Table};
use crate::work;

/// Rows a second from the request to its answer.
///
/// # Errors
/// Something did not work.
pub async fn run(lab: &Lab, table: &mut Table) -> anyhow::Result<()> {
    let count = lab.sizes.accepted_rows;
    let plain = work::rows(count);
    let packed = gzip(&plain)?;
    let (mut plain_rates, mut packed_rates) = (Runs::default(), Runs::default());
    let (mut plain_costs, mut packed_costs) = (Runs::default(), Runs::default());
    for run in 1..=lab.sizes.runs {
        // A fresh folder for each run, or the later ones would write into a larger file.
        let desk = lab.desk()?;
        let engine = Engine::start(&lab.binary, desk.path(), None, Settings::default()).await?;
        let client = engine.client()?;
        for (rates, costs, body, coding) in [
            (&mut plain_rates, &mut plain_costs, &plain, Coding::Plain),
            (&mut packed_rates, &mut packed_costs, &packed, Coding::Gzip),
        ] {
            let batch = client.draft().await?;
            let cpu_before = engine.cpu_time()?;
            let seconds = client.put_rows(&batch, u64::from(count), body.clone(), coding).await?;
            let cpu_seconds = (engine.cpu_time()? - cpu_before).as_secs_f64();
            let rate = f64::from(count) / seconds;
            let cost = cpu_seconds * 1e3 / f64::from(count);
            eprintln!(
                "accept {run}/{} {coding:?}: {} rows/s, {} CPU s per 1,000",
                lab.sizes.runs,
                Number(rate),
                Number(cost),
            );
            rates.push(rate);
            costs.push(cost);
        }
        engine.stop()?;
    }
    let what = format!("{} rows of {} bytes accepted over HTTP", Number(f64::from(count)), work::ROW_BYTES);
    table.push(what, Goal::AtLeast { target: 300_000.0, failure: 100_000.0 }, " rows/s", plain_rates);
    table.push("- engine's CPU s per 1,000 rows", Goal::Told, "", plain_costs);
    table.push("- the same rows with gzip", Goal::Told, " rows/s", packed_rates);
    table.push("- engine's CPU s per 1,000 rows with gzip", Goal::Told, "", packed_costs);
    Ok(())
}

fn gzip(bytes: &Bytes) -> anyhow::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::default());
    encoder.write_all(bytes)?;
    Ok(Bytes::from(encoder.finish()?))
}
