use promptmill_domain::FailureKind;
use reqwest::Method;
use serde_json::{Value, json};

use crate::batch_steps::{Hand, members, rows, scripted_service, submit, template, until_final};
use crate::support::{Service, send};

/// All entries of a list, page by page.
async fn all(service: &Service, path: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut next = path.to_owned();
    loop {
        let answer = service.get(&next).await;
        let page = answer.expect(200);
        found.extend(page["data"].as_array().unwrap().iter().cloned());
        let Some(cursor) = page["next_cursor"].as_str() else { return found };
        assert!(answer.header("link").contains("rel=\"next\""));
        let joint = if path.contains('?') { '&' } else { '?' };
        next = format!("{path}{joint}cursor={cursor}");
    }
}

#[tokio::test]
async fn items_are_listed_with_and_without_an_outcome() {
    let service = Service::start().await;
    let id = submit(&service, "demo:any", rows((0..1_200).map(|n| n.to_string()))).await;
    let mut hand = Hand::take(&service.engine, &id).await;
    for index in [0, 5, 700, 1_199] {
        hand.succeed(index, "yes").await;
    }
    for index in [1, 600] {
        hand.fail(index, FailureKind::Timeout).await;
    }
    let items = |query: &str| format!("/v1/batches/{id}/items{query}");
    let whole = all(&service, &items("?limit=500")).await;
    assert_eq!(whole.len(), 1_200);
    for (n, entry) in whole.iter().enumerate() {
        assert_eq!((&entry["index"], &entry["custom_id"]), (&json!(n), &json!(format!("r{n}"))));
    }
    let failed = all(&service, &items("?outcome=failed&limit=1")).await;
    assert_eq!(
        failed,
        [1, 600].map(
            |n| json!({ "index": n, "custom_id": format!("r{n}"), "outcome": "failed", "reason": "timeout" })
        )
    );
    let settled = all(&service, &items("?outcome=failed&outcome=succeeded&limit=3")).await;
    assert_eq!(members(&settled, "index"), [0, 1, 5, 600, 700, 1_199]);
    let open = all(&service, &items("?outcome=open&limit=400")).await;
    assert_eq!(open.len(), 1_194);
    assert_eq!(all(&service, &items("?outcome=cancelled")).await, [Value::Null; 0]);
    service.get(&items("?limit=501")).await.problem(400, "bad_request");
    service.get(&items("?outcome=lost")).await.problem(400, "bad_request");
    let cursor = service.get(&items("?limit=1")).await.json["next_cursor"].as_str().unwrap().to_owned();
    service.get(&items(&format!("?outcome=failed&cursor={cursor}"))).await.problem(400, "bad_request");
}

#[tokio::test]
async fn an_item_is_found_by_its_custom_id_in_every_part() {
    let service = Service::start().await;
    let body = json!({ "template": template(), "model": "demo:any" });
    let id = service.post("/v1/batches", &body).await.expect(201)["id"].as_str().unwrap().to_owned();
    for part in 0..3 {
        let row = |n: u32| match n {
            7 => "{\"text\": \"without\"}\n".to_owned(),
            _ => format!("{{\"custom_id\": \"p{part}-{n}\", \"variables\": {{\"text\": \"x\"}}}}\n"),
        };
        let rows: String = (0..400).map(row).collect();
        let put = service.request(Method::PUT, &format!("/v1/batches/{id}/rows/{part}"));
        send(put.header("content-type", "application/x-ndjson").body(rows)).await.expect(200);
    }
    let find = |custom_id: &str| format!("/v1/batches/{id}/items?custom_id={custom_id}");
    let draft = service.get(&find("p1-3")).await;
    assert_eq!(draft.expect(200)["data"], json!([]));
    let submitted = service.post(&format!("/v1/batches/{id}/submit"), &json!({})).await;
    submitted.expect(200);
    for (custom_id, index) in [("p0-0", 0), ("p1-3", 403), ("p2-399", 1_199)] {
        let answer = service.get(&find(custom_id)).await;
        let entry = json!({ "index": index, "custom_id": custom_id, "outcome": "open", "reason": null });
        assert_eq!(answer.expect(200)["data"], json!([entry]));
    }
    for missing in ["p0-7", "p3-0", "", "%F0%9F%A6%80"] {
        assert_eq!(service.get(&find(missing)).await.expect(200)["data"], json!([]), "{missing}");
    }
    let closed = format!("{}&outcome=failed", find("p1-3"));
    assert_eq!(service.get(&closed).await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn one_item_shows_its_row_and_every_call() {
    let (service, _) = scripted_service().await;
    let output =
        json!({ "type": "object", "properties": { "mood": { "type": "string" } }, "required": ["mood"] });
    let template = json!({
        "name": "mood",
        "messages": [{ "role": "user", "content": "How is {{ text }}?" }],
        "output": { "format": "json", "schema": output },
    });
    let rows = rows(["it", "REFUSE"]);
    let body =
        json!({ "template": template, "model": "scripted:mended", "rows": rows, "store_replies": "all" });
    let id = service.post("/v1/batches", &body).await.expect(201)["id"].as_str().unwrap().to_owned();
    until_final(&service, &id).await;

    let answer = service.get(&format!("/v1/batches/{id}/items/0")).await;
    let item = answer.expect(200);
    assert_eq!(
        (&item["index"], &item["custom_id"], &item["outcome"]),
        (&json!(0), &json!("r0"), &json!("succeeded"))
    );
    assert_eq!((&item["variables"], &item["output"]), (&json!({ "text": "it" }), &json!({ "mood": "good" })));
    assert_eq!((&item["reason"], &item["message"]), (&Value::Null, &Value::Null));
    let calls = item["attempts"][0]["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(
        (&calls[0]["failure"], &calls[0]["reply"]),
        (&json!("invalid_output"), &json!("I would rather not"))
    );
    assert!(!calls[0]["problems"].as_array().unwrap().is_empty());
    assert_eq!((&calls[1]["failure"], &calls[1]["status"]), (&Value::Null, &json!(200)));
    assert!(calls[1]["started_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(item["tokens"], json!({ "prompt": 6, "completion": 4 }));
    assert_eq!(item["cost"], "0.000002");

    let refused = service.get(&format!("/v1/batches/{id}/items/1")).await;
    let item = refused.expect(200);
    assert_eq!((&item["outcome"], &item["reason"]), (&json!("failed"), &json!("content_refused")));
    assert_eq!((&item["message"], &item["output"]), (&json!("not this one"), &Value::Null));
    for missing in ["2", "-1", "4294967296", "first"] {
        service.get(&format!("/v1/batches/{id}/items/{missing}")).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn an_open_item_shows_the_messages_it_brought() {
    let service = Service::start().await;
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let body = json!({ "model": "demo:any", "rows": [{ "custom_id": "a", "messages": messages }] });
    let id = service.post("/v1/batches", &body).await.expect(201)["id"].as_str().unwrap().to_owned();
    let answer = service.get(&format!("/v1/batches/{id}/items/0")).await;
    let item = answer.expect(200);
    assert_eq!((&item["outcome"], &item["messages"]), (&json!("open"), &messages));
    assert_eq!((&item["attempts"], item.get("variables")), (&json!([]), None));
}
