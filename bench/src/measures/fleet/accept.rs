//! Rows accepted over HTTP, against the plain way to keep them: a document for each row, by `insert_many`.
//!
//! The plain way gets all advantages: its documents are encoded before the clock starts, and nothing is checked or rendered.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bson::oid::ObjectId;
use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::rawdoc;
use serde::Deserialize;

use super::{Sizes, at_least, at_most};
use crate::client::Coding;
use crate::engine::Settings;
use crate::figures::{Number, Runs};
use crate::fleet::Fleet;
use crate::measures::Lab;
use crate::servers::Servers;
use crate::table::{Goal, Table};
use crate::work;

/// Documents of one command: so many that its round trip is nothing beside them.
const TOGETHER: usize = 10_000;

const DATABASE: &str = "plain";

/// Seconds from the request to its answer.
pub(super) async fn run(lab: &Lab<Sizes>, table: &mut Table) -> anyhow::Result<()> {
    let sizes = &lab.sizes;
    let count = sizes.accepted_rows;
    let rows = work::rows(count);
    let inserts = inserts(&rows)?;
    let desk = lab.desk()?;
    // Nothing is submitted, so nobody is called.
    let settings = Settings { threads: sizes.threads, ..Settings::default() };
    let fleet = Fleet::start(&lab.binary, desk.path(), settings).await?;
    let client = fleet.client()?;
    let (mut ours, mut plain, mut ratio) = (Runs::default(), Runs::default(), Runs::default());
    let (mut cpu_ours, mut cpu_mongo) = (Runs::default(), Runs::default());
    for run in 1..=sizes.runs {
        // Neither waits for what MongoDB has still to write of the other.
        fleet.servers.settle();
        let batch = client.draft().await?;
        let cpu_before = fleet.cpu_times()?;
        let seconds = client.put_rows(&batch, count.into(), rows.clone(), Coding::Plain).await?;
        let cpu = fleet.cpu_times()?.since(&cpu_before);
        fleet.servers.settle();
        let plain_seconds = insert(&fleet.servers, &inserts, count)?;
        eprintln!(
            "accept {run}/{}: {} s, insert_many {} s",
            sizes.runs,
            Number(seconds),
            Number(plain_seconds)
        );
        ours.push(seconds);
        plain.push(plain_seconds);
        ratio.push(plain_seconds / seconds);
        let per_1000 = |cpu: Duration| cpu.as_secs_f64() * 1e3 / f64::from(count);
        cpu_ours.push(per_1000(cpu.ours));
        cpu_mongo.push(per_1000(cpu.mongo));
    }
    fleet.stop()?;
    let what = format!("{} rows of {} bytes accepted", Number(f64::from(count)), work::ROW_BYTES);
    table.push(what.clone(), at_most(8.0), " s", ours);
    table.push(
        format!("{what}: times as fast as insert_many of a document for each"),
        at_least(1.0),
        "",
        ratio,
    );
    table.push("- insert_many of a document for each row", Goal::Told, " s", plain);
    table.push("- CPU s per 1,000 rows of api, worker and scheduler", Goal::Told, "", cpu_ours);
    table.push("- CPU s per 1,000 rows of MongoDB", Goal::Told, "", cpu_mongo);
    Ok(())
}

/// A row as the plain way keeps it.
#[derive(Debug, Deserialize)]
struct Row<'a> {
    custom_id: &'a str,
    #[serde(borrow)]
    variables: Variables<'a>,
}

#[derive(Debug, Deserialize)]
struct Variables<'a> {
    n: i64,
    note: &'a str,
}

/// The commands that insert a document for each row.
fn inserts(rows: &[u8]) -> anyhow::Result<Vec<RawDocumentBuf>> {
    let lines: Vec<&[u8]> = rows.split_inclusive(|byte| *byte == b'\n').collect();
    let insert = |lines: &[&[u8]]| {
        let mut documents = RawArrayBuf::new();
        for line in lines {
            let Row { custom_id, variables: Variables { n, note } } = serde_json::from_slice(line)?;
            documents.push(rawdoc! {
                "_id": ObjectId::new(),
                "custom_id": custom_id,
                "variables": { "n": n, "note": note },
            });
        }
        anyhow::Ok(rawdoc! {
            "insert": "rows",
            "documents": documents,
            "writeConcern": { "w": "majority", "j": true },
            "$db": DATABASE,
        })
    };
    lines.chunks(TOGETHER).map(insert).collect()
}

/// Inserts into a new collection, which is dropped behind it; answers how many seconds the inserts took.
fn insert(servers: &Servers, inserts: &[RawDocumentBuf], rows: u32) -> anyhow::Result<f64> {
    let mut connection = servers.mongo.connect()?;
    let begun = Instant::now();
    let mut inserted = 0;
    for command in inserts {
        let answer = connection.run(command)?;
        inserted += i64::from(answer.get_i32("n").context("an insert tells how many it inserted")?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(inserted == i64::from(rows), "{inserted} of {rows} documents were inserted");
    connection.run(&rawdoc! { "dropDatabase": 1, "$db": DATABASE })?;
    Ok(seconds)
}
