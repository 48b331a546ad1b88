//! A tenant with ten rows beside one with a hundred thousand, or, with `PROMPTMILL_NEIGHBOURS=full`, a million.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Trial, seed};
use crate::chaos::scene::{rows, template, wait_until, wait_until_it};
use crate::fleet::{Fleet, Servers, Size};
use crate::server::Http;

/// Rows of each part of the large tenant.
const ROWS_A_PART: u32 = 25_000;

/// Batches of ten rows, one after another, with and without the large one beside them.
const BATCHES: usize = 20;

/// How large the neighbour is, and what they share.
struct Scale {
    parts: u32,
    /// Calls at once.
    slots: u32,
    /// Of the provider, milliseconds.
    latency: &'static str,
}

impl Scale {
    fn chosen() -> Self {
        match std::env::var("PROMPTMILL_NEIGHBOURS").as_deref() {
            Ok("full") => Self { parts: 40, slots: 256, latency: "150..250" },
            Ok(other) => panic!("PROMPTMILL_NEIGHBOURS is `full` or not set, and not {other:?}"),
            Err(_) => Self { parts: 4, slots: 32, latency: "40..60" },
        }
    }

    fn rows(&self) -> u32 {
        self.parts * ROWS_A_PART
    }
}

/// What one small batch met.
struct Start {
    /// Calls of others between its acknowledgement and its first call.
    waited_calls: u64,
    /// From its acknowledgement until each of its rows was called for, in order.
    rows: Vec<Duration>,
    /// From before it was submitted until its acknowledgement.
    accepted: Duration,
}

/// Submits ten rows and waits until they are called for.
async fn ten_rows(trial: &mut Trial, client: &Http) -> Start {
    let markers = crate::chaos::scene::markers(&mut trial.dice, 10);
    let ledger = trial.scene.doubles.ledger().clone();
    let body = json!({"template": template(), "model": "openai:m", "rows": rows(&markers)});
    let sent = Instant::now();
    let (status, view) = client.post("/v1/batches", &body).await;
    let (accepted, calls) = (sent.elapsed(), ledger.totals().calls);
    assert_eq!(status, 201, "{view}");
    wait_until("ten rows to begin", || markers.iter().all(|marker| ledger.marker(marker).calls > 0));
    let first_calls = markers.iter().map(|marker| ledger.marker(marker).history[0].clone());
    let first_calls: Vec<_> = first_calls.collect();
    let first = first_calls.iter().map(|call| call.seq).min().unwrap();
    let acked = sent + accepted;
    let begun = |us| (ledger.epoch() + Duration::from_micros(us)).saturating_duration_since(acked);
    let mut rows: Vec<_> = first_calls.iter().map(|call| begun(call.begun_us)).collect();
    rows.sort();
    client.wait_for_state(view["id"].as_str().unwrap(), &["completed"]).await;
    Start { waited_calls: first.saturating_sub(calls), rows, accepted }
}

async fn starts(trial: &mut Trial, client: &Http) -> Vec<Start> {
    let mut starts = Vec::new();
    for _ in 0..BATCHES {
        starts.push(ten_rows(trial, client).await);
    }
    starts
}

/// The value that 95 % of them do not exceed.
fn p95<T: Ord>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort();
    let at = (values.len() * 95).div_ceil(100) - 1;
    values.swap_remove(at)
}

/// Times at p95, milliseconds.
struct Times {
    first: f64,
    rows: f64,
    last: f64,
    from_post: f64,
}

impl Times {
    fn of(starts: &[Start]) -> Self {
        fn ms(times: impl Iterator<Item = Duration>) -> f64 {
            p95(times).as_secs_f64() * 1e3
        }
        Self {
            first: ms(starts.iter().map(|start| start.rows[0])),
            rows: ms(starts.iter().flat_map(|start| start.rows.iter().copied())),
            last: ms(starts.iter().map(|start| start.rows[start.rows.len() - 1])),
            from_post: ms(starts.iter().flat_map(|start| start.rows.iter().map(|row| *row + start.accepted))),
        }
    }
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
    let scale = Scale::chosen();
    let size = Size { concurrency: scale.slots, ..Size::ONE };
    let mut trial = Trial::begin(seed(1), scale.latency, Servers::start(), size);
    let large = Http::new(&trial.fleet.apis[0].url, &Fleet::new_key(&trial.scene.desk, "large"));
    let small = trial.client.clone();
    let alone = starts(&mut trial, &small).await;
    let id = very_many_rows(&large, scale.parts).await;
    let ledger = trial.scene.doubles.ledger().clone();
    let before = ledger.totals().calls;
    wait_until("the large tenant to have every slot", || {
        ledger.totals().calls > before + 10 * u64::from(scale.slots)
    });
    let beside = starts(&mut trial, &small).await;
    let view = large.get(&format!("/v1/batches/{id}")).await.1;
    assert_eq!(view["state"], "running", "the large batch was there all the time: {view}");

    let calls = p95(beside.iter().map(|start| start.waited_calls));
    let [alone, beside] = [alone, beside].map(|starts| Times::of(&starts));
    println!(
        "ten rows begin at p95 within {:.1} ms of the acknowledgement alone, {:.1} ms beside {} rows (the first of ten {:.1} and {:.1}, the last {:.1} and {:.1}, from the request on {:.1} and {:.1} ms), {calls} calls of others before the first",
        alone.rows, beside.rows, scale.rows(), alone.first, beside.first, alone.last, beside.last, alone.from_post, beside.from_post,
    );
    // The worker has as many items of the large tenant begun as it makes calls and 256 more, and twice as many are admitted; whoever waited behind
    // those would let more pass.
    assert!(calls <= u64::from(scale.slots) + 256, "{calls} calls of the large tenant went first");

    large.step(&format!("/v1/batches/{id}/cancel")).await;
    wait_until_it("the large batch to be cancelled", async || {
        large.get(&format!("/v1/batches/{id}")).await.1["state"] == "cancelled"
    })
    .await;
    let counts = large.get(&format!("/v1/batches/{id}")).await.1["counts"].clone();
    assert_eq!(counts["settled"], scale.rows(), "{counts}");
    trial.fleet.stop();
}
