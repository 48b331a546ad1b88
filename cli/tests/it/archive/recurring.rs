//! What recurs moves with the rest: ticks go on where they were, with the rows they had.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use promptmill_doubles::{Config, Doubles};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{moved, place, start};
use crate::chaos::scene::{template, wait_until_it};
use crate::server::Http;
use crate::stand::Kind;
use crate::support::Desk;

/// Rows of the newest version of the row set.
const ROWS: u64 = 3;

/// A desk whose schedules may be due every second, and whose runs do not wait until other batches are over.
pub(super) fn every_second(desk: &mut Desk) {
    desk.set("PROMPTMILL_SCHEDULE_SECONDS", "1");
    desk.set("PROMPTMILL_RUNNING_BATCHES", "1000");
}

async fn put_set(client: &Http, name: &str, rows: u64) {
    let rows: String =
        (0..rows).map(|n| format!("{}\n", json!({"variables": {"m": n.to_string()}}))).collect();
    let request = client.request(Method::PUT, &format!("/v1/row-sets/{name}"));
    let answer = request.header("content-type", "application/x-ndjson").body(rows).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

/// Makes a schedule that is due every second and runs what `batch` adds; answers its path.
async fn made(client: &Http, more: Value, batch: Value) -> String {
    let mut wish = json!({"every": 1, "batch": {"template": template(), "model": "openai:m"}});
    wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    wish["batch"].as_object_mut().unwrap().extend(batch.as_object().unwrap().clone());
    let (status, view) = client.post("/v1/schedules", &wish).await;
    assert_eq!(status, StatusCode::CREATED, "{view}");
    format!("/v1/schedules/{}", view["id"].as_str().unwrap())
}

/// The ticks of a schedule that are over, newest first.
async fn over(client: &Http, schedule: &str) -> Vec<Value> {
    let (status, list) = client.get(&format!("{schedule}/ticks?limit=100")).await;
    assert_eq!(status, StatusCode::OK, "{list}");
    let ticks = list["data"].as_array().unwrap().iter();
    ticks.filter(|tick| tick["state"] == "ended").cloned().collect()
}

async fn schedules_go_on_elsewhere(from: Kind, to: Kind) {
    // Long enough that some of them run while they are exported.
    let doubles =
        Doubles::start(Config { latency: "400..700".parse().unwrap(), ..Config::default() }).unwrap();
    let mut desk = Desk::new();
    every_second(&mut desk);
    desk.point_at(&doubles);
    let stand = start(from, &mut desk);
    let client = stand.client();
    put_set(&client, "cities", 1).await;
    put_set(&client, "cities", ROWS).await;
    let rows = json!({"rows": [{"variables": {"m": "own"}}], "webhook_url": "http://127.0.0.1:9/hook"});
    let own = made(&client, json!({"concurrency": "allow"}), rows.clone()).await;
    let of_set = made(&client, json!({"rows_from": {"row_set": "cities"}}), json!({})).await;
    let paused = made(&client, json!({"paused": true, "name": "paused"}), rows).await;
    assert_eq!(client.step(&format!("{paused}/run")).await.0, StatusCode::ACCEPTED);
    for schedule in [&own, &of_set, &paused] {
        wait_until_it("a tick to be over", async || !over(&client, schedule).await.is_empty()).await;
    }
    let mut before = Vec::new();
    for schedule in [&own, &of_set, &paused] {
        before.push(over(&client, schedule).await);
    }
    let args = [&["export", "--all", "--out", "all.pmz"], place(from)].concat();
    let exported = desk.promptmill(&args).check_code(0).check_says(", schedules 3, row sets 1;");
    let key = stand.key().to_owned();
    stand.stop();

    let mut elsewhere = Desk::new();
    every_second(&mut elsewhere);
    elsewhere.point_at(&doubles);
    std::fs::copy(desk.path("all.pmz"), elsewhere.path("all.pmz")).unwrap();
    let stand = moved(to, &desk, &mut elsewhere, &key, &exported.stderr);
    let client = stand.client();
    for (schedule, before) in [&own, &of_set].into_iter().zip(&before) {
        wait_until_it("later ticks to be over", async || {
            over(&client, schedule).await.len() > before.len() + 2
        })
        .await;
    }
    for (schedule, before) in [&own, &of_set, &paused].into_iter().zip(before) {
        let after = over(&client, schedule).await;
        // What was over is what it was, and its batch is there.
        for tick in before {
            assert!(after.contains(&tick), "{tick} is not in {after:?}");
        }
    }
    let newest = &over(&client, &of_set).await[0];
    assert_eq!(newest["batch"]["succeeded"], ROWS, "{newest}");
    // Nothing is left behind: what was to run or ran when it was exported has ended.
    for schedule in [&own, &of_set] {
        let end = client.step(&format!("{schedule}/pause")).await;
        assert_eq!(end.0, StatusCode::OK, "{}", end.1);
    }
    wait_until_it("all ticks to be over", async || {
        let open = async |schedule: &str| {
            let (_, list) = client.get(&format!("{schedule}/ticks?limit=100")).await;
            let ticks = list["data"].as_array().unwrap();
            ticks.iter().any(|tick| tick["state"] == "due" || tick["state"] == "running")
        };
        !open(&own).await && !open(&of_set).await
    })
    .await;
    assert_eq!(client.get(&paused).await.1["state"], "paused");
    assert_eq!(over(&client, &paused).await.len(), 1);
    stand.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_of_serve_go_on_as_those_of_a_fleet() {
    schedules_go_on_elsewhere(Kind::Embedded, Kind::Fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_of_a_fleet_go_on_as_those_of_serve() {
    schedules_go_on_elsewhere(Kind::Fleet, Kind::Embedded).await;
}

/// Schedules and row sets that come, run and are deleted. What they run asks nothing of the provider that the others share.
pub(super) async fn recurs(client: Http, stop: Arc<AtomicBool>) {
    let mut schedules = VecDeque::new();
    for round in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        put_set(&client, "changing", round).await;
        let rows = json!({"model": "demo:any", "rows": [{"variables": {"m": format!("scheduled {round}")}}]});
        let own = made(&client, json!({"concurrency": "allow"}), rows).await;
        let of_set = json!({"rows_from": {"row_set": "changing"}});
        let of_set = made(&client, of_set, json!({"model": "demo:any"})).await;
        assert_eq!(client.step(&format!("{own}/run")).await.0, StatusCode::ACCEPTED);
        while over(&client, &own).await.is_empty() && !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        schedules.extend([own, of_set]);
        while schedules.len() > 4 {
            let oldest = schedules.pop_front().unwrap();
            assert_eq!(client.delete(&oldest).await.0, StatusCode::NO_CONTENT);
        }
        if round % 3 == 0 {
            let deleted = client.delete("/v1/row-sets/changing").await;
            assert_eq!(deleted.0, StatusCode::NO_CONTENT, "{}", deleted.1);
        }
    }
    for schedule in schedules {
        assert_eq!(client.delete(&schedule).await.0, StatusCode::NO_CONTENT);
    }
}
