//! Journeys of the service that hold on either store. On a fleet what one api did is asked of another one.

use std::collections::BTreeSet;
use std::io::Write as _;

use promptmill_doubles::{Config, Doubles, Fault, FaultPlan};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::chaos::scene::{template, wait_until, wait_until_it};
use crate::server::Http;
use crate::stand::{Kind, Stand, on_both_stands};
use crate::support::Desk;

on_both_stands! {
    rows_come_in_by_parts_in_any_order_and_as_often_as_one_likes,
    a_batch_is_paused_resumed_and_another_one_cancelled,
    results_come_in_the_order_of_rows_and_in_that_of_settling,
    what_failed_runs_again_in_a_batch_of_its_own,
    a_request_that_is_sent_again_anywhere_is_done_once,
    a_generation_answers_at_once_or_later,
    a_finished_batch_is_deleted_and_a_running_one_is_not,
    of_a_tenants_batches_as_many_run_as_the_operator_says,
}

/// A provider, a desk that knows it, and the service.
fn stand(kind: Kind, config: Config) -> (Doubles, Desk, Stand) {
    let doubles = Doubles::start(config).unwrap();
    let mut desk = Desk::new();
    desk.point_at(&doubles);
    let stand = Stand::start(kind, &mut desk);
    (doubles, desk, stand)
}

fn slow() -> Config {
    Config { latency: "20..40".parse().unwrap(), ..Config::default() }
}

fn lines(of: std::ops::Range<u32>) -> String {
    of.map(|n| format!("{}\n", json!({"custom_id": format!("id-{n}"), "variables": {"m": n.to_string()}})))
        .collect()
}

async fn created(client: &Http, more: Value) -> String {
    let mut body = json!({"template": template(), "model": "openai:m"});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    let (status, view) = client.post("/v1/batches", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{view}");
    view["id"].as_str().unwrap().to_owned()
}

/// A batch of so many rows that was sent as one part and submitted.
async fn submitted(client: &Http, rows: u32) -> String {
    let id = created(client, json!({})).await;
    assert_eq!(client.put_rows(&id, 0, lines(0..rows)).await.0, StatusCode::OK);
    assert_eq!(client.step(&format!("/v1/batches/{id}/submit")).await.0, StatusCode::OK);
    id
}

async fn results(client: &Http, batch: &str, query: &str) -> Vec<Value> {
    let text = client.text(&format!("/v1/batches/{batch}/results{query}")).await;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn indexes(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["index"].as_u64().unwrap()).collect()
}

async fn rows_come_in_by_parts_in_any_order_and_as_often_as_one_likes(kind: Kind) {
    let (_doubles, _desk, stand) = stand(kind, Config::default());
    let (here, there) = (stand.client(), stand.elsewhere());
    let id = created(&here, json!({})).await;
    let last = here.put_rows(&id, 7, lines(500..700)).await;
    assert_eq!((last.0, &last.1["rows"]), (StatusCode::OK, &json!(200)), "{}", last.1);
    assert_eq!(there.put_rows(&id, 1, lines(0..10)).await.0, StatusCode::OK);
    // Replaced by another content, packed.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(lines(0..500).as_bytes()).unwrap();
    let request = here.request(Method::PUT, &format!("/v1/batches/{id}/rows/1"));
    let request = request.header("content-type", "application/x-ndjson").header("content-encoding", "gzip");
    assert_eq!(request.body(packed.finish().unwrap()).send().await.unwrap().status(), StatusCode::OK);
    // And the same again.
    assert_eq!(there.put_rows(&id, 7, lines(500..700)).await.1["digest"], last.1["digest"]);
    let bad = there.put_rows(&id, 8, format!("{}{{\"m\": 1}}\n", lines(700..800))).await;
    assert_eq!((bad.0, &bad.1["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_rows")));
    let (_, parts) = there.get(&format!("/v1/batches/{id}/rows")).await;
    let parts: Vec<_> = parts["data"].as_array().unwrap().iter().map(|part| &part["rows"]).collect();
    assert_eq!(parts, [500, 200]);
    assert_eq!(there.step(&format!("/v1/batches/{id}/submit")).await.0, StatusCode::OK);
    let view = here.wait_for_state(&id, &["completed"]).await;
    assert_eq!((&view["rows"], &view["counts"]["succeeded"]), (&json!(700), &json!(700)));
    for (n, line) in results(&there, &id, "").await.iter().enumerate() {
        assert_eq!((&line["index"], &line["custom_id"]), (&json!(n), &json!(format!("id-{n}"))));
        assert!(line["output"].as_str().unwrap().contains(&format!("(row {n})")), "{line}");
    }
    stand.stop();
}

async fn a_batch_is_paused_resumed_and_another_one_cancelled(kind: Kind) {
    let (doubles, _desk, stand) = stand(kind, slow());
    let (here, there) = (stand.client(), stand.elsewhere());
    let rows: Vec<Value> = (0..400).map(|n| json!({"variables": {"m": n.to_string()}})).collect();
    let id = created(&here, json!({"rows": rows, "max_concurrency": 4})).await;
    let calls = || doubles.ledger().totals().calls;
    wait_until("some calls", || calls() > 20);
    assert_eq!(there.step(&format!("/v1/batches/{id}/pause")).await.1["state"], "paused");
    // What is under way ends, and nothing follows it.
    wait_until_it("everything in hand to be settled or let go", async || {
        let counts = here.get(&format!("/v1/batches/{id}")).await.1["counts"].clone();
        counts["leased"] == 0 && counts["settled"] == calls()
    })
    .await;
    let at_rest = calls();
    assert!(at_rest < 400, "it was paused while it ran");
    assert_eq!(here.step(&format!("/v1/batches/{id}/resume")).await.0, StatusCode::OK);
    let view = there.wait_for_state(&id, &["completed"]).await;
    assert_eq!((&view["counts"]["succeeded"], calls()), (&json!(400), 400));

    let id = submitted(&there, 5_000).await;
    wait_until_it("some outcomes", async || {
        let view = here.get(&format!("/v1/batches/{id}")).await.1;
        view["counts"]["succeeded"].as_u64().is_some_and(|succeeded| succeeded > 0)
    })
    .await;
    assert_eq!(here.step(&format!("/v1/batches/{id}/cancel")).await.0, StatusCode::OK);
    let view = there.wait_for_state(&id, &["cancelled"]).await;
    let count = |name: &str| view["counts"][name].as_u64().unwrap();
    assert_eq!(count("succeeded") + count("cancelled"), 5_000, "{view}");
    assert!(count("succeeded") > 0 && count("cancelled") > 0, "{view}");
    assert_eq!(here.step(&format!("/v1/batches/{id}/resume")).await.0, StatusCode::CONFLICT);
    stand.stop();
}

async fn results_come_in_the_order_of_rows_and_in_that_of_settling(kind: Kind) {
    let (_doubles, _desk, stand) = stand(kind, slow());
    let (here, there) = (stand.client(), stand.elsewhere());
    let id = submitted(&here, 600).await;
    // Read while they settle, now at this api and now at that one, each going on from the cursor of the other.
    let (mut settled, mut after) = (Vec::new(), String::new());
    for client in [&here, &there].into_iter().cycle() {
        let query = format!("?order=settled&wait=30&end=true&limit=100{after}");
        let mut page = results(client, &id, &query).await;
        let end = page.pop().unwrap();
        assert_eq!((&end["_end"], &end["count"]), (&json!(true), &json!(page.len())));
        if let Some(last) = page.last() {
            after = format!("&after={}", last["cursor"].as_str().unwrap());
        }
        settled.extend(page);
        if end["complete"] == true {
            break;
        }
    }
    assert_eq!(settled.len(), 600, "each outcome once");
    let distinct: BTreeSet<u64> = indexes(&settled).into_iter().collect();
    assert_eq!(distinct.len(), 600);
    there.wait_for_state(&id, &["completed"]).await;
    assert_eq!(indexes(&results(&there, &id, "?order=settled").await), indexes(&settled));
    assert_eq!(indexes(&results(&there, &id, "").await), (0..600).collect::<Vec<_>>());
    stand.stop();
}

async fn what_failed_runs_again_in_a_batch_of_its_own(kind: Kind) {
    let plan =
        (0..5).fold(FaultPlan::none(), |plan, n| plan.always_for(format!("{}", n * 11), Fault::Filtered));
    let (doubles, _desk, stand) = stand(kind, Config { plan, ..Config::default() });
    let (here, there) = (stand.client(), stand.elsewhere());
    let id = submitted(&here, 60).await;
    let view = there.wait_for_state(&id, &["completed"]).await;
    assert_eq!((&view["counts"]["succeeded"], &view["counts"]["failed"]), (&json!(55), &json!(5)), "{view}");
    let failed = results(&there, &id, "?outcome=failed").await;
    assert_eq!(indexes(&failed), [0, 11, 22, 33, 44]);
    doubles.set_plan(FaultPlan::none());
    let (status, retry) = there.post(&format!("/v1/batches/{id}/retry"), &json!({})).await;
    assert_eq!(status, StatusCode::CREATED, "{retry}");
    let retry = retry["id"].as_str().unwrap();
    let view = here.wait_for_state(retry, &["completed"]).await;
    assert_eq!((&view["rows"], &view["retry_of"]["batch"]), (&json!(5), &json!(id)));
    let merged = results(&there, retry, "?merged=true").await;
    assert_eq!(indexes(&merged), (0..60).collect::<Vec<_>>());
    assert!(merged.iter().all(|line| line["outcome"] == "succeeded"));
    stand.stop();
}

async fn a_request_that_is_sent_again_anywhere_is_done_once(kind: Kind) {
    let (_doubles, _desk, stand) = stand(kind, Config::default());
    let (here, there) = (stand.client(), stand.elsewhere());
    let rows: Vec<Value> = (0..50).map(|n| json!({"variables": {"m": n.to_string()}})).collect();
    let body = json!({"template": template(), "model": "openai:m", "rows": rows}).to_string();
    let post = |client: &Http, key: &str, body: &str| {
        let request = client.request(Method::POST, "/v1/batches").header("content-type", "application/json");
        request.header("idempotency-key", key).body(body.to_owned()).send()
    };
    // Eight at the same moment, four at each api: one makes it, the others are told the same or to come again.
    let mut tasks = tokio::task::JoinSet::new();
    for client in [&here, &there].into_iter().cycle().take(8) {
        tasks.spawn(post(client, "at-once", &body));
    }
    let mut ids = BTreeSet::new();
    for answer in tasks.join_all().await {
        let answer = answer.unwrap();
        if answer.status() == StatusCode::CREATED {
            let view: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            ids.insert(view["id"].as_str().unwrap().to_owned());
        } else {
            assert_eq!(answer.status(), StatusCode::CONFLICT);
        }
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    let replayed = post(&there, "at-once", &body).await.unwrap();
    assert_eq!(replayed.headers()["idempotency-replayed"], "true");
    assert!(replayed.text().await.unwrap().contains(ids.first().unwrap()));
    let other = post(&there, "at-once", &body.replace("\"m\":\"1\"", "\"m\":\"x\"")).await.unwrap();
    assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let (_, listed) = here.get("/v1/batches").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    here.wait_for_state(ids.first().unwrap(), &["completed"]).await;
    stand.stop();
}

async fn a_generation_answers_at_once_or_later(kind: Kind) {
    let (_doubles, _desk, stand) = stand(kind, slow());
    let (here, there) = (stand.client(), stand.elsewhere());
    let body = json!({"template": template(), "model": "openai:m", "variables": {"m": "one"}}).to_string();
    let post = |wait: &str| {
        let request =
            here.request(Method::POST, "/v1/generations").header("content-type", "application/json");
        request.header("prefer", format!("wait={wait}")).body(body.clone()).send()
    };
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let waited = post("30").await.unwrap();
    assert_eq!(waited.status(), StatusCode::OK);
    let waited = read(&waited.text().await.unwrap());
    assert!(waited["output"].as_str().unwrap().contains("(row one)"), "{waited}");
    let path = format!("/v1/generations/{}", waited["id"].as_str().unwrap());
    assert_eq!(there.get(&path).await.1, waited);

    let later = post("0").await.unwrap();
    assert_eq!(later.status(), StatusCode::ACCEPTED);
    let path = later.headers()["location"].to_str().unwrap().to_owned();
    wait_until_it("the generation to end", async || there.get(&path).await.1["state"] == "succeeded").await;
    stand.stop();
}

async fn a_finished_batch_is_deleted_and_a_running_one_is_not(kind: Kind) {
    let (_doubles, _desk, stand) = stand(kind, slow());
    let (here, there) = (stand.client(), stand.elsewhere());
    let id = submitted(&here, 500).await;
    let path = format!("/v1/batches/{id}");
    assert_eq!(there.delete(&path).await.0, StatusCode::CONFLICT);
    here.wait_for_state(&id, &["completed"]).await;
    assert_eq!(there.delete(&path).await.0, StatusCode::NO_CONTENT);
    for client in [&here, &there] {
        assert_eq!(client.get(&path).await.0, StatusCode::NOT_FOUND);
        assert_eq!(client.get(&format!("{path}/items/0")).await.0, StatusCode::NOT_FOUND);
    }
    wait_until_it("nothing of it to be stored", async || {
        here.get("/v1/limits").await.1["used"]["stored_bytes"] == 0
    })
    .await;
    stand.stop();
}

async fn of_a_tenants_batches_as_many_run_as_the_operator_says(kind: Kind) {
    let doubles = Doubles::start(slow()).unwrap();
    let mut desk = Desk::new();
    desk.point_at(&doubles);
    desk.set("PROMPTMILL_RUNNING_BATCHES", "1");
    let stand = Stand::start(kind, &mut desk);
    let (here, there) = (stand.client(), stand.elsewhere());
    let calls = || doubles.ledger().totals().calls;
    assert_eq!(there.get("/v1/limits").await.1["running_batches"], 1);
    let first = submitted(&here, 5_000).await;
    wait_until("the first calls", || calls() > 0);
    let second = submitted(&there, 1).await;
    let before = calls();
    wait_until("a hundred more", || calls() > before + 100);
    assert_eq!(here.get(&format!("/v1/batches/{second}")).await.1["state"], "queued");
    assert_eq!(there.step(&format!("/v1/batches/{first}/cancel")).await.0, StatusCode::OK);
    let view = here.wait_for_state(&second, &["completed"]).await;
    assert_eq!(view["counts"]["succeeded"], 1, "{view}");
    stand.stop();
}
