//! Batches from outside: made, listed, read, and kept apart by tenant.

use promptmill_domain::Period;
use promptmill_ports::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::desk::{Stage, body, draft, idle, in_state, lines, made, put_part, rows, template, working};
use crate::scripted::Scripted;
use crate::support::{Answer, Options, Service, send, wait_for};

#[tokio::test]
async fn rows_in_the_body_are_submitted_and_run_to_their_end() {
    let service = working(&Stage::new()).await;
    let wish = json!({
        "rows": rows(3), "name": "first", "labels": {"env": "test"}, "metadata": {"a": [1, 1.50]}, "priority": 7,
        "max_concurrency": 2, "max_cost": "1.5", "deadline": "2126-01-01T01:00:00+01:00", "retention": 7200,
        "store_replies": "all", "max_attempts": 3, "settings": {"temperature": 0.5}
    });
    // A number keeps the digits it was written with.
    let text = body(wish).to_string().replace("[1,1.5]", "[1,1.50]");
    let request = service.request(Method::POST, "/v1/batches").header("content-type", "application/json");
    let answer = send(request.body(text)).await;
    let id = made(&answer);
    assert!(answer.text.contains(r#""metadata":{"a":[1,1.50]}"#), "{}", answer.text);
    assert!(matches!(answer.json["state"].as_str(), Some("queued" | "running" | "completed")));
    let batch = in_state(&service, &id, "completed").await;
    let expected = json!({
        "id": id, "name": "first", "labels": {"env": "test"}, "priority": 7, "max_concurrency": 2, "max_cost": "1.5",
        "deadline": "2126-01-01T00:00:00.000Z", "retention": 7200, "store_replies": "all", "max_attempts": 3,
        "guard": true, "model": "stage:quick", "template": null, "template_name": "ask", "rows": 3, "calls": 3,
        "tokens": {"prompt": 9, "completion": 6}, "rate": null, "eta": null, "limited_by": [], "pause": null,
        "retry_of": null, "schedule": null, "webhook_url": null
    });
    for (member, value) in expected.as_object().unwrap() {
        assert_eq!(&batch[member], value, "{member}");
    }
    let counts = json!({
        "waiting": 0, "leased": 0, "parked": 0, "succeeded": 3, "repaired": 0, "failed": 0, "failed_by_reason": {},
        "cancelled": 0, "expired": 0, "open": 0, "settled": 3, "as_of": batch["finished_at"]
    });
    assert_eq!(batch["counts"], counts);
    for time in ["created_at", "submitted_at", "finished_at"] {
        assert!(batch[time].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{time}");
    }
}

#[tokio::test]
async fn a_client_that_waits_is_answered_when_its_batch_is_final() {
    let service = working(&Stage::new()).await;
    let ask = |wish: Value, wait: &'static str| {
        let request = service.request(Method::POST, "/v1/batches").header("prefer", wait);
        request.header("idempotency-key", "once").json(&wish)
    };
    let wish = body(json!({"rows": rows(3), "webhook_url": "https://hooks.example/x"}));
    let answer = send(ask(wish.clone(), "wait=30")).await;
    let batch = answer.expect(201);
    assert_eq!((&batch["state"], &batch["counts"]["succeeded"]), (&json!("completed"), &json!(3)));
    assert_eq!(answer.header("preference-applied"), "wait=30");
    assert!(batch["webhook_secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")));
    assert_eq!(answer.header("location"), format!("/v1/batches/{}", made(&answer)));

    // What was answered first is answered again, and at once.
    let again = send(ask(wish, "wait=30")).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!((made(&again), &again.json["state"]), (made(&answer), &json!("queued")));
    assert_eq!(again.json["webhook_secret"], batch["webhook_secret"]);
}

#[tokio::test]
async fn a_client_that_waits_no_longer_is_answered_how_its_batch_stands() {
    let service = idle().await;
    let ask = |wish: Value, wait: &'static str| {
        service.request(Method::POST, "/v1/batches").header("prefer", wait).json(&wish)
    };
    for wait in ["wait=0", "wait=1"] {
        let answer = send(ask(body(json!({"rows": rows(1)})), wait)).await;
        assert_eq!(answer.expect(201)["state"], "queued");
        assert_eq!(answer.header("preference-applied"), wait);
    }
    // A draft is not waited for, whatever the client says.
    let answer = send(ask(body(json!({})), "wait=60")).await;
    assert_eq!(answer.expect(201)["state"], "draft");
    send(ask(json!({"model": "none"}), "wait=60")).await.problem(422, "invalid");
}

#[tokio::test]
async fn a_draft_takes_parts_and_runs_after_its_submit() {
    let service = working(&Stage::new()).await;
    let id = draft(&service).await;
    put_part(&service, &id, 1, lines(2)).await.expect(200);
    put_part(&service, &id, 0, lines(300)).await.expect(200);
    let path = format!("/v1/batches/{id}");
    let before = service.get(&path).await;
    assert_eq!((&before.expect(200)["state"], &before.json["rows"]), (&json!("draft"), &json!(302)));
    for _ in 0..2 {
        assert_eq!(service.post(&format!("{path}/submit"), &Value::Null).await.expect(200)["rows"], 302);
    }
    let batch = in_state(&service, &id, "completed").await;
    assert_eq!(batch["counts"]["succeeded"], 302);
    service.post(&format!("{path}/submit"), &Value::Null).await.problem(409, "conflict");
    let part = service.get(&format!("{path}/rows")).await;
    assert_eq!((&part.json["data"][0]["rows"], &part.json["data"][1]["rows"]), (&json!(300), &json!(2)));
}

#[tokio::test]
async fn rows_of_messages_need_no_template() {
    let service = working(&Stage::new()).await;
    let row = json!({"custom_id": "a", "messages": [{"role": "user", "content": "Hello"}]});
    let wish = json!({"model": "stage:quick", "rows": [row]});
    let answer = service.post("/v1/batches", &wish).await;
    let id = made(&answer);
    assert_eq!((&answer.json["template"], &answer.json["template_name"]), (&Value::Null, &Value::Null));
    assert_eq!(in_state(&service, &id, "completed").await["counts"]["succeeded"], 1);

    let draft = made(&service.post("/v1/batches", &json!({"model": "stage:quick"})).await);
    put_part(&service, &draft, 0, format!("{row}\n")).await.expect(200);
    let refused = put_part(&service, &draft, 1, lines(1)).await;
    assert_eq!(refused.problem(422, "invalid_rows")["errors"][0]["line"], 1);

    let variables = json!({"model": "stage:quick", "rows": [{"variables": {"a": 1}}, row, {"messages": []}]});
    let refused = service.post("/v1/batches", &variables).await;
    refused.problem(422, "invalid_rows");
    assert_eq!(refused.pointers(), ["/rows/0", "/rows/2/messages"]);
    let choice = json!({"model": "stage:quick", "output": {"format": "choice"}, "rows": [row]});
    let refused = service.post("/v1/batches", &choice).await;
    refused.problem(422, "invalid");
    assert!(refused.pointers()[0].starts_with("/output"), "{}", refused.text);
}

#[tokio::test]
async fn everything_wrong_with_the_members_is_told_at_once() {
    let service = idle().await;
    let cases = [
        (json!({"model": "quick"}), "/model"),
        (json!({"model": "nobody:quick"}), "/model"),
        (json!({"max_attempts": 21}), "/max_attempts"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "a\u{0}b"}), "/name"),
        (json!({"labels": {"a b": "x"}}), "/labels"),
        (json!({"labels": {"a": "x".repeat(257)}}), "/labels/a"),
        (json!({"metadata": [1]}), "/metadata"),
        (json!({"metadata": {"a": "x".repeat(17_000)}}), "/metadata"),
        (json!({"priority": 101}), "/priority"),
        (json!({"max_concurrency": 0}), "/max_concurrency"),
        (json!({"max_cost": "-1"}), "/max_cost"),
        (json!({"deadline": "2020-01-01T00:00:00Z"}), "/deadline"),
        (json!({"deadline": "tomorrow"}), "/deadline"),
        (json!({"retention": 60}), "/retention"),
        (json!({"store_replies": "some"}), "/store_replies"),
        (json!({"settings": {"temperature": 3}}), "/settings/temperature"),
        (json!({"settings": {"heat": 3}}), "/settings/heat"),
        (json!({"webhook_url": "ftp://example.com/"}), "/webhook_url"),
        (json!({"webhook_url": "http://10.0.0.1/hook"}), "/webhook_url"),
        (json!({"webhook_secret": "x"}), "/webhook_secret"),
        (json!({"rows": []}), "/rows"),
        (json!({"rows": {}}), "/rows"),
        (json!({"output": {"format": "json"}}), "/output"),
        (json!({"template": "nobody"}), "/template"),
        (json!({"wish": 1}), "/wish"),
    ];
    for (wrong, pointer) in cases {
        let answer = service.post("/v1/batches", &body(wrong.clone())).await;
        answer.problem(422, "invalid");
        assert_eq!(answer.pointers(), [pointer], "{wrong}: {}", answer.text);
    }
    let all = json!({"max_attempts": 0, "priority": -101, "max_cost": "0", "retention": 1});
    let answer = service.post("/v1/batches", &body(all)).await;
    assert_eq!(answer.pointers(), ["/priority", "/max_cost", "/max_attempts", "/retention"]);
    let nowhere = json!({"template": {"name": "x", "messages": []}, "model": "stage:quick"});
    service.post("/v1/batches", &nowhere).await.problem(422, "invalid_template");
    let no_model = service.post("/v1/batches", &json!({"template": template()})).await;
    no_model.problem(422, "invalid");
    assert_eq!(no_model.pointers(), ["/model"]);
    assert_eq!(service.get("/v1/batches").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn bad_rows_in_the_body_are_told_together_and_leave_nothing() {
    let service = idle().await;
    let wish = json!({"rows": [
        {"variables": {"topic": "good"}, "custom_id": "a"},
        {"variables": {"topic": 7}},
        {"variables": {"topic": "good"}, "custom_id": "a"},
        {"variables": {"topik": "x"}},
        "text",
    ]});
    let answer = service.post("/v1/batches", &body(wish)).await;
    let problem = answer.problem(422, "invalid_rows");
    assert!(problem["detail"].as_str().unwrap().starts_with("4 of 5 rows"), "{problem}");
    let pointers = answer.pointers();
    assert!(pointers.contains(&"/rows/1/variables/topic"), "{pointers:?}");
    assert!(pointers.contains(&"/rows/2/custom_id") && pointers.contains(&"/rows/4"), "{pointers:?}");
    assert!(pointers.iter().any(|pointer| pointer.starts_with("/rows/3/variables")), "{pointers:?}");
    assert_eq!(service.get("/v1/batches").await.json["data"], json!([]));
    assert_eq!(service.get("/v1/limits").await.json["used"]["stored_bytes"], 0);
}

#[tokio::test]
async fn one_key_makes_one_batch_however_often_it_is_sent() {
    let service = idle().await;
    let wish = body(json!({"rows": rows(40), "webhook_url": "http://127.0.0.1:9/hook"}));
    let create = || async {
        let request = service.request(Method::POST, "/v1/batches").header("idempotency-key", "\"once\"");
        send(request.json(&wish)).await
    };
    let answers = futures_util::future::join_all((0..12).map(|_| create())).await;
    for answer in &answers {
        assert!(matches!(answer.status.as_u16(), 201 | 409), "{}", answer.text);
    }
    let again = create().await;
    let id = made(&again);
    assert_eq!(again.header("idempotency-replayed"), "true");
    let secrets: std::collections::BTreeSet<_> = answers
        .iter()
        .chain([&again])
        .filter(|answer| answer.status == 201)
        .map(|answer| (answer.json["id"].to_string(), answer.json["webhook_secret"].to_string()))
        .collect();
    assert_eq!(secrets.len(), 1, "{secrets:?}");
    let list = service.get("/v1/batches").await.json;
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][0]["id"]), (1, &json!(id)));
    let other = send(
        service
            .request(Method::POST, "/v1/batches")
            .header("idempotency-key", "once")
            .json(&body(json!({"name": "other"}))),
    )
    .await;
    other.problem(422, "idempotency_mismatch");
}

#[tokio::test]
async fn a_webhook_secret_is_told_once_and_kept_sealed() {
    let service = idle().await;
    let url = "http://127.0.0.1:9/hook";
    let made_by_us = service.post("/v1/batches", &body(json!({"webhook_url": url}))).await;
    let id = made(&made_by_us);
    let secret = made_by_us.json["webhook_secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"), "{secret}");
    let read = service.get(&format!("/v1/batches/{id}")).await;
    assert_eq!((read.json["webhook_url"].as_str(), read.json.get("webhook_secret")), (Some(url), None));
    let theirs = format!("whsec_{}", "A".repeat(32));
    let given = json!({"webhook_url": url, "webhook_secret": theirs});
    let given = service.post("/v1/batches", &body(given)).await;
    assert_eq!(given.expect(201).get("webhook_secret"), None);
    let kept = service.engine.store.batch(&"default".parse().unwrap(), id.parse().unwrap()).await.unwrap();
    let kept = kept.spec.webhook.unwrap().sealed_secret;
    assert!(!kept.contains(&secret["whsec_".len()..]), "the secret is kept in clear");
    let empty = service.get(&format!("/v1/batches/{id}/deliveries")).await;
    assert_eq!(empty.expect(200), &json!({"data": []}));
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let service = idle().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let wish = json!({"name": format!("n{n}"), "labels": {"parity": format!("{}", n % 2), "all": "a:b"}});
        ids.push(made(&service.post("/v1/batches", &body(wish)).await));
    }
    ids.reverse();
    let ids_of = |answer: &Answer| -> Vec<String> {
        let data = answer.expect(200)["data"].as_array().unwrap();
        data.iter().map(|batch| batch["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids_of(&service.get("/v1/batches").await), ids);
    let first = service.get("/v1/batches?limit=2&label=all:a:b").await;
    assert_eq!(ids_of(&first), ids[..2]);
    let cursor = first.json["next_cursor"].as_str().unwrap();
    let link = first.header("link");
    let next = link.trim_start_matches('<').split('>').next().unwrap();
    let second = service.get(next).await;
    assert_eq!(ids_of(&second), ids[2..4]);
    let last = second.json["next_cursor"].as_str().unwrap();
    let last = service.get(&format!("/v1/batches?limit=2&label=all:a:b&cursor={last}")).await;
    assert_eq!((ids_of(&last), &last.json["next_cursor"]), (ids[4..].to_vec(), &Value::Null));
    assert_eq!(ids_of(&service.get("/v1/batches?name=n3").await), ids[1..2]);
    let odd = service.get("/v1/batches?label=parity:1&label=all:a:b").await;
    assert_eq!(ids_of(&odd), [ids[1].clone(), ids[3].clone()]);
    assert_eq!(ids_of(&service.get("/v1/batches?state=running").await).len(), 0);
    assert_eq!(ids_of(&service.get("/v1/batches?created_before=2020-01-01T00:00:00Z").await).len(), 0);
    assert_eq!(ids_of(&service.get("/v1/batches?created_from=2020-01-01T00:00:00Z").await).len(), 5);
    let other_filter = format!("/v1/batches?cursor={cursor}");
    for bad in [
        "/v1/batches?limit=0",
        "/v1/batches?limit=501",
        "/v1/batches?limit=-1",
        "/v1/batches?state=done",
        "/v1/batches?label=x",
        "/v1/batches?cursor=zzz",
        "/v1/batches?wish=1",
        "/v1/batches?created_from=yesterday",
        &other_filter,
    ] {
        service.get(bad).await.problem(400, "bad_request");
    }
}

/// Every route of a batch, with what it takes.
fn routes(id: &str) -> Vec<(Method, String, Option<Value>)> {
    let at = |rest: &str| format!("/v1/batches/{id}{rest}");
    vec![
        (Method::GET, at(""), None),
        (Method::PATCH, at(""), Some(json!({"priority": 1}))),
        (Method::PUT, at("/rows/0"), None),
        (Method::GET, at("/rows"), None),
        (Method::POST, at("/submit"), None),
        (Method::POST, at("/pause"), None),
        (Method::POST, at("/resume"), None),
        (Method::POST, at("/cancel"), None),
        (Method::POST, at("/retry"), Some(json!({}))),
        (Method::GET, at("/deliveries"), None),
        (Method::DELETE, at(""), None),
    ]
}

async fn ask(service: &Service, key: &str, route: (Method, String, Option<Value>)) -> Answer {
    let (method, path, body) = route;
    let request = service.request_as(key, method.clone(), &path);
    send(match body {
        Some(body) => request.json(&body),
        None if method == Method::PUT => {
            request.header("content-type", "application/x-ndjson").body("{\"topic\":\"x\"}\n")
        }
        None => request,
    })
    .await
}

#[tokio::test]
async fn a_batch_of_another_tenant_is_not_there_on_any_route() {
    let service = idle().await;
    let id = draft(&service).await;
    put_part(&service, &id, 0, lines(1)).await.expect(200);
    let foreign = service.key_of("other", Role::Owner, &[]).await;
    let nobody = "batch_00000000000000000000000000000001";
    for (theirs, none) in routes(&id).into_iter().zip(routes(nobody)) {
        let what = format!("{} {}", theirs.0, theirs.1);
        let theirs = ask(&service, &foreign, theirs).await;
        assert_eq!(theirs.status, 404, "{what}: {}", theirs.text);
        assert_eq!(theirs.json["detail"], ask(&service, &foreign, none).await.json["detail"], "{what}");
    }
    for odd in ["batch_1", "tmpl_00000000000000000000000000000001", "%00", "..%2f..", "x"] {
        service.get(&format!("/v1/batches/{odd}")).await.problem(404, "not_found");
    }
    let seen = send(service.request_as(&foreign, Method::GET, "/v1/batches")).await;
    assert_eq!(seen.json["data"], json!([]));
    assert_eq!(service.get(&format!("/v1/batches/{id}")).await.expect(200)["rows"], 1);
}

#[tokio::test]
async fn a_key_that_reads_changes_nothing() {
    let service = idle().await;
    let id = draft(&service).await;
    let reader = service.key_of("default", Role::Viewer, &[]).await;
    let writer = service.key_of("default", Role::Member, &["batches:write"]).await;
    for route in routes(&id) {
        let (reads, what) = (route.0 == Method::GET, format!("{} {}", route.0, route.1));
        let (read, written) =
            (ask(&service, &reader, route.clone()).await, ask(&service, &writer, route).await);
        let allowed = if reads { &read } else { &written };
        let refused = if reads { &written } else { &read };
        assert_ne!(allowed.status, 403, "{what}");
        refused.problem(403, "forbidden");
    }
    let create = service.request_as(&reader, Method::POST, "/v1/batches").json(&body(json!({})));
    send(create).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_page_of_batches_with_large_templates_ends_early_and_none_is_left_out() {
    let service = idle().await;
    let mut made = Vec::new();
    for n in 0..7 {
        let message = json!({"role": "user", "content": "x".repeat(60_000)});
        let large = json!({"name": format!("t{n}"), "messages": vec![message; 15]});
        let answer = service.post("/v1/batches", &body(json!({"template": large}))).await;
        made.push(answer.expect(201)["id"].as_str().unwrap().to_owned());
    }
    made.reverse();
    let (mut listed, mut query, mut pages) = (Vec::new(), "limit=500".to_owned(), 0);
    loop {
        let page = service.get(&format!("/v1/batches?{query}")).await;
        let ids = page.expect(200)["data"].as_array().unwrap().iter();
        listed.extend(ids.map(|batch| batch["id"].as_str().unwrap().to_owned()));
        pages += 1;
        let Some(cursor) = page.json["next_cursor"].as_str() else { break };
        query = format!("limit=500&cursor={cursor}");
    }
    assert_eq!((listed, pages), (made, 2));
}

#[tokio::test]
async fn inline_rows_with_the_same_id_are_named_by_their_positions() {
    let service = idle().await;
    let row = |id: &str| json!({"custom_id": id, "variables": {"topic": "x"}});
    let answer = service.post("/v1/batches", &body(json!({"rows": [row("a"), row("b"), row("a")]}))).await;
    let error = &answer.problem(422, "invalid_rows")["errors"][0];
    assert_eq!(
        (&error["pointer"], &error["detail"]),
        (&json!("/rows/2/custom_id"), &json!("rows 0 and 2 have the same"))
    );
}

#[tokio::test]
async fn what_a_batch_would_take_is_told_and_nothing_is_made() {
    let service = working(&Stage::new()).await;
    let estimate = |query: &'static str, wish: Value| {
        let service = &service;
        async move {
            send(service.request(Method::POST, &format!("/v1/batches/estimate{query}")).json(&wish)).await
        }
    };
    let wish = body(json!({"rows": rows(3), "settings": {"max_tokens": 7}}));
    let answer = estimate("", wish.clone()).await;
    let told = answer.expect(200);
    assert_eq!(
        (&told["rows"], &told["price"], &told["at_least"]["cost"]),
        (&json!(3), &Value::Null, &Value::Null)
    );
    assert_eq!(told["at_least"]["calls"], 3);
    let calls = told["at_most"]["calls"].as_u64().unwrap();
    assert!(calls >= 3 && calls.is_multiple_of(3), "{told}");
    assert_eq!(told["at_most"]["tokens"]["completion"], calls * 7);
    let answer = estimate("?total_rows=3000000", wish).await;
    let scaled = answer.expect(200);
    assert_eq!((&scaled["rows"], &scaled["at_least"]["calls"]), (&json!(3_000_000), &json!(3_000_000)));
    for (query, wish, pointer) in [
        ("", body(json!({})), "/rows"),
        ("?total_rows=0", body(json!({"rows": rows(1)})), "total_rows"),
        ("", body(json!({"rows": [{"variables": {"other": 1}}]})), "/rows/0"),
    ] {
        let answer = estimate(query, wish).await;
        assert!(answer.expect(422).to_string().contains(pointer), "{}", answer.text);
    }
    let answer = service.get("/v1/batches").await;
    assert_eq!(answer.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn what_is_spent_of_limits_is_told_and_nothing_begins_beyond_the_tenants() {
    let mut options = Options::working();
    options.tenant_costs.set(None, Period::Day, "0.000000001".parse().unwrap());
    let provider = Scripted::new();
    options.providers = vec![provider.clone()];
    let service = Service::start_with(options).await;
    let ask = json!({"model": "scripted:echo", "rows": [{"messages": [{"role": "user", "content": "Hello."}]}], "max_cost": "5"});
    let first = made(&service.post("/v1/batches", &ask).await);
    in_state(&service, &first, "completed").await;
    let second = made(&service.post("/v1/batches", &ask).await);
    let paused = in_state(&service, &second, "paused").await;
    assert_eq!(paused["pause"]["reason"], "tenant_budget", "{paused}");
    assert!(paused["pause"]["message"].as_str().unwrap().contains("the tenant's limit of the day"));
    let limits = service.get("/v1/limits").await;
    let limits = limits.expect(200);
    assert_eq!(
        (&limits["max_cost_per_day"], &limits["max_cost_per_month"]),
        (&json!("0.000000001"), &Value::Null)
    );
    assert_eq!(limits["used"]["cost_today"]["spent"], "0.000001");
    assert_eq!(limits["used"]["cost_this_month"], Value::Null);
    // What was spent is told a moment later.
    let budget = wait_for("the account says what was spent", async || {
        let budget = service.get(&format!("/v1/batches/{first}/budget")).await.expect(200).clone();
        (budget["spent"] == "0.000001").then_some(budget)
    })
    .await;
    assert_eq!((&budget["max_cost"], &budget["unknown"]), (&json!("5"), &json!("0")));
    let calls = provider.calls();
    let generation = json!({"model": "scripted:echo", "messages": [{"role": "user", "content": "Hello."}]});
    let refused = service.post("/v1/generations", &generation).await;
    assert!(
        refused.text.contains("payment_required") && refused.text.contains("the tenant's limit of the day"),
        "{}",
        refused.text
    );
    assert_eq!(provider.calls(), calls);
}

#[tokio::test]
async fn a_chain_of_models_is_told_and_the_outcome_says_which_one_answered() {
    let service = working(&Stage::new()).await;
    let wish = body(json!({
        "model": ["stage:broken", "stage:quick"], "fallback_on": ["invalid"], "max_price": {"prompt": "2.50", "completion": "10"},
        "rows": rows(2)
    }));
    let id = made(&service.post("/v1/batches", &wish).await);
    let batch = in_state(&service, &id, "completed").await;
    assert_eq!((&batch["model"], &batch["fallbacks"]), (&json!("stage:broken"), &json!(["stage:quick"])));
    assert_eq!(batch["fallback_on"], json!(["invalid"]));
    assert_eq!(batch["max_price"], json!({"prompt": "2.5", "completion": "10"}));
    let results = service.get(&format!("/v1/batches/{id}/results")).await;
    for line in results.text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        assert_eq!(
            (&line["outcome"], &line["model"], &line["calls"]),
            (&json!("succeeded"), &json!("stage:quick"), &json!(2))
        );
        assert_eq!(line["flags"], json!(["fallback"]));
    }
    let item = service.get(&format!("/v1/batches/{id}/items/0")).await;
    let item = item.expect(200);
    let model = |attempt: usize| item["attempts"][attempt]["calls"][0]["model"].clone();
    assert_eq!((model(0), model(1)), (Value::Null, json!("stage:quick")));
    for (change, pointer) in [
        (json!({"model": []}), "/model"),
        (json!({"model": ["stage:quick", "nobody:x"]}), "/model/1"),
        (json!({"model": ["stage:quick", "none"]}), "/model/1"),
        (json!({"model": ["stage:quick", "stage:quick"]}), "/model/1"),
        (json!({"max_price": {"prompt": "cheap", "completion": "1"}}), "/max_price/prompt"),
    ] {
        let mut wish = body(json!({"rows": rows(1)}));
        wish.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = service.post("/v1/batches", &wish).await;
        let found = refused.expect(422)["errors"][0]["pointer"].clone();
        assert_eq!(found, pointer, "{}", refused.text);
    }
}

#[tokio::test]
async fn rows_that_ask_the_same_share_a_reply_where_the_batch_says_so_until_it_is_forgotten() {
    let service = working(&Stage::new()).await;
    let row = |n: usize| json!({"variables": {"topic": format!("topic {}", n % 2)}});
    let wish = |cache: Value| body(json!({"cache": cache, "rows": (0..10).map(row).collect::<Value>()}));
    let run = async |cache: Value| {
        let id = made(&service.post("/v1/batches", &wish(cache)).await);
        in_state(&service, &id, "completed").await
    };
    let told = |batch: &Value| (batch["cache"].clone(), batch["calls"].clone(), batch["cached"].clone());
    assert_eq!(told(&run(Value::Null).await), (Value::Null, json!(10), json!(0)));
    assert_eq!(told(&run(json!("batch")).await), (json!("batch"), json!(2), json!(8)));
    let first = run(json!("tenant")).await;
    assert_eq!(told(&first), (json!("tenant"), json!(2), json!(8)));
    let id = first["id"].as_str().unwrap();
    let results = service.get(&format!("/v1/batches/{id}/results")).await;
    let lines: Vec<Value> = results.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let cached: Vec<_> = lines.iter().filter(|line| line["flags"] == json!(["cached"])).collect();
    assert_eq!((lines.len(), cached.len()), (10, 8));
    assert!(cached.iter().all(|line| line["calls"] == 0 && line["attempts"] == 1 && line["cost"] == "0"));
    let index = &cached[0]["index"];
    let item = service.get(&format!("/v1/batches/{id}/items/{index}")).await;
    assert_eq!(item.expect(200)["attempts"][0]["calls"][0]["cached"], true);

    let forget = async |key: Option<&str>| {
        let request = match key {
            Some(key) => service.request_as(key, Method::DELETE, "/v1/cache"),
            None => service.request(Method::DELETE, "/v1/cache"),
        };
        send(request).await
    };
    let viewer = service.key_of("default", Role::Viewer, &[]).await;
    forget(Some(&viewer)).await.problem(403, "forbidden");
    let stranger = service.key_of("acme", Role::Member, &[]).await;
    assert_eq!(forget(Some(&stranger)).await.expect(200), &json!({"forgotten": 0, "more": false}));
    // What was called a moment ago is kept a moment later: two replies of the batch, and two of the tenant.
    let mut left = 4;
    wait_for("all are forgotten", async || {
        left -= forget(None).await.expect(200)["forgotten"].as_u64().unwrap();
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(told(&run(json!("tenant")).await).1, 2);
    assert_eq!(told(&run(json!("tenant")).await).1, 0);
    let refused = service.post("/v1/batches", &wish(json!("all"))).await;
    assert!(refused.status == 400 || refused.status == 422, "{}", refused.text);
    assert!(refused.text.contains("batch") && refused.text.contains("tenant"), "{}", refused.text);
}

#[tokio::test]
async fn a_completion_window_becomes_the_deadline_with_the_submit() {
    let service = working(&Stage::new()).await;
    let at = |batch: &Value, name: &str| batch[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let whole = service
        .post("/v1/batches", &body(json!({"rows": rows(1), "completion_window": 600, "give_up_after": 60, "progress_at": [75, 25, 75]})))
        .await;
    let whole = in_state(&service, &made(&whole), "completed").await;
    assert_eq!((&whole["completion_window"], &whole["give_up_after"]), (&json!(600), &json!(60)));
    assert_eq!(whole["progress_at"], json!([25, 75]));
    let wait = at(&whole, "deadline").duration_since(at(&whole, "created_at"));
    assert!((599..=600).contains(&wait.as_secs()), "{wait:?}");
    let id = made(&service.post("/v1/batches", &body(json!({"completion_window": 600}))).await);
    assert_eq!(service.get(&format!("/v1/batches/{id}")).await.expect(200)["deadline"], Value::Null);
    put_part(&service, &id, 0, lines(1)).await;
    service.post(&format!("/v1/batches/{id}/submit"), &Value::Null).await.expect(200);
    let drafted = in_state(&service, &id, "completed").await;
    let wait = at(&drafted, "deadline").duration_since(at(&drafted, "submitted_at"));
    assert!((590..=600).contains(&wait.as_secs()), "{wait:?}");
    for (change, pointer) in [
        (json!({"completion_window": 59}), "/completion_window"),
        (json!({"completion_window": 60, "deadline": "2126-01-01T00:00:00Z"}), "/completion_window"),
        (json!({"give_up_after": 1}), "/give_up_after"),
        (json!({"progress_at": [50, 100]}), "/progress_at"),
        (json!({"progress_at": vec![1; 21]}), "/progress_at"),
    ] {
        let mut wish = body(json!({"rows": rows(1)}));
        wish.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = service.post("/v1/batches", &wish).await;
        assert_eq!(refused.expect(422)["errors"][0]["pointer"], pointer, "{}", refused.text);
    }
}
