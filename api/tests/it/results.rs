use std::collections::BTreeSet;
use std::io::Read as _;

use bytes::Bytes;
use futures_util::StreamExt as _;
use promptmill_domain::{Ending, FailureKind, Output, TenantId};
use promptmill_ports::{PageLimit, Role, decode_outcome};
use promptmill_prompt::Template;
use promptmill_rowio::{CsvColumns, CsvOptions, OutcomeRecord, OutcomeWriter};
use promptmill_vault::ResultsLink;
use rand::Rng as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::batch_steps::{
    Hand, lines, members, outcome, results, rows, scripted_service, steer, submit, template, until_final,
};
use crate::support::{Options, Service, send, wait_for};

/// What the command line's writer makes of the stored outcomes.
async fn written(service: &Service, id: &str, csv: bool) -> String {
    let limit = PageLimit { items: 10_000, bytes: usize::MAX };
    let tenant = TenantId::default_tenant();
    let page = service.engine.store.outcomes(&tenant, id.parse().unwrap(), 0, limit).await.unwrap();
    let template = Template::parse(&template().to_string()).unwrap();
    let mut writer = if csv {
        OutcomeWriter::csv(Vec::new(), CsvColumns::of(&template, false), CsvOptions::default()).unwrap()
    } else {
        OutcomeWriter::jsonl(Vec::new())
    };
    for stored in page.outcomes {
        let outcome = decode_outcome(stored.body.as_ref().unwrap()).unwrap();
        writer.write(&OutcomeRecord::settled(stored.index, &outcome)).unwrap();
    }
    String::from_utf8(writer.finish().unwrap()).unwrap()
}

#[tokio::test]
async fn results_are_what_a_run_writes_in_every_form_and_coding() {
    let (service, _) = scripted_service().await;
    let texts: Vec<String> = (0..700).map(|n| format!("row {n}, \"quoted\" {}", "x".repeat(n))).collect();
    let id = submit(&service, "scripted:echo", rows(texts)).await;
    until_final(&service, &id).await;
    for (query, csv) in [("", false), ("?format=csv", true)] {
        let expected = written(&service, &id, csv).await;
        let path = format!("/v1/batches/{id}/results{query}");
        let plain = service.get(&path).await;
        assert!(plain.text == expected, "{}", plain.text.len());
        for coding in ["gzip", "zstd"] {
            let request = service.request(Method::GET, &path).header("accept-encoding", coding);
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["content-encoding"], coding);
            let coded = response.bytes().await.unwrap();
            let mut text = String::new();
            match coding {
                "gzip" => flate2::read::GzDecoder::new(&coded[..]).read_to_string(&mut text),
                _ => zstd::stream::read::Decoder::new(&coded[..]).unwrap().read_to_string(&mut text),
            }
            .unwrap();
            assert!(text == expected && coded.len() < text.len() / 2, "{coding} {}", coded.len());
        }
    }
    let answer = service.get(&format!("/v1/batches/{id}/results?format=csv")).await;
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(answer.header("content-disposition"), format!("attachment; filename=\"{id}.csv\""));
    let accepted = service.request(Method::GET, &format!("/v1/batches/{id}/results"));
    let answer = send(accepted.header("accept", "text/csv, */*;q=0.1")).await;
    assert!(answer.text.starts_with("index,custom_id,outcome,"), "{}", answer.text);
}

#[tokio::test]
async fn the_closing_line_tells_whole_answers_from_cut_ones() {
    let service = Service::start().await;
    let id = submit(&service, "demo:any", rows((0..5).map(|n| n.to_string()))).await;
    let mut hand = Hand::take(&service.engine, &id).await;
    let end = async |query: &str| results(&service, &id, query).await.pop().unwrap();
    let running = json!({ "_end": true, "count": 0, "state": "running", "complete": false, "cursor": null });
    assert_eq!(end("?end=true").await, running);
    for index in 0..5 {
        hand.succeed(index, "yes").await;
    }
    let first = results(&service, &id, "?end=true&limit=2").await;
    let (end_line, read) = first.split_last().unwrap();
    assert_eq!((read.len(), &end_line["count"], &end_line["complete"]), (2, &json!(2), &json!(false)));
    let cursor = end_line["cursor"].as_str().unwrap();
    let rest = results(&service, &id, &format!("?after={cursor}")).await;
    assert_eq!(members(&rest, "index"), [2, 3, 4]);
    assert_eq!(end("?end=true&outcome=failed").await["count"], 0);
}

#[tokio::test]
async fn an_answer_that_cannot_be_completed_breaks_off_and_never_ends_cleanly() {
    let service = Service::start().await;
    let id = submit(&service, "demo:any", rows((0..600).map(|n| n.to_string()))).await;
    let mut hand = Hand::take(&service.engine, &id).await;
    for index in 0..600 {
        hand.succeed(index, &"yes ".repeat(100)).await;
    }
    let path = format!("/v1/batches/{id}/results?end=true");
    let whole = service.get(&path).await;
    assert_eq!(lines(&whole.text).len(), 601);

    let broken = submit(&service, "demo:any", rows((0..600).map(|n| n.to_string()))).await;
    let mut hand = Hand::take(&service.engine, &broken).await;
    for index in 0..599 {
        hand.succeed(index, &"yes ".repeat(100)).await;
    }
    let ending = Ending::Succeeded { output: Output::Text("lost".into()), repaired: false };
    hand.settle_as(599, &outcome(599, ending), Bytes::from_static(b"\x07damaged")).await;
    let path = format!("/v1/batches/{broken}/results?end=true");
    for coding in ["identity", "gzip", "zstd"] {
        let request = service.request(Method::GET, &path).header("accept-encoding", coding);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let pieces: Vec<_> = response.bytes_stream().collect().await;
        assert!(pieces.last().unwrap().is_err(), "{coding}: the end looks clean");
    }
    service.is_alive().await;
}

#[tokio::test]
async fn filters_choose_by_outcome_and_by_reason() {
    let service = Service::start().await;
    let id = submit(&service, "demo:any", rows((0..6).map(|n| n.to_string()))).await;
    let mut hand = Hand::take(&service.engine, &id).await;
    hand.succeed(0, "yes").await;
    hand.fail(1, FailureKind::Timeout).await;
    hand.fail(2, FailureKind::ContentRefused).await;
    hand.succeed(4, "yes").await;
    let indexes = async |query: &str| {
        let found = results(&service, &id, query).await;
        found.iter().map(|line| line["index"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(indexes("").await, [0, 1, 2, 4]);
    assert_eq!(indexes("?outcome=succeeded").await, [0, 4]);
    assert_eq!(indexes("?outcome=failed&outcome=cancelled").await, [1, 2]);
    assert_eq!(indexes("?reason=timeout").await, [1]);
    assert_eq!(indexes("?reason=timeout&reason=content_refused&order=settled").await, [1, 2]);
    assert_eq!(indexes("?outcome=expired").await, [0_u64; 0]);
    steer(&service, &id, "cancel").await.expect(200);
}

#[tokio::test]
async fn items_that_were_sealed_keep_their_custom_id() {
    let (service, provider) = scripted_service().await;
    let id = submit(&service, "scripted:held", rows((0..300).map(|n| n.to_string()))).await;
    provider.let_go(1);
    wait_for("one is settled", async || {
        let found = results(&service, &id, "").await;
        (!found.is_empty()).then_some(())
    })
    .await;
    steer(&service, &id, "cancel").await.expect(200);
    until_final(&service, &id).await;
    for query in ["", "?order=settled"] {
        let found = results(&service, &id, query).await;
        assert_eq!(found.len(), 300);
        for line in &found {
            assert_eq!(line["custom_id"], format!("r{}", line["index"]), "{line}");
        }
        let cancelled = found.iter().filter(|line| line["outcome"] == "cancelled").count();
        assert_eq!(cancelled, 299);
    }
}

#[tokio::test]
async fn each_outcome_is_given_once_in_the_order_of_settling_wherever_the_reading_is_cut() {
    let (service, provider) = scripted_service().await;
    let id =
        submit(&service, "scripted:held", rows((0..900).map(|n| format!("{n} {}", "y".repeat(n))))).await;
    let mut seen = BTreeSet::new();
    let mut cursor = String::new();
    let mut rounds = 0;
    loop {
        rounds += 1;
        let (limit, cut, go) = {
            let mut dice = rand::rng();
            (dice.random_range(1..200), dice.random_range(0.0..1.3_f64), dice.random_range(0..80))
        };
        provider.let_go(go);
        let after = if cursor.is_empty() { String::new() } else { format!("&after={cursor}") };
        let path = format!("/v1/batches/{id}/results?order=settled&wait=1&end=true&limit={limit}{after}");
        let answer = service.get(&path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        // A connection that breaks leaves the client with whole lines and perhaps a part of one.
        let kept = ((answer.text.len() as f64 * cut) as usize).min(answer.text.len());
        let kept = &answer.text[..answer.text.floor_char_boundary(kept)];
        let whole = kept.rfind('\n').map_or("", |at| &kept[..=at]);
        let mut complete = false;
        for line in lines(whole) {
            cursor = line["cursor"].as_str().unwrap().to_owned();
            if line["_end"] == true {
                complete = line["complete"] == true;
            } else {
                assert!(seen.insert(line["index"].as_u64().unwrap()), "twice: {line}");
            }
        }
        if complete {
            break;
        }
        assert!(rounds < 5_000, "{} of 900", seen.len());
    }
    assert_eq!(seen.len(), 900);
    let again = results(&service, &id, "?order=settled").await;
    assert_eq!(again.len(), 900);
}

#[tokio::test]
async fn a_waiting_reader_gets_what_settles_and_does_not_wait_at_the_end() {
    let (service, provider) = scripted_service().await;
    let id = submit(&service, "scripted:held", rows(["only"])).await;
    let nothing = service.get(&format!("/v1/batches/{id}/results?order=settled&end=true")).await;
    let cursor = lines(&nothing.text)[0]["cursor"].as_str().unwrap().to_owned();
    // Longer than the test's patience, so it is the settled item that ends the wait.
    let path = format!(
        "/v1/batches/{id}/results?order=settled&wait=60&after={cursor}&reason=timeout&outcome=succeeded"
    );
    let (answer, ()) = tokio::join!(service.get(&path), async {
        wait_for("the call is made", async || (provider.calls() > 0).then_some(())).await;
        provider.let_go(1);
    });
    let found = lines(&answer.text);
    assert_eq!(members(&found, "output"), ["only"]);
    until_final(&service, &id).await;
    let cursor = found[0]["cursor"].as_str().unwrap();
    let path = format!("/v1/batches/{id}/results?order=settled&wait=60&end=true&after={cursor}");
    let last = lines(&service.get(&path).await.text);
    assert_eq!((last.len(), &last[0]["complete"], &last[0]["state"]), (1, &json!(true), &json!("completed")));
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_said_in_words() {
    let service = Service::start().await;
    let id = submit(&service, "demo:any", rows(["a"])).await;
    let other = submit(&service, "demo:any", rows(["a"])).await;
    let path = |query: &str| format!("/v1/batches/{id}/results{query}");
    for query in [
        "?order=settled&format=csv",
        "?order=settled&merged=true",
        "?wait=5",
        "?order=settled&wait=61",
        "?limit=0",
        "?format=csv&end=true",
        "?dialect=safe",
        "?after=AAAA",
        "?after=%00",
    ] {
        let answer = service.get(&path(query)).await;
        answer.problem(422, "invalid");
    }
    for query in
        ["?order=newest", "?outcome=open", "?reason=because", "?wait=-1", "?page=2", "?limit=x", "?end=yes"]
    {
        service.get(&path(query)).await.problem(400, "bad_request");
    }
    let request = service.request(Method::GET, &path("")).header("accept", "application/xml");
    send(request).await.problem(406, "not_acceptable");
    let request = service.request(Method::GET, &path("")).header("accept-encoding", "identity;q=0, br");
    send(request).await.problem(406, "not_acceptable");

    let mut hand = Hand::take(&service.engine, &id).await;
    hand.succeed(0, "yes").await;
    let line = results(&service, &id, "?order=settled").await.pop().unwrap();
    let cursor = line["cursor"].as_str().unwrap();
    let foreign = service.get(&format!("/v1/batches/{other}/results?order=settled&after={cursor}")).await;
    assert!(foreign.problem(422, "invalid")["detail"].as_str().unwrap().contains("another batch"));
    service.get(&path(&format!("?after={cursor}"))).await.problem(422, "invalid");
    let mut tampered = cursor.to_owned();
    tampered.replace_range(10..11, if &tampered[10..11] == "x" { "y" } else { "x" });
    service.get(&path(&format!("?order=settled&after={tampered}"))).await.problem(422, "invalid");
}

#[tokio::test]
async fn another_tenant_finds_nothing() {
    let service = Service::start().await;
    let id = submit(&service, "demo:any", rows(["a"])).await;
    let key = service.key_of("other", Role::Owner, &[]).await;
    for path in ["results", "items", "items/0", "events"] {
        let request = service.request_as(&key, Method::GET, &format!("/v1/batches/{id}/{path}"));
        send(request).await.problem(404, "not_found");
        let missing = format!("/v1/batches/batch_{:032x}/{path}", 7);
        service.get(&missing).await.problem(404, "not_found");
        service.get(&format!("/v1/batches/nothing/{path}")).await.problem(404, "not_found");
    }
    let unable = service.key_of("default", Role::Owner, &["templates:read"]).await;
    for path in ["results", "items", "items/0", "events"] {
        let request = service.request_as(&unable, Method::GET, &format!("/v1/batches/{id}/{path}"));
        send(request).await.problem(403, "forbidden");
    }
}

/// Retries with that model what failed; answers the new batch, final.
async fn retry(service: &Service, id: &str, body: Value) -> String {
    let answer = service.post(&format!("/v1/batches/{id}/retry"), &body).await;
    let retry = answer.expect(201)["id"].as_str().unwrap().to_owned();
    until_final(service, &retry).await;
    retry
}

#[tokio::test]
async fn retries_of_retries_are_read_as_one() {
    let (service, _) = scripted_service().await;
    let say = |n: u32| match n % 4 {
        0 => format!("REFUSE {n}"),
        _ => format!("fine {n}"),
    };
    let id = submit(&service, "scripted:echo", rows((0..600).map(say))).await;
    until_final(&service, &id).await;
    let alone = results(&service, &id, "?merged=true").await;
    assert_eq!(alone, results(&service, &id, "").await);

    // The second try fails as the first; the third does not.
    let second = retry(&service, &id, json!({ "reasons": ["content_refused"] })).await;
    let third = retry(&service, &second, json!({ "model": "scripted:bold" })).await;
    assert_eq!(results(&service, &third, "").await.len(), 150);

    let merged = results(&service, &second, "?merged=true&outcome=failed").await;
    assert_eq!(merged.len(), 150);
    let merged = results(&service, &third, "?merged=true&end=true").await;
    let (end, merged) = merged.split_last().unwrap();
    assert_eq!((&end["count"], &end["complete"]), (&json!(600), &json!(true)));
    for (n, line) in (0..).zip(merged) {
        assert_eq!((&line["index"], &line["outcome"]), (&json!(n), &json!("succeeded")), "{line}");
        assert_eq!((&line["output"], &line["custom_id"]), (&json!(say(n)), &json!(format!("r{n}"))));
    }
    assert_eq!(results(&service, &third, "?merged=true&outcome=failed").await, [Value::Null; 0]);
    let part = results(&service, &third, "?merged=true&limit=3&end=true").await;
    let cursor = part[3]["cursor"].as_str().unwrap();
    let rest = results(&service, &third, &format!("?merged=true&limit=2&after={cursor}")).await;
    assert_eq!(members(&rest, "index"), [3, 4]);
    let csv = service.get(&format!("/v1/batches/{third}/results?merged=true&format=csv")).await;
    assert_eq!(csv.text.lines().count(), 601);

    let gone = send(service.request(Method::DELETE, &format!("/v1/batches/{id}"))).await;
    assert_eq!(gone.status, 204);
    service.get(&format!("/v1/batches/{third}/results?merged=true")).await.problem(409, "conflict");
    assert_eq!(results(&service, &third, "").await.len(), 150);
}

#[tokio::test]
async fn what_a_running_retry_has_not_settled_is_left_out_of_the_merged_reading() {
    let (service, provider) = scripted_service().await;
    let id = submit(&service, "scripted:echo", rows(["one", "REFUSE", "three", "REFUSE"])).await;
    until_final(&service, &id).await;
    let answer = service.post(&format!("/v1/batches/{id}/retry"), &json!({ "model": "scripted:held" })).await;
    let retry = answer.expect(201)["id"].as_str().unwrap().to_owned();
    wait_for("both are begun", async || (provider.calls() >= 6).then_some(())).await;
    let merged = results(&service, &retry, "?merged=true&end=true").await;
    let (end, merged) = merged.split_last().unwrap();
    assert_eq!(members(merged, "index"), [0, 2]);
    assert_eq!(end["complete"], false);
    provider.let_go(2);
    until_final(&service, &retry).await;
    let merged = results(&service, &retry, "?merged=true").await;
    assert_eq!(members(&merged, "index"), [0, 1, 2, 3]);
}

#[tokio::test]
async fn guarded_cells_are_for_spreadsheets_only() {
    let service = Service::start_with(Options::default()).await;
    let id = submit(&service, "demo:any", rows(["a"])).await;
    let mut hand = Hand::take(&service.engine, &id).await;
    hand.succeed(0, "=1+1").await;
    let raw = service.get(&format!("/v1/batches/{id}/results?format=csv&dialect=raw")).await;
    let safe = service.get(&format!("/v1/batches/{id}/results?format=csv&dialect=safe")).await;
    assert!(raw.text.contains(",=1+1,") && safe.text.contains("\"'=1+1\""), "{} {}", raw.text, safe.text);
}

#[tokio::test]
async fn a_table_of_retries_needs_one_kind_of_output() {
    let (service, _) = scripted_service().await;
    let mut mixed = template();
    service.post("/v1/templates", &mixed).await.expect(201);
    mixed["output"] = json!({ "format": "json" });
    service.post("/v1/templates/saying/versions", &mixed).await.expect(201);
    let body = json!({ "template": "saying@1", "model": "scripted:echo", "rows": rows(["one", "REFUSE"]) });
    let id = service.post("/v1/batches", &body).await.expect(201)["id"].as_str().unwrap().to_owned();
    until_final(&service, &id).await;
    let retry = retry(&service, &id, json!({ "template_version": 2, "model": "scripted:bold" })).await;
    let path = format!("/v1/batches/{retry}/results?merged=true&format=csv");
    service.get(&path).await.problem(422, "invalid");
    assert_eq!(results(&service, &retry, "?merged=true").await.len(), 2);
}

#[tokio::test]
async fn a_link_reads_the_results_of_its_batch_until_it_is_over_and_nothing_else() {
    let service = Service::start().await;
    let id = submit(&service, "demo:any", rows((0..3).map(|n| n.to_string()))).await;
    let mut hand = Hand::take(&service.engine, &id).await;
    for index in 0..3 {
        hand.succeed(index, "yes").await;
    }
    let now_ms = service.engine.clock.now_ms();
    let link = ResultsLink {
        tenant: TenantId::default_tenant(),
        batch: id.parse().unwrap(),
        until_ms: now_ms + 60_000,
    };
    let read = async |link: &ResultsLink, query: &str| {
        let url = format!("{}/v1/results/{}{query}", service.base, link.text(&service.vault).unwrap());
        // No key is sent.
        send(reqwest::Client::builder().no_proxy().build().unwrap().get(url)).await
    };
    let all = service.get(&format!("/v1/batches/{id}/results")).await;
    let answer = read(&link, "").await;
    assert_eq!(
        (answer.text.as_str(), answer.header("cache-control")),
        (all.text.as_str(), "private, no-store")
    );
    assert_eq!(read(&link, "?format=csv&limit=1").await.text.lines().count(), 2);
    let cursor =
        lines(&read(&link, "?order=settled&limit=2").await.text)[1]["cursor"].as_str().unwrap().to_owned();
    let rest = read(&link, &format!("?order=settled&after={cursor}")).await;
    assert_eq!(members(&lines(&rest.text), "index"), [2]);
    read(&link, "?format=xml").await.problem(400, "bad_request");
    for query in ["?merged=true", "?order=settled&wait=5"] {
        read(&link, query).await.problem(422, "invalid");
    }
    // Over, of another tenant, and no link at all.
    let over = ResultsLink { until_ms: now_ms - 1, ..link.clone() };
    let other = ResultsLink { tenant: "acme".parse().unwrap(), ..link.clone() };
    for link in [&over, &other] {
        read(link, "").await.problem(404, "not_found");
    }
    assert_eq!(service.get("/v1/results/pmv1.k.AAAA").await.status, 404);
    assert_eq!(service.get(&format!("/v1/results/{}", "a".repeat(5_000))).await.status, 404);
}
