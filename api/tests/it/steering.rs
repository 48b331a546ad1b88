//! Steering from outside: paused, resumed, cancelled, changed while it runs, deleted.

use promptmill_ports::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::desk::{Stage, body, draft, in_state, later, lines, made, put_part, rows, working, working_with};
use crate::support::{Options, send, wait_for};

#[tokio::test]
async fn a_batch_is_paused_resumed_and_runs_to_its_end() {
    let stage = Stage::new();
    let service = working(&stage).await;
    let wish = json!({"model": "stage:hold", "rows": rows(40), "max_concurrency": 2});
    let id = made(&service.post("/v1/batches", &body(wish)).await);
    let at = |rest: &str| format!("/v1/batches/{id}/{rest}");
    stage.holds(2).await;
    for _ in 0..2 {
        let paused = service.post(&at("pause"), &Value::Null).await;
        assert_eq!(
            (&paused.expect(200)["state"], &paused.json["pause"]),
            (&json!("paused"), &json!({"reason": "requested"}))
        );
        assert_eq!(paused.json["limited_by"], json!([{"reason": "paused"}]));
    }
    // What is under way ends, and nothing follows it.
    stage.let_go(2);
    stage.holds(0).await;
    wait_for("the two calls are settled", async || {
        let batch = service.get(&format!("/v1/batches/{id}")).await.json;
        (batch["counts"]["settled"] == 2).then_some(())
    })
    .await;
    for _ in 0..2 {
        assert_eq!(service.post(&at("resume"), &Value::Null).await.expect(200)["pause"], Value::Null);
    }
    stage.let_go(38);
    assert_eq!(in_state(&service, &id, "completed").await["counts"]["succeeded"], 40);
    for rest in ["pause", "resume", "cancel"] {
        service.post(&at(rest), &Value::Null).await.problem(409, "conflict");
    }
}

#[tokio::test]
async fn a_cancelled_batch_keeps_what_it_has_and_stays_cancelled() {
    let stage = Stage::new();
    let service = working(&stage).await;
    let wish = json!({"model": "stage:hold", "rows": rows(30), "max_concurrency": 3});
    let id = made(&service.post("/v1/batches", &body(wish)).await);
    stage.holds(3).await;
    stage.let_go(5);
    wait_for("five are settled", async || {
        let batch = service.get(&format!("/v1/batches/{id}")).await.json;
        (batch["counts"]["settled"] == 5).then_some(())
    })
    .await;
    let cancel = format!("/v1/batches/{id}/cancel");
    let state = service.post(&cancel, &Value::Null).await.expect(200)["state"].clone();
    assert!(state == "cancelling" || state == "cancelled", "{state}");
    let batch = in_state(&service, &id, "cancelled").await;
    assert_eq!((&batch["counts"]["succeeded"], &batch["counts"]["cancelled"]), (&json!(5), &json!(25)));
    assert_eq!(service.post(&cancel, &Value::Null).await.expect(200)["state"], "cancelled");
    service.post(&format!("/v1/batches/{id}/resume"), &Value::Null).await.problem(409, "conflict");
    let unborn = draft(&service).await;
    service.post(&format!("/v1/batches/{unborn}/cancel"), &Value::Null).await.problem(409, "conflict");
    stage.let_go(30);
}

#[tokio::test]
async fn changed_limits_hold_while_the_batch_runs() {
    let stage = Stage::new();
    let service = working_with(&stage, Options { concurrency: 32, ..Options::default() }).await;
    let wish = json!({"model": "stage:hold", "rows": rows(600), "max_concurrency": 1});
    let id = made(&service.post("/v1/batches", &body(wish)).await);
    stage.holds(1).await;
    let path = format!("/v1/batches/{id}");
    let limited_by = async |reason: &str| {
        wait_for(&format!("it is limited by {reason}"), async || {
            let batch = service.get(&path).await.json;
            (batch["limited_by"][0]["reason"] == reason).then_some(batch)
        })
        .await
    };
    assert!(limited_by("max_concurrency").await["rate"].is_number());
    let patch = async |change: Value| send(service.request(Method::PATCH, &path).json(&change)).await;
    let before = service.get(&path).await.json["revision"].as_u64().unwrap();
    let wider = patch(
        json!({"max_concurrency": 6, "priority": 5, "max_cost": "3", "deadline": later(), "guard": false}),
    )
    .await;
    let wider = wider.expect(200);
    assert_eq!(
        (&wider["max_concurrency"], &wider["priority"], &wider["guard"]),
        (&json!(6), &json!(5), &json!(false))
    );
    assert_eq!((&wider["max_cost"], &wider["deadline"]), (&json!("3"), &json!(later())));
    assert!(wider["revision"].as_u64().unwrap() > before);
    stage.holds(6).await;
    patch(json!({"max_concurrency": 2})).await.expect(200);
    // Calls end one by one until the narrower limit has reached the worker and is kept.
    wait_for("two calls are under way", async || {
        let held = stage.held.load(std::sync::atomic::Ordering::SeqCst);
        if held > 2 {
            stage.let_go(1);
        }
        (held == 2).then_some(())
    })
    .await;
    let free = patch(
        json!({"max_concurrency": null, "max_cost": null, "deadline": null, "priority": null, "guard": null}),
    )
    .await;
    let free = free.expect(200);
    assert_eq!(
        (&free["max_concurrency"], &free["max_cost"], &free["deadline"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!((&free["priority"], &free["guard"]), (&json!(0), &json!(true)));
    stage.holds(32).await;
    limited_by("worker_slots").await;
    for (bad, pointer) in [
        (json!({"deadline": "2020-01-01T00:00:00Z"}), "/deadline"),
        (json!({"max_concurrency": 0}), "/max_concurrency"),
        (json!({"name": "x"}), "/name"),
    ] {
        let refused = patch(bad).await;
        refused.problem(422, "invalid");
        assert_eq!(refused.pointers(), [pointer]);
    }
    stage.let_go(600);
    in_state(&service, &id, "completed").await;
    patch(json!({"priority": 1})).await.problem(409, "conflict");
}

#[tokio::test]
async fn a_new_deadline_in_reach_expires_what_is_open() {
    let stage = Stage::new();
    let service = working(&stage).await;
    let wish = json!({"model": "stage:hold", "rows": rows(3)});
    let id = made(&service.post("/v1/batches", &body(wish)).await);
    stage.holds(3).await;
    let soon = promptmill_ports::Clock::now_ms(&*service.engine.clock) + 300;
    let soon = jiff::Timestamp::from_millisecond(i64::try_from(soon).unwrap()).unwrap();
    let request = service.request(Method::PATCH, &format!("/v1/batches/{id}"));
    send(request.json(&json!({"deadline": soon.to_string()}))).await.expect(200);
    assert_eq!(in_state(&service, &id, "expired").await["counts"]["expired"], 3);
    stage.let_go(3);
}

#[tokio::test]
async fn drafts_and_final_batches_are_deleted_with_everything() {
    let stage = Stage::new();
    let service = working(&stage).await;
    let id = made(&service.post("/v1/batches", &body(json!({"rows": rows(300)}))).await);
    in_state(&service, &id, "completed").await;
    let unborn = draft(&service).await;
    put_part(&service, &unborn, 0, lines(300)).await.expect(200);
    let busy = json!({"model": "stage:hold", "rows": rows(1)});
    let busy = made(&service.post("/v1/batches", &body(busy)).await);
    let delete = async |id: &str| send(service.request(Method::DELETE, &format!("/v1/batches/{id}"))).await;
    delete(&busy).await.problem(409, "conflict");
    for id in [&id, &unborn] {
        assert_eq!(delete(id).await.status, 204);
        service.get(&format!("/v1/batches/{id}")).await.problem(404, "not_found");
        delete(id).await.problem(404, "not_found");
    }
    stage.let_go(1);
    in_state(&service, &busy, "completed").await;
    assert_eq!(delete(&busy).await.status, 204);
    wait_for("no row is stored", async || {
        let used = service.get("/v1/limits").await.json["used"]["stored_bytes"].clone();
        (used == 0).then_some(())
    })
    .await;
    let member = service.key_of("default", Role::Member, &["batches:read"]).await;
    let request = service.request_as(&member, Method::DELETE, &format!("/v1/batches/{busy}"));
    send(request).await.problem(403, "forbidden");
}
