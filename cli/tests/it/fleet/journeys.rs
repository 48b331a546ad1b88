//! What only a fleet can do: processes that come and go, keys without a server, and work that no poll has to find.

use std::time::{Duration, Instant};

use promptmill_doubles::{Config, Doubles};
use reqwest::StatusCode;
use serde_json::json;

use super::{Fleet, Size};
use crate::server::Http;
use crate::support::{Desk, ticket_template, wait_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_told_to_stop_hands_back_what_it_has_not_begun_and_others_go_on_at_once() {
    let doubles =
        Doubles::start(Config { latency: "100..200".parse().unwrap(), ..Config::default() }).unwrap();
    let mut desk = Desk::with_rows(600);
    desk.point_at(&doubles);
    let mut fleet = Fleet::new(&mut desk, Size { workers: 2, concurrency: 8, ..Size::ONE });
    let client = fleet.client();
    let batch = json!({"template": ticket_template(), "model": "openai:m"});
    let (_, draft) = client.post("/v1/batches", &batch).await;
    let id = draft["id"].as_str().unwrap();
    assert_eq!(client.put_rows(id, 0, desk.read("rows.jsonl")).await.0, StatusCode::OK);
    assert_eq!(client.step(&format!("/v1/batches/{id}/submit")).await.0, StatusCode::OK);
    let in_flight = || doubles.ledger().totals().in_flight;
    wait_for("both to call", || in_flight() > 8);
    let (code, log) = fleet.workers.remove(0).stop();
    assert_eq!(code, Some(0), "{log}");
    let view = client.wait_for_state(id, &["completed"]).await;
    assert_eq!(view["counts"]["succeeded"], 600);
    // It waited for its calls, and nobody had to take it for dead first.
    for n in 0..600 {
        assert_eq!(doubles.ledger().marker(&n.to_string()).calls_after_valid, 0, "row {n}");
    }
    let log = fleet.stop();
    assert!(!log.contains("a session died"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_fleet_are_made_without_a_server_and_see_their_own_tenant_alone() {
    let mut desk = Desk::new();
    let mut fleet = Fleet::new(&mut desk, Size::ONE);
    let foreign = Http::new(&fleet.apis[0].url, &Fleet::new_key(&desk, "acme"));
    let (status, mine) = fleet.client().post("/v1/batches", &json!({"model": "demo:any"})).await;
    assert_eq!(status, StatusCode::CREATED, "{mine}");
    assert_eq!(foreign.get("/v1/me").await.1["tenant"], "acme");
    let id = mine["id"].as_str().unwrap();
    assert_eq!(foreign.get(&format!("/v1/batches/{id}")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(foreign.get("/v1/batches").await.1["data"], json!([]));
    fleet.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apis_that_start_together_keep_the_key_that_they_were_given() {
    let mut desk = Desk::new();
    let key = desk.promptmill(&["key", "generate"]).check_code(0).stdout.trim().to_owned();
    desk.set("PROMPTMILL_BOOTSTRAP_KEY", &key);
    let mut fleet = Fleet::new(&mut desk, Size { apis: 2, ..Size::ONE });
    for api in &fleet.apis {
        let (status, me) = Http::new(&api.url, &key).get("/v1/me").await;
        assert_eq!(
            (status, &me["tenant"], &me["role"]),
            (StatusCode::OK, &json!("default"), &json!("owner"))
        );
    }
    let log = fleet.stop();
    assert!(!log.contains(&key), "{log}");
}

/// Far apart: what such a poll would find would come too late for the test.
const POLL: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_row_waits_for_no_poll() {
    let mut desk = Desk::new();
    desk.set("PROMPTMILL_POLL_MS", &POLL.as_millis().to_string());
    let mut fleet = Fleet::new(&mut desk, Size::ONE);
    let client = fleet.client();
    let batch = json!({"template": {"name": "hello", "messages": [{"role": "user", "content": "Hello!"}]},
        "model": "demo:any", "rows": [{"variables": {}}]});
    let mut latencies = Vec::new();
    for _ in 0..6 {
        let sent = Instant::now();
        let (status, view) = client.post("/v1/batches", &batch).await;
        assert_eq!(status, StatusCode::CREATED, "{view}");
        client.wait_for_state(view["id"].as_str().unwrap(), &["completed"]).await;
        latencies.push(sent.elapsed());
    }
    println!("a lone row, from its submit to the end of its batch: {latencies:?}");
    assert!(latencies.iter().sum::<Duration>() < POLL, "{latencies:?}");
    fleet.stop();
}
