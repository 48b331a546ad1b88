//! Row sets from outside: sent in versions, read, taken by schedules, deleted.

use promptmill_api::ApiConfig;
use reqwest::Method;
use serde_json::{Value, json};

use crate::desk::{body, merge};
use crate::support::{Answer, Options, Service, send, wait_for};

async fn put(service: &Service, name: &str, kind: &str, rows: impl Into<String>) -> Answer {
    let request = service.request(Method::PUT, &format!("/v1/row-sets/{name}"));
    send(request.header("content-type", kind.to_owned()).body(rows.into())).await
}

async fn ndjson(service: &Service, name: &str, rows: impl Into<String>) -> Answer {
    put(service, name, "application/x-ndjson", rows).await
}

fn versions(set: &Value) -> Vec<(u64, u64)> {
    let versions = set["versions"].as_array().unwrap().iter();
    versions.map(|one| (one["version"].as_u64().unwrap(), one["rows"].as_u64().unwrap())).collect()
}

/// A schedule of the topics in a row set.
fn wish(row_set: &Value, extra: Value) -> Value {
    let mut wish = json!({"every": 3_600, "rows_from": row_set, "batch": body(json!({"model": "demo:any"}))});
    merge(&mut wish, extra);
    wish
}

#[tokio::test]
async fn rows_become_versions_and_the_same_rows_none() {
    let service = Service::start().await;
    let one = "{\"variables\":{\"topic\":\"a\"}}\n";
    let made = ndjson(&service, "topics", one).await;
    let made = made.expect(201);
    assert_eq!((&made["name"], versions(made)), (&json!("topics"), vec![(1, 1)]));
    assert_eq!(versions(ndjson(&service, "topics", one).await.expect(200)), [(1, 1)]);
    let two = put(&service, "topics", "text/csv", "topic\nb\nc\n").await;
    assert_eq!(versions(two.expect(200)), [(2, 2), (1, 1)]);
    let three = ndjson(&service, "topics", one).await;
    assert_eq!(
        (versions(three.expect(200)), &three.json["latest"]),
        (vec![(3, 1), (2, 2), (1, 1)], &json!(3))
    );
    ndjson(&service, "others", one).await.expect(201);
    let mut names: Vec<_> = Vec::new();
    let mut next = String::from("/v1/row-sets?limit=1");
    loop {
        let page = service.get(&next).await;
        let page = page.expect(200);
        names.extend(page["data"].as_array().unwrap().iter().map(|set| set["name"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("/v1/row-sets?limit=1&cursor={cursor}"),
            None => break,
        }
    }
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["others", "topics"]);
    let delete =
        async |path: &str| send(service.request(Method::DELETE, &format!("/v1/row-sets/{path}"))).await;
    delete("topics/versions/2").await.expect(204);
    delete("topics/versions/2").await.problem(404, "not_found");
    delete("topics/versions/3").await.problem(409, "conflict");
    assert_eq!(versions(service.get("/v1/row-sets/topics").await.expect(200)), [(3, 1), (1, 1)]);
    delete("topics").await.expect(204);
    delete("topics").await.problem(404, "not_found");
    service.get("/v1/row-sets/topics").await.problem(404, "not_found");
}

#[tokio::test]
async fn what_are_no_rows_is_told_and_leaves_nothing() {
    let service = Service::start().await;
    ndjson(&service, "Topics", "{}\n").await.problem(400, "bad_request");
    put(&service, "topics", "application/json", "{}").await.problem(415, "unsupported_media_type");
    let twice = "{\"custom_id\":\"a\",\"variables\":{}}\n{\"custom_id\":\"a\",\"variables\":{}}\n[]\n";
    let answer = ndjson(&service, "topics", twice).await;
    answer.problem(422, "invalid_rows");
    let lines: Vec<_> =
        answer.json["errors"].as_array().unwrap().iter().map(|error| &error["line"]).collect();
    assert_eq!(lines, [2, 3]);
    ndjson(&service, "topics", "").await.problem(422, "invalid_rows");
    service.get("/v1/row-sets/topics").await.problem(404, "not_found");
}

#[tokio::test]
async fn an_id_that_stands_twice_among_very_many_is_found() {
    let service = Service::start().await;
    let mut rows = String::new();
    for n in 0..200_100_u32 {
        let id = if n == 200_099 { 200_050 } else { n };
        rows.push_str(&format!("{{\"custom_id\":\"r{id}\",\"variables\":{{}}}}\n"));
    }
    let answer = ndjson(&service, "many", rows).await;
    let problem = answer.problem(422, "invalid_rows");
    assert_eq!(problem["errors"][0]["detail"], "rows 200051 and 200100 have the same custom_id");
    service.get("/v1/row-sets/many").await.problem(404, "not_found");
}

#[tokio::test]
async fn a_schedule_takes_the_newest_rows_at_each_tick_or_those_of_its_version() {
    let options = Options::working();
    let config = ApiConfig { schedule_seconds: 1, ..options.config };
    let service = Service::start_with(Options { config, ..options }).await;
    let topic = |topic: &str| format!("{{\"variables\":{{\"topic\":\"{topic}\"}}}}\n");
    ndjson(&service, "topics", topic("a")).await.expect(201);
    let make = async |from: Value| {
        let answer = service.post("/v1/schedules", &wish(&from, json!({}))).await;
        answer.expect(201).clone()
    };
    let newest = make(json!({"row_set": "topics"})).await;
    let first = make(json!({"row_set": "topics", "version": 1})).await;
    let from = |version: Value| {
        json!({
            "row_set": "topics", "version": version, "url": null, "format": null, "headers": [], "previous_run": null,
        })
    };
    assert_eq!(newest["rows_from"], from(Value::Null));
    assert_eq!(first["rows_from"], from(json!(1)));
    ndjson(&service, "topics", topic("b") + &topic("c")).await.expect(200);
    for (schedule, rows) in [(&newest, 2), (&first, 1)] {
        let id = schedule["id"].as_str().unwrap();
        service.post(&format!("/v1/schedules/{id}/run"), &json!({})).await.expect(202);
        wait_for("the run ends", async || {
            let ticks = service.get(&format!("/v1/schedules/{id}/ticks")).await;
            let tick = ticks.expect(200)["data"][0].clone();
            (tick["state"] == "ended").then(|| assert_eq!(tick["batch"]["succeeded"], rows))
        })
        .await;
    }
    let refused = async |from: Value| {
        let answer = service.post("/v1/schedules", &wish(&from, json!({}))).await;
        (answer.status.as_u16(), answer.pointers().join(" "))
    };
    assert_eq!(refused(json!({"row_set": "absent"})).await, (422, "/rows_from/row_set".to_owned()));
    let version = json!({"row_set": "topics", "version": 3});
    assert_eq!(refused(version).await, (422, "/rows_from/version".to_owned()));
    ndjson(&service, "towns", "{\"variables\":{\"town\":\"a\"}}\n").await.expect(201);
    let (status, pointers) = refused(json!({"row_set": "towns"})).await;
    assert!(status == 422 && pointers.starts_with("/rows_from/row_set"), "{status} {pointers}");
    let both = wish(&json!({"row_set": "topics"}), json!({}));
    let mut both = both;
    both["batch"]["rows"] = json!([{"variables": {"topic": "a"}}]);
    let answer = service.post("/v1/schedules", &both).await;
    answer.problem(422, "invalid");
    assert_eq!(answer.pointers(), ["/rows_from"]);
}
