//! Retries from outside: what failed runs again in a batch of its own that is linked to the first.

use reqwest::Method;
use serde_json::{Value, json};

use crate::desk::{Stage, body, draft, in_state, made, rows, template, working};
use crate::support::{Service, send, wait_for};

/// A batch of `n` rows with ids `r0`, `r1`, ... that all fail; answers its id.
async fn failed(service: &Service, n: usize, extra: Value) -> String {
    let mut rows = rows(n);
    for (at, row) in rows.as_array_mut().unwrap().iter_mut().enumerate() {
        row["custom_id"] = json!(format!("r{at}"));
    }
    let mut wish = json!({"model": "stage:broken", "rows": rows, "name": "first", "labels": {"a": "b"}, "metadata": {"k": 1}});
    crate::desk::merge(&mut wish, extra);
    let id = made(&service.post("/v1/batches", &body(wish)).await);
    in_state(service, &id, "completed").await;
    id
}

#[tokio::test]
async fn what_failed_runs_again_with_another_model_and_is_linked() {
    let service = working(&Stage::new()).await;
    let first = failed(&service, 300, json!({"webhook_url": "http://127.0.0.1:9/hook", "priority": 3})).await;
    let path = format!("/v1/batches/{first}/retry");
    let answer = service.post(&path, &json!({"model": "stage:quick"})).await;
    let second = made(&answer);
    assert_ne!(first, second);
    let batch = in_state(&service, &second, "completed").await;
    assert_eq!((&batch["rows"], &batch["counts"]["succeeded"]), (&json!(300), &json!(300)));
    let linked = json!({"batch": first, "outcomes": ["failed", "cancelled", "expired"], "reasons": []});
    assert_eq!(batch["retry_of"], linked);
    let kept = (&batch["name"], &batch["labels"], &batch["metadata"], &batch["priority"]);
    assert_eq!(kept, (&json!("first"), &json!({"a": "b"}), &json!({"k": 1}), &json!(3)));
    assert_eq!(
        (&batch["model"], &batch["webhook_url"]),
        (&json!("stage:quick"), &json!("http://127.0.0.1:9/hook"))
    );
    // The secret opens in its new place.
    let tenant = "default".parse().unwrap();
    let spec = service.engine.store.batch(&tenant, second.parse().unwrap()).await.unwrap().spec;
    let sealed = spec.webhook.unwrap().sealed_secret;
    assert!(service.vault.open(&format!("default|webhook|{second}"), &sealed).is_ok());

    let nothing = service.post(&format!("/v1/batches/{second}/retry"), &json!({})).await;
    nothing.problem(422, "invalid");
    let again = json!({"outcomes": ["succeeded"], "model": "stage:broken", "name": "third"});
    let third = made(&service.post(&format!("/v1/batches/{second}/retry"), &again).await);
    let third = in_state(&service, &third, "completed").await;
    assert_eq!(
        (&third["counts"]["failed_by_reason"], &third["name"]),
        (&json!({"content_refused": 300}), &json!("third"))
    );
}

#[tokio::test]
async fn reasons_narrow_what_runs_again() {
    let service = working(&Stage::new()).await;
    let first = failed(&service, 3, json!({})).await;
    let retry = async |wish: Value| service.post(&format!("/v1/batches/{first}/retry"), &wish).await;
    retry(json!({"reasons": ["timeout"]})).await.problem(422, "invalid");
    let second =
        made(&retry(json!({"reasons": ["content_refused", "timeout"], "model": "stage:quick"})).await);
    let batch = in_state(&service, &second, "completed").await;
    assert_eq!(
        (&batch["rows"], &batch["retry_of"]["reasons"]),
        (&json!(3), &json!(["content_refused", "timeout"]))
    );
    for (bad, pointer) in [
        (json!({"reasons": ["bad_luck"]}), "/reasons/0"),
        (json!({"outcomes": ["open"]}), "/outcomes/0"),
        (json!({"model": "quick"}), "/model"),
        (json!({"model": "nobody:x"}), "/model"),
        (json!({"template_version": 1}), "/template_version"),
        (json!({"name": ""}), "/name"),
        (json!({"wish": 1}), "/wish"),
    ] {
        let refused = retry(bad).await;
        refused.problem(422, "invalid");
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text);
    }
}

#[tokio::test]
async fn only_a_final_batch_is_retried_and_the_same_key_makes_one() {
    let service = working(&Stage::new()).await;
    let unborn = draft(&service).await;
    service.post(&format!("/v1/batches/{unborn}/retry"), &json!({})).await.problem(409, "conflict");
    let first = failed(&service, 2, json!({})).await;
    let retry = || async {
        let request = service.request(Method::POST, &format!("/v1/batches/{first}/retry"));
        send(request.header("idempotency-key", "again").json(&json!({}))).await
    };
    let (one, two) = (retry().await, retry().await);
    assert_eq!(made(&one), made(&two));
    assert_eq!(service.get("/v1/batches").await.json["data"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn another_version_of_the_template_checks_the_rows_again() {
    let service = working(&Stage::new()).await;
    service.post("/v1/templates", &template()).await.expect(201);
    let first = failed(&service, 12, json!({"template": "ask@1"})).await;
    let mut second = template();
    second["messages"][0]["content"] = json!("Say it shorter: {{ topic }}");
    service.post("/v1/templates/ask/versions", &second).await.expect(201);
    let mut third = template();
    third["variables"]["topic"]["max_length"] = json!(7);
    service.post("/v1/templates/ask/versions", &third).await.expect(201);

    let retry = async |wish: Value| service.post(&format!("/v1/batches/{first}/retry"), &wish).await;
    let shorter = made(&retry(json!({"template_version": 2, "model": "stage:quick"})).await);
    let batch = in_state(&service, &shorter, "completed").await;
    assert_eq!((&batch["template"]["version"], &batch["counts"]["succeeded"]), (&json!(2), &json!(12)));
    let refused = retry(json!({"template_version": 3})).await;
    let problem = refused.problem(422, "invalid_rows");
    let details: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["detail"].as_str().unwrap()).collect();
    assert_eq!(details.len(), 2, "{problem}");
    assert!(
        details[0].starts_with("item 10: topic") && details[1].starts_with("item 11: topic"),
        "{problem}"
    );
    retry(json!({"template_version": 4})).await.problem(422, "invalid");
    assert_eq!(service.get("/v1/batches").await.json["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_half_made_batch() {
    let service = working(&Stage::new()).await;
    let wish = json!({"model": "stage:hold", "rows": rows(30_000)});
    let first = made(&service.post("/v1/batches", &body(wish)).await);
    service.post(&format!("/v1/batches/{first}/cancel"), &Value::Null).await.expect(200);
    in_state(&service, &first, "cancelled").await;
    let list = async || service.get("/v1/batches?name=cut").await.json["data"].clone();
    let request = service.request(Method::POST, &format!("/v1/batches/{first}/retry"));
    let asking = tokio::spawn(request.json(&json!({"name": "cut"})).send());
    wait_for("the batch is made", async || (list().await[0]["state"] == "draft").then_some(())).await;
    asking.abort();
    let batch = wait_for("it is submitted all the same", async || {
        let batch = list().await[0].clone();
        (batch["state"] != "draft" && batch["state"] != "submitting").then_some(batch)
    })
    .await;
    assert_eq!(batch["rows"], 30_000);
}
