//! Schedules from outside: made, listed, changed, paused, run, foretold and deleted.

use promptmill_api::ApiConfig;
use promptmill_egress::UrlPolicy;
use promptmill_ports::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::desk::{body, rows};
use crate::support::{Answer, Options, Service, send, wait_for};

/// Ticks may follow each other by a second, and rows come from this machine.
pub(crate) async fn working() -> Service {
    let options = Options::working();
    let config = ApiConfig { schedule_seconds: 1, sources: UrlPolicy::with_loopback(), ..options.config };
    Service::start_with(Options { config, ..options }).await
}

/// A schedule of two rows, due never within a test, with other members.
pub(crate) fn wish(extra: Value) -> Value {
    let mut wish = json!({"cron": "0 3 29 2 *", "timezone": "Europe/Zurich", "batch": batch(json!({}))});
    crate::desk::merge(&mut wish, extra);
    wish
}

pub(crate) fn batch(extra: Value) -> Value {
    let mut batch = body(json!({"rows": rows(2), "model": "demo:any"}));
    crate::desk::merge(&mut batch, extra);
    batch
}

/// The id of what was made.
#[track_caller]
pub(crate) fn made(answer: &Answer) -> String {
    answer.expect(201)["id"].as_str().unwrap().to_owned()
}

pub(crate) async fn change(service: &Service, id: &str, body: &Value) -> Answer {
    send(service.request(Method::PATCH, &format!("/v1/schedules/{id}")).json(body)).await
}

/// Waits until the schedule's newest tick is in that state; answers it.
pub(crate) async fn newest(service: &Service, id: &str, state: &str) -> Value {
    wait_for(&format!("the newest tick is {state}"), async || {
        let ticks = service.get(&format!("/v1/schedules/{id}/ticks?limit=1")).await;
        let tick = ticks.expect(200)["data"][0].clone();
        (tick["state"] == state).then_some(tick)
    })
    .await
}

#[tokio::test]
async fn a_schedule_is_made_listed_read_and_deleted() {
    let service = Service::start().await;
    let answer = service.post("/v1/schedules", &wish(json!({"name": "leap"}))).await;
    let id = made(&answer);
    assert_eq!(answer.header("location"), format!("/v1/schedules/{id}"));
    let expected = json!({
        "id": id, "name": "leap", "state": "active", "cron": "0 3 29 2 *", "timezone": "Europe/Zurich",
        "every": null, "start": null, "end": null, "jitter": 0, "offset_ms": 0, "concurrency": "skip",
        "misfire": "run_once", "misfire_runs": null, "grace": 60, "retry": null,
        "max_cost_per_month": null, "cost_of_month": null, "paused_at": null,
        "rows_from": null,
        "batch": {"template": null, "model": "demo:any", "name": null, "webhook_url": null, "max_cost": null},
        "next_at": "2028-02-29T02:00:00.000Z",
        "created_at": answer.json["created_at"], "changed_at": answer.json["created_at"],
    });
    assert_eq!(answer.json, expected);
    assert_eq!(service.get(&format!("/v1/schedules/{id}")).await.json, expected);
    let other = made(&service.post("/v1/schedules", &wish(json!({}))).await);
    let first = service.get("/v1/schedules?limit=1").await;
    let first = first.expect(200);
    assert_eq!(first["data"], json!([expected]));
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = service.get(&format!("/v1/schedules?limit=1&cursor={cursor}")).await;
    let second = second.expect(200);
    assert_eq!((&second["data"][0]["id"], &second["next_cursor"]), (&json!(other), &Value::Null));
    let deleted = send(service.request(Method::DELETE, &format!("/v1/schedules/{id}"))).await;
    deleted.expect(204);
    for path in ["", "/ticks", "/next"] {
        service.get(&format!("/v1/schedules/{id}{path}")).await.problem(404, "not_found");
    }
    send(service.request(Method::DELETE, &format!("/v1/schedules/{id}"))).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_request_that_is_repeated_makes_one_schedule() {
    let service = Service::start().await;
    let request = || {
        service.request(Method::POST, "/v1/schedules").header("idempotency-key", "k").json(&wish(json!({})))
    };
    let (first, again) = (send(request()).await, send(request()).await);
    assert_eq!(made(&first), made(&again));
    assert_eq!(service.get("/v1/schedules").await.json["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_a_schedule_is_told_with_its_place() {
    let service = Service::start().await;
    let unlikely = "* ".repeat(60);
    for (extra, pointer) in [
        (json!({"cron": null}), "/cron"),
        (json!({"every": 60}), "/every"),
        (json!({"cron": "0 0 30 2 *"}), "/cron"),
        (json!({"cron": "* * * * * *"}), "/cron"),
        (json!({"cron": "0,30 * * * * *"}), "/cron"),
        (json!({"cron": "0 0 3 * * * 2099"}), "/cron"),
        (json!({"cron": unlikely}), "/cron"),
        (json!({"timezone": "Mars/Base"}), "/timezone"),
        (json!({"timezone": "europe/zurich"}), "/timezone"),
        (json!({"cron": null, "timezone": null, "every": 0}), "/every"),
        (json!({"cron": null, "timezone": null, "every": 59}), "/every"),
        (json!({"cron": null, "timezone": null, "every": 31_622_401}), "/every"),
        (json!({"cron": null, "every": 60}), "/timezone"),
        (json!({"end": "2026-01-01T00:00:00Z"}), "/end"),
        (json!({"start": "9999-12-31T00:00:00Z"}), "/start"),
        (json!({"jitter": 3601}), "/jitter"),
        (json!({"grace": 0}), "/grace"),
        (json!({"misfire": "run_each", "misfire_runs": 101}), "/misfire_runs"),
        (json!({"misfire_runs": 2}), "/misfire_runs"),
        (json!({"retry": {"times": 11}}), "/retry/times"),
        (json!({"max_cost_per_month": "-1"}), "/max_cost_per_month"),
        (json!({"max_cost_per_month": "0"}), "/max_cost_per_month"),
        (json!({"retry": {"times": 1, "after": 86_401}}), "/retry/after"),
        (json!({"name": ""}), "/name"),
        (json!({"batch": batch(json!({"rows": null}))}), "/batch/rows"),
        (json!({"batch": batch(json!({"rows": []}))}), "/batch/rows"),
        (json!({"batch": batch(json!({"model": "nobody:any"}))}), "/batch/model"),
        (json!({"batch": batch(json!({"template": "absent"}))}), "/batch/template"),
        (json!({"batch": batch(json!({"deadline": "2030-01-01T00:00:00Z"}))}), "/batch/deadline"),
    ] {
        let answer = service.post("/v1/schedules", &wish(extra.clone())).await;
        answer.problem(422, "invalid");
        assert_eq!(answer.pointers(), [pointer], "{extra}: {}", answer.text);
    }
    let bad = json!({"batch": batch(json!({"rows": [{"variables": {"topic": 1}}]}))});
    let answer = service.post("/v1/schedules", &wish(bad)).await;
    answer.problem(422, "invalid_rows");
    assert_eq!(answer.pointers(), ["/batch/rows/0/variables/topic"]);
    // Where a run adds to its rows they are held against the template as well.
    let asks =
        json!({"name": "a", "messages": [{"role": "user", "content": "{{ topic }} {{ scheduled_at }}"}]});
    let bad = json!({"batch": batch(json!({"template": asks, "rows": [{"variables": {"other": 1}}]}))});
    let answer = service.post("/v1/schedules", &wish(bad)).await;
    answer.problem(422, "invalid_rows");
    assert!(answer.pointers().contains(&"/batch/rows/0/variables/topic"), "{}", answer.text);
    assert_eq!(service.get("/v1/schedules").await.json["data"], json!([]));
}

#[tokio::test]
async fn next_ticks_are_foretold_in_the_time_zone() {
    let service = Service::start().await;
    let id = made(&service.post("/v1/schedules", &wish(json!({}))).await);
    let next = service.get(&format!("/v1/schedules/{id}/next?count=2")).await;
    assert_eq!(
        next.expect(200)["data"],
        json!([
            {"at": "2028-02-29T02:00:00.000Z", "local": "2028-02-29T03:00:00+01:00"},
            {"at": "2032-02-29T02:00:00.000Z", "local": "2032-02-29T03:00:00+01:00"},
        ])
    );
    for count in ["0", "1001"] {
        service.get(&format!("/v1/schedules/{id}/next?count={count}")).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn a_schedule_is_changed_member_by_member() {
    let service = Service::start().await;
    let wished = wish(json!({"name": "leap", "jitter": 60, "misfire": "run_each", "misfire_runs": 7}));
    let id = made(&service.post("/v1/schedules", &wished).await);
    let same = change(&service, &id, &json!({})).await;
    let same = same.expect(200);
    assert_eq!((&same["misfire_runs"], &same["next_at"]), (&json!(7), &json!("2028-02-29T02:00:00.000Z")));
    let zone = change(&service, &id, &json!({"timezone": "America/New_York", "name": "", "jitter": 0})).await;
    let zone = zone.expect(200);
    assert_eq!(zone["next_at"], "2028-02-29T08:00:00.000Z");
    assert_eq!(
        (&zone["cron"], &zone["name"], &zone["jitter"]),
        (&json!("0 3 29 2 *"), &Value::Null, &json!(0))
    );
    let every =
        change(&service, &id, &json!({"every": 86_400, "concurrency": "replace", "misfire": "skip"})).await;
    let every = every.expect(200);
    assert_eq!(
        (&every["every"], &every["cron"], &every["timezone"]),
        (&json!(86_400), &Value::Null, &Value::Null)
    );
    assert_eq!((&every["concurrency"], &every["misfire"]), (&json!("replace"), &json!("skip")));
    let wrong = change(&service, &id, &json!({"timezone": "Europe/Zurich", "grace": 0})).await;
    wrong.problem(422, "invalid");
    assert_eq!(wrong.pointers(), ["/timezone", "/grace"]);
    let bounds = json!({"timezone": null, "start": "2027-01-01T00:00:00Z", "end": "2027-01-02T12:00:00Z"});
    let bounded = change(&service, &id, &bounds).await;
    assert_eq!(bounded.expect(200)["next_at"], "2027-01-01T00:00:00.000Z");
    let unbounded = change(&service, &id, &json!({"start": null, "end": null})).await;
    let unbounded = unbounded.expect(200);
    assert_eq!((&unbounded["start"], &unbounded["end"]), (&Value::Null, &Value::Null));
    change(&service, "sched_00000000000070008000000000000000", &json!({})).await.problem(404, "not_found");
}

#[tokio::test]
async fn ticks_come_when_they_are_due_until_it_is_paused_and_again_when_it_is_resumed() {
    let service = working().await;
    let asks =
        json!({"name": "a", "messages": [{"role": "user", "content": "{{ topic }} {{ scheduled_at }}"}]});
    let batch = batch(json!({"template": asks, "name": "often", "labels": {"a": "b"}}));
    let answer = service.post("/v1/schedules", &json!({"every": 1, "batch": batch})).await;
    let id = made(&answer);
    let tick = newest(&service, &id, "ended").await;
    assert_eq!((&tick["requested"], &tick["batch"]["succeeded"]), (&json!(false), &json!(2)));
    let batch = service.get(tick["batch"]["url"].as_str().unwrap()).await;
    let batch = batch.expect(200);
    assert_eq!(batch["schedule"], json!({"id": id, "at": tick["at"]}));
    assert_eq!((&batch["name"], &batch["labels"]), (&json!("often"), &json!({"a": "b"})));
    let paused = service.post(&format!("/v1/schedules/{id}/pause"), &json!({})).await;
    let paused = paused.expect(200);
    assert_eq!((&paused["state"], &paused["next_at"]), (&json!("paused"), &Value::Null));
    let at = paused["paused_at"].clone();
    let again = service.post(&format!("/v1/schedules/{id}/pause"), &json!({})).await;
    assert_eq!(again.expect(200)["paused_at"], at);
    let last = newest(&service, &id, "ended").await;
    // It runs all the same when it is asked to.
    let run = service.post(&format!("/v1/schedules/{id}/run"), &json!({})).await;
    let run = run.expect(202);
    assert_eq!((&run["requested"], &run["state"]), (&json!(true), &json!("due")));
    let ran = wait_for("the run that was asked for ends", async || {
        let tick = newest(&service, &id, "ended").await;
        (tick["at"] == run["at"]).then_some(tick)
    })
    .await;
    assert!(ran["at"].as_str() > last["at"].as_str());
    let resumed = service.post(&format!("/v1/schedules/{id}/resume"), &json!({})).await;
    let next = resumed.expect(200)["next_at"].as_str().unwrap().to_owned();
    assert!(next.as_str() > ran["at"].as_str().unwrap());
    wait_for("it goes on", async || {
        let tick = newest(&service, &id, "ended").await;
        (tick["at"].as_str() >= Some(&next)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_template_of_a_schedule_is_a_version_or_is_looked_up_at_each_tick() {
    let service = working().await;
    let template = |text: &str| json!({"name": "city", "messages": [{"role": "user", "content": text}]});
    let made_template = service.post("/v1/templates", &template("One {{ topic }}.")).await;
    let template_id = made_template.expect(201)["id"].as_str().unwrap().to_owned();
    service.post("/v1/templates/city/versions", &template("Two {{ topic }}.")).await.expect(201);
    let label = "/v1/templates/city/labels/production";
    let put = async |version: u32| {
        let request = service.request(Method::PUT, label).json(&json!({"version": version}));
        send(request).await.expect(200);
    };
    put(1).await;
    let of = async |named: &str| {
        let wished = wish(json!({"batch": batch(json!({"template": named}))}));
        service.post("/v1/schedules", &wished).await
    };
    for (named, shown) in [
        ("city".to_owned(), template_id.clone()),
        ("city@1".to_owned(), format!("{template_id}@1")),
        ("city@production".to_owned(), format!("{template_id}@production")),
        (format!("{template_id}@production"), format!("{template_id}@production")),
    ] {
        let answer = of(&named).await;
        assert_eq!(answer.expect(201)["batch"]["template"], shown, "{named}");
    }
    let absent = of("city@staging").await;
    absent.problem(422, "invalid");
    assert_eq!(absent.pointers(), ["/batch/template"]);

    let id = made(&of("city@production").await);
    let run = async || {
        let run = service.post(&format!("/v1/schedules/{id}/run"), &json!({})).await;
        let at = run.expect(202)["at"].clone();
        wait_for("the run is over", async || {
            let ticks = service.get(&format!("/v1/schedules/{id}/ticks?limit=1")).await;
            let tick = ticks.expect(200)["data"][0].clone();
            (tick["at"] == at && (tick["state"] == "ended" || tick["state"] == "failed")).then_some(tick)
        })
        .await
    };
    for version in [1, 2] {
        put(version).await;
        let tick = run().await;
        let batch = service.get(tick["batch"]["url"].as_str().unwrap()).await;
        assert_eq!(batch.expect(200)["template"], json!({"id": template_id, "version": version}));
    }
    send(service.request(Method::DELETE, label)).await.expect(204);
    let tick = run().await;
    assert_eq!((&tick["state"], &tick["batch"]), (&json!("failed"), &Value::Null));
    assert!(tick.to_string().contains("the template has no such label any more"), "{tick}");
}

#[tokio::test]
async fn a_run_is_refused_while_an_earlier_one_goes_on_that_it_would_overlap() {
    let stage = crate::desk::Stage::new();
    let service = crate::desk::working(&stage).await;
    let hold = batch(json!({"model": "stage:hold"}));
    let id = made(&service.post("/v1/schedules", &wish(json!({"batch": hold}))).await);
    let path = format!("/v1/schedules/{id}/run");
    let ask = async |key: &str| {
        send(service.request(Method::POST, &path).header("idempotency-key", key.to_owned())).await
    };
    let first = ask("a").await;
    let at = first.expect(202)["at"].clone();
    assert_eq!(ask("a").await.expect(202)["at"], at);
    ask("b").await.problem(409, "conflict");
    stage.holds(2).await;
    ask("c").await.problem(409, "conflict");
    stage.let_go(2);
    newest(&service, &id, "ended").await;
    change(&service, &id, &json!({"concurrency": "allow"})).await.expect(200);
    ask("d").await.expect(202);
    ask("e").await.expect(202);
    stage.holds(4).await;
    stage.let_go(4);
}

#[tokio::test]
async fn failed_rows_run_again_and_results_are_read_merged() {
    let service = crate::desk::working(&crate::desk::Stage::new()).await;
    let broken = batch(json!({"model": "stage:broken"}));
    let wished = wish(json!({"batch": broken, "retry": {"times": 1, "after": 0}}));
    let answer = service.post("/v1/schedules", &wished).await;
    let id = made(&answer);
    assert_eq!(answer.json["retry"], json!({"times": 1, "after": 0}));
    service.post(&format!("/v1/schedules/{id}/run"), &json!({})).await.expect(202);
    let tick = newest(&service, &id, "ended").await;
    assert_eq!((&tick["retries"], &tick["batch"]["failed"]), (&json!(1), &json!(2)));
    let url = tick["batch"]["url"].as_str().unwrap();
    let last = service.get(url).await;
    let first = last.expect(200)["retry_of"]["batch"].as_str().unwrap().to_owned();
    assert_eq!(last.json["schedule"], service.get(&format!("/v1/batches/{first}")).await.json["schedule"]);
    let merged = service.get(&format!("{url}/results?merged=true")).await;
    assert_eq!(merged.text.lines().count(), 2);
    let none = change(&service, &id, &json!({"retry": {"times": 0}})).await;
    assert_eq!(none.expect(200)["retry"], Value::Null);
}

#[tokio::test]
async fn schedules_need_their_scopes_and_are_their_tenants_alone() {
    let service = Service::start().await;
    let id = made(&service.post("/v1/schedules", &wish(json!({}))).await);
    let stranger = service.key_of("stranger", Role::Owner, &[]).await;
    for (method, path) in [
        (Method::GET, ""),
        (Method::GET, "/ticks"),
        (Method::GET, "/next"),
        (Method::DELETE, ""),
        (Method::POST, "/pause"),
        (Method::POST, "/run"),
    ] {
        let path = format!("/v1/schedules/{id}{path}");
        send(service.request_as(&stranger, method, &path)).await.problem(404, "not_found");
    }
    let reader = service.key_of("default", Role::Owner, &["schedules:read"]).await;
    send(service.request_as(&reader, Method::GET, "/v1/schedules")).await.expect(200);
    for path in ["/pause", "/resume", "/run"] {
        let path = format!("/v1/schedules/{id}{path}");
        send(service.request_as(&reader, Method::POST, &path)).await.problem(403, "forbidden");
    }
    let request = service.request_as(&reader, Method::POST, "/v1/schedules").json(&wish(json!({})));
    send(request).await.problem(403, "forbidden");
    let other = service.key_of("default", Role::Owner, &["batches:read"]).await;
    send(service.request_as(&other, Method::GET, "/v1/schedules")).await.problem(403, "forbidden");
}

#[tokio::test]
async fn the_secret_of_a_webhook_is_told_once_and_signs_each_run() {
    let service = Service::start().await;
    let told = batch(json!({"webhook_url": "http://127.0.0.1:9/hook"}));
    let request = || {
        let request = service.request(Method::POST, "/v1/schedules").header("idempotency-key", "k");
        request.json(&wish(json!({"batch": told})))
    };
    let answer = send(request()).await;
    let id = made(&answer);
    let secret = answer.json["webhook_secret"].as_str().unwrap().to_owned();
    assert_eq!(send(request()).await.json["webhook_secret"], secret);
    let shown = service.get(&format!("/v1/schedules/{id}")).await;
    assert_eq!(shown.expect(200)["webhook_secret"], Value::Null);
    assert_eq!(shown.json["batch"]["webhook_url"], "http://127.0.0.1:9/hook");
}

#[tokio::test]
async fn a_run_is_compared_with_the_one_before_row_by_row() {
    let service = working().await;
    let rows = async |names: &[(&str, &str)]| {
        let row = |(id, topic): &(&str, &str)| {
            let mut row = json!({"variables": {"topic": topic}});
            if !id.is_empty() {
                row["custom_id"] = json!(id);
            }
            format!("{row}\n")
        };
        let body: String = names.iter().map(row).collect();
        let request =
            service.request(Method::PUT, "/v1/row-sets/topics").header("content-type", "application/jsonl");
        assert!(send(request.body(body)).await.status.is_success());
    };
    rows(&[("a", "one"), ("b", "two"), ("", "three"), ("", "four")]).await;
    // The demo tells what it was asked, so another topic is another output, and so is another time.
    let asks = json!({
        "name": "a", "messages": [{"role": "user", "content": "{{ topic }}"}],
        "variables": {"topic": {"type": "string"}, "scheduled_at": {"type": "string"}}
    });
    let batch = body(json!({"template": asks, "model": "demo:any"}));
    let wished = json!({"every": 3_600, "rows_from": {"row_set": "topics"}, "batch": batch});
    let id = made(&service.post("/v1/schedules", &wished).await);
    let run = async || {
        let run = service.post(&format!("/v1/schedules/{id}/run"), &json!({})).await;
        let at = run.expect(202)["at"].as_str().unwrap().to_owned();
        wait_for("the run ends", async || {
            let tick = newest(&service, &id, "ended").await;
            (tick["at"] == at).then_some(())
        })
        .await;
        at
    };
    let compared = async |at: &str, query: &str| {
        service.get(&format!("/v1/schedules/{id}/ticks/{at}/difference{query}")).await
    };
    let first = run().await;
    compared(&first, "").await.problem(409, "conflict");
    let second = run().await;
    let same = compared(&second, "").await;
    let same = same.expect(200);
    assert_eq!((&same["same"], &same["items"], &same["previous_at"]), (&json!(4), &json!([]), &json!(first)));
    rows(&[("a", "one"), ("b", "TWO"), ("c", "five"), ("", "four")]).await;
    let third = run().await;
    let found = compared(&third, "").await;
    let found = found.expect(200);
    let counts = ["new", "gone", "outcome_changed", "output_changed", "same"]
        .map(|name| found[name].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 0, 1, 2], "{found}");
    let mut items = found["items"].as_array().unwrap().clone();
    items.sort_by_key(|item| item["change"].to_string());
    let succeeded = json!("succeeded");
    assert_eq!(
        items,
        [
            json!({"change": "gone", "custom_id": null, "index": null, "previous_index": 2, "outcome": null, "previous_outcome": succeeded}),
            json!({"change": "new", "custom_id": "c", "index": 2, "previous_index": null, "outcome": succeeded, "previous_outcome": null}),
            json!({"change": "output", "custom_id": "b", "index": 1, "previous_index": 1, "outcome": succeeded, "previous_outcome": succeeded}),
        ]
    );
    let short = compared(&third, "?limit=1").await;
    let short = short.expect(200);
    assert_eq!((short["items"].as_array().unwrap().len(), &short["more"]), (1, &json!(true)));
    compared(&third, "?limit=1001").await.problem(400, "bad_request");
    compared("2026-01-01T00:00:00.000Z", "").await.problem(404, "not_found");
}
