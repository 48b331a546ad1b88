//! A tenant with ten rows beside one with a hundred thousand. How long the ten wait is measured by `bench/fleet.sh --only neighbours`.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Trial, seed};
use crate::chaos::scene::{rows, template, wait_until, wait_until_it};
use crate::fleet::{Fleet, Servers, Size};
use crate::server::Http;

/// Rows of each part of the large tenant.
const ROWS_A_PART: u32 = 25_000;

/// Parts of it.
const PARTS: u32 = 4;

/// Calls at once.
const SLOTS: u32 = 32;

/// Batches of ten rows, one after another, with and without the large one beside them.
const BATCHES: usize = 20;

/// What one small batch met.
struct Start {
    /// Calls of others between its acknowledgement and its first call.
    waited_calls: u64,
    /// From its acknowledgement until its first row was begun.
    first: Duration,
    /// The same until all of them were.
    waited: Duration,
}

/// Submits ten rows and waits until they are called for.
async fn ten_rows(trial: &mut Trial, client: &Http) -> Start {
    let markers = crate::chaos::scene::markers(&mut trial.dice, 10);
    let ledger = trial.scene.doubles.ledger().clone();
    let body = json!({"template": template(), "model": "openai:m", "rows": rows(&markers)});
    let (status, view) = client.post("/v1/batches", &body).await;
    let (acked, calls) = (Instant::now(), ledger.totals().calls);
    assert_eq!(status, 201, "{view}");
    wait_until("a first row to begin", || markers.iter().any(|marker| ledger.marker(marker).calls > 0));
    let first_waited = acked.elapsed();
    wait_until("ten rows to begin", || markers.iter().all(|marker| ledger.marker(marker).calls > 0));
    let waited = acked.elapsed();
    let first = markers.iter().map(|marker| ledger.marker(marker).history[0].seq).min().unwrap();
    client.wait_for_state(view["id"].as_str().unwrap(), &["completed"]).await;
    Start { waited_calls: first.saturating_sub(calls), first: first_waited, waited }
}

async fn starts(trial: &mut Trial, client: &Http) -> Vec<Start> {
    let mut starts = Vec::new();
    for _ in 0..BATCHES {
        starts.push(ten_rows(trial, client).await);
    }
    starts
}

/// The 19th of twenty.
fn p95<T: Ord>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort();
    values.swap_remove(BATCHES * 95 / 100 - 1)
}

/// Submits the many rows of the large tenant.
async fn very_many_rows(client: &Http, parts: u32) -> String {
    let draft = json!({"template": template(), "model": "openai:m"});
    let (status, view) = client.post("/v1/batches", &draft).await;
    assert_eq!(status, 201, "{view}");
    let id = view["id"].as_str().unwrap().to_owned();
    for part in 0..parts {
        let lines = (0..ROWS_A_PART).map(|n| format!("{{\"m\":\"large-{part}-{n}\"}}\n")).collect();
        let (status, view) = client.put_rows(&id, part, lines).await;
        assert_eq!(status, 200, "{view}");
    }
    let (status, view) = client.step(&format!("/v1/batches/{id}/submit")).await;
    assert_eq!(status, 200, "{view}");
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_rows_begin_soon_beside_a_hundred_thousand_of_another_tenant() {
    let size = Size { concurrency: SLOTS, ..Size::ONE };
    let mut trial = Trial::begin(seed(1), "40..60", Servers::start(), size);
    let large = Http::new(&trial.fleet.apis[0].url, &Fleet::new_key(&trial.scene.desk, "large"));
    let small = trial.client.clone();
    let alone = starts(&mut trial, &small).await;
    let id = very_many_rows(&large, PARTS).await;
    let ledger = trial.scene.doubles.ledger().clone();
    let before = ledger.totals().calls;
    wait_until("the large tenant to have every slot", || {
        ledger.totals().calls > before + 10 * u64::from(SLOTS)
    });
    let beside = starts(&mut trial, &small).await;
    let view = large.get(&format!("/v1/batches/{id}")).await.1;
    assert_eq!(view["state"], "running", "the large batch was there all the time: {view}");

    let ms = |p95: Duration| p95.as_secs_f64() * 1e3;
    let first = |starts: &[Start]| ms(p95(starts.iter().map(|start| start.first)));
    let waited = |starts: &[Start]| ms(p95(starts.iter().map(|start| start.waited)));
    let calls = p95(beside.iter().map(|start| start.waited_calls));
    println!(
        "ten rows begun at p95 within {:.0} ms alone, {:.0} ms beside {} rows; the first of them {:.0} and {:.0} ms, {calls} calls of others before",
        waited(&alone),
        waited(&beside),
        PARTS * ROWS_A_PART,
        first(&alone),
        first(&beside),
    );
    // The worker has up to 360 items of the large tenant begun and twice as many admitted; whoever waited behind those would let more pass.
    assert!(calls <= 10 * u64::from(SLOTS), "{calls} calls of the large tenant went first");

    large.step(&format!("/v1/batches/{id}/cancel")).await;
    wait_until_it("the large batch to be cancelled", async || {
        large.get(&format!("/v1/batches/{id}")).await.1["state"] == "cancelled"
    })
    .await;
    let counts = large.get(&format!("/v1/batches/{id}")).await.1["counts"].clone();
    assert_eq!(counts["settled"], PARTS * ROWS_A_PART, "{counts}");
    trial.fleet.stop();
}
