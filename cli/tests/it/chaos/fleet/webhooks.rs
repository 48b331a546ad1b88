//! kill -9 of schedulers while they deliver.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::seed;
use crate::chaos::scene::wait_until_it;
use crate::fleet::{Fleet, Size};
use crate::support::{Desk, ticket_template};
use crate::webhooks::{Listening, SECRET};

/// Endpoints that take what they are sent.
const TAKING: usize = 8;

/// With those that do not, 2,000 deliveries.
const BATCHES: usize = 200;

/// What a receiver was sent, as it printed it.
fn lines(desk: &Desk, n: usize) -> Vec<Value> {
    let file = format!("lines-{n}.txt");
    // The last line may be half written.
    desk.read(&file).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A receiver that wants no more.
async fn gone() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 64 * 1024]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_schedulers_during_2_000_deliveries_loses_no_event_and_invents_none() {
    let mut dice = StdRng::seed_from_u64(seed(1));
    let mut desk = Desk::new();
    let mut fleet = Fleet::new(&mut desk, Size { schedulers: 2, ..Size::ONE });
    let client = fleet.client();
    let listening: Vec<_> = (0..TAKING)
        .map(|n| Listening::start(&desk, SECRET, &["--json"], &format!("lines-{n}.txt")))
        .collect();
    // One that takes connections and nothing else, and one that wants no more.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut urls: Vec<_> = listening.iter().map(|listening| format!("{}/hook", listening.url)).collect();
    urls.extend([hanging.local_addr().unwrap(), gone().await].map(|address| format!("http://{address}/")));
    let mut endpoints = Vec::new();
    for url in &urls {
        let (status, endpoint) = client.post("/v1/endpoints", &json!({"url": url, "secret": SECRET})).await;
        assert_eq!(status, StatusCode::CREATED, "{endpoint}");
        endpoints.push(endpoint["id"].as_str().unwrap().to_owned());
    }

    let submitting = {
        let client = client.clone();
        tokio::spawn(async move {
            let mut batches = BTreeSet::new();
            for n in 0..BATCHES {
                let rows = [json!({"variables": {"n": n}})];
                let body = json!({"template": ticket_template(), "model": "demo:any", "rows": rows});
                let (status, batch) = client.post("/v1/batches", &body).await;
                assert_eq!(status, StatusCode::CREATED, "{batch}");
                batches.insert(batch["id"].as_str().unwrap().to_owned());
            }
            batches
        })
    };
    let came = |desk: &Desk| (0..TAKING).map(|n| lines(desk, n).len()).sum::<usize>();
    // The one that leads, most of the time, and sometimes both.
    for _ in 0..6 {
        let next = came(&desk) + dice.random_range(40..200);
        wait_until_it("more deliveries", async || came(&desk) >= next).await;
        let first = dice.random_range(0..2);
        fleet.schedulers[first].kill();
        if dice.random_range(0..3) == 0 {
            fleet.schedulers[1 - first].kill();
            fleet.schedulers[1 - first].restart(&desk);
        }
        fleet.schedulers[first].restart(&desk);
    }
    let batches = submitting.await.unwrap();
    assert_eq!(batches.len(), BATCHES);
    let told = |desk: &Desk, n: usize| {
        let batch = |line: &Value| line["event"]["data"]["batch_id"].as_str().map(str::to_owned);
        lines(desk, n).iter().filter_map(batch).collect::<BTreeSet<_>>()
    };
    for n in 0..TAKING {
        wait_until_it("every event", async || told(&desk, n) == batches).await;
    }

    // Each event has one id, whomever it went to and however often, and tells what is so.
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut off: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for n in 0..TAKING {
        let is_told = |line: &Value| line["event"]["type"] == "endpoint.disabled";
        wait_until_it("the endpoint that is off", async || lines(&desk, n).iter().any(is_told)).await;
    }
    for n in 0..TAKING {
        for line in lines(&desk, n) {
            let (event, data) = (&line["event"], &line["event"]["data"]);
            assert_eq!(line["verified"], true, "{line}");
            if event["type"] == "endpoint.disabled" {
                // Of the one that wants no more all others are told.
                assert_eq!(data["endpoint_id"], endpoints[TAKING + 1], "{line}");
                off.entry(n).or_default().insert(line["id"].as_str().unwrap().to_owned());
                continue;
            }
            assert_eq!(
                (&event["type"], &data["state"]),
                (&json!("batch.completed"), &json!("completed")),
                "{line}"
            );
            assert_eq!(
                (&data["counts"]["succeeded"], &data["counts"]["settled"]),
                (&json!(1), &json!(1)),
                "{line}"
            );
            let batch = data["batch_id"].as_str().unwrap().to_owned();
            ids.entry(batch).or_default().insert(line["id"].as_str().unwrap().to_owned());
        }
    }
    let once = off.values().flatten().collect::<BTreeSet<_>>();
    assert_eq!((off.len(), once.len()), (TAKING, 1), "one event, one id: {off:?}");
    for (batch, ids) in &ids {
        assert_eq!(ids.len(), 1, "{batch}: {ids:?}");
        let (_, view) = client.get(&format!("/v1/batches/{batch}")).await;
        assert_eq!(view["state"], "completed", "{view}");
        // Every delivery is written down: a try that was not, because its scheduler was killed, is repeated. What did not reach its receiver waits.
        let hanging = &endpoints[TAKING];
        wait_until_it("what became of each delivery", async || {
            let (_, list) = client.get(&format!("/v1/batches/{batch}/deliveries")).await;
            let deliveries = list["data"].as_array().unwrap();
            endpoints[..=TAKING].iter().all(|endpoint| {
                let its = deliveries.iter().filter(|delivery| delivery["endpoint_id"] == **endpoint);
                let states: Vec<_> = its.map(|delivery| delivery["state"].as_str().unwrap()).collect();
                states == [if endpoint == hanging { "pending" } else { "delivered" }]
            })
        })
        .await;
    }
    let (_, off) = client.get(&format!("/v1/endpoints/{}", endpoints[TAKING + 1])).await;
    assert_eq!((&off["enabled"], &off["disabled_because"]), (&json!(false), &json!("gone")), "{off}");
    for listening in listening {
        listening.stop();
    }
    fleet.stop();
}
