//! Section by section of OpenRouter's pages: replies, streams, listings, refusals.

use promptmill_doubles::{Config, Doubles, Fault, FaultPlan, Provider, RetryAfter};
use serde_json::{Value, json};

use crate::client::{
    End, ask, ask_json, chat, check_conforms, content, get, repair, send, send_chat, start, start_with,
    streamed,
};

const P: Provider = Provider::OpenRouter;

#[test]
fn a_reply_has_the_documented_fields_and_obeys_the_schema() {
    let doubles = start(FaultPlan::none());
    let reply = chat(&doubles, P, &ask_json(P, "1"));
    assert_eq!(
        (reply.status, reply.header("content-type"), reply.end),
        (200, Some("application/json"), End::Complete)
    );
    let body = reply.json();
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("m")));
    assert_eq!(reply.header("x-generation-id"), body["id"].as_str());
    assert!(body["id"].as_str().unwrap().starts_with("gen-"));
    let choice = &body["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("stop")));
    assert_eq!(choice["message"]["role"], "assistant");
    check_conforms(&choice["message"]["content"]);
    let usage = &body["usage"];
    let (prompt, completion) =
        (usage["prompt_tokens"].as_u64().unwrap(), usage["completion_tokens"].as_u64().unwrap());
    assert_eq!(usage["total_tokens"].as_u64(), Some(prompt + completion));
    assert!(usage["cost"].as_f64().unwrap() > 0.0);
    let totals = doubles.ledger().totals();
    assert_eq!((totals.prompt_tokens, totals.completion_tokens), (prompt, completion));
    assert_eq!(totals.cost_pico, prompt * 500_000 + completion * 1_500_000);
}

#[test]
fn a_stream_has_comments_one_usage_with_no_choices_and_done() {
    let doubles = start(FaultPlan::none());
    let reply = chat(&doubles, P, &streamed(ask_json(P, "1")));
    assert_eq!(
        (reply.status, reply.header("content-type"), reply.end),
        (200, Some("text/event-stream"), End::Complete)
    );
    assert!(reply.text().starts_with(": OPENROUTER PROCESSING\n\n"));
    let (done, chunks) = reply.events().split_last().map(|(last, rest)| (*last, rest.to_vec())).unwrap();
    assert_eq!(done, "[DONE]");
    let chunks: Vec<Value> = chunks.into_iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    check_conforms(&json!(text));
    let (usage, rest) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    assert!(
        rest.iter().all(|chunk| chunk.get("usage").is_none() && chunk["object"] == "chat.completion.chunk")
    );
    assert_eq!(rest.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert_eq!(doubles.ledger().totals().valid_replies, 1);
}

#[test]
fn every_refusal_has_its_status_and_error_object() {
    let cases = [
        (Fault::BadRequest, 400, "invalid_request"),
        (Fault::ContextTooLong, 400, "context_length_exceeded"),
        (Fault::Unauthorized, 401, "authentication"),
        (Fault::PaymentRequired, 402, "payment_required"),
        (Fault::Moderated, 403, "content_policy_violation"),
        (Fault::RequestTimeout, 408, "timeout"),
        (Fault::TooLarge, 413, "payload_too_large"),
        (Fault::RateLimited(RetryAfter::Absent), 429, "rate_limit_exceeded"),
        (Fault::ServerError, 500, "server"),
        (Fault::BadGateway, 502, "provider_unavailable"),
        (Fault::Overloaded(RetryAfter::Absent), 503, "provider_unavailable"),
        (Fault::GatewayTimeout, 504, "timeout"),
        (Fault::EdgeTimeout, 524, "timeout"),
        (Fault::ProviderOverloaded, 529, "provider_overloaded"),
    ];
    for (fault, status, error_type) in cases {
        let doubles = start_with(fault);
        // A fault before the first token is an ordinary JSON error even where a stream was asked for.
        for body in [ask("a"), streamed(ask("b"))] {
            let reply = chat(&doubles, P, &body);
            assert_eq!(
                (reply.status, reply.header("content-type")),
                (status, Some("application/json")),
                "{fault:?}"
            );
            let error = &reply.json()["error"];
            assert_eq!(
                (&error["code"], &error["metadata"]["error_type"]),
                (&json!(status), &json!(error_type))
            );
            assert!(error["message"].is_string());
            assert_eq!(reply.header("retry-after"), None);
        }
        assert_eq!(chat(&doubles, P, &ask("a")).status, 200, "{fault:?} is followed by a good reply");
    }
}

#[test]
fn moderation_says_what_was_flagged() {
    let reply = chat(&start_with(Fault::Moderated), P, &ask("1"));
    let metadata = &reply.json()["error"]["metadata"];
    assert!(metadata["reasons"].is_array() && metadata["flagged_input"].is_string());
    assert_eq!(metadata["model_slug"], "m");
}

#[test]
fn availability_errors_carry_a_code_of_their_own_and_none_in_the_error() {
    for (fault, status, code) in
        [(Fault::UnknownModel, 404, "no_endpoints"), (Fault::UnknownModelId, 400, "model_not_found")]
    {
        let reply = chat(&start_with(fault), P, &ask("1"));
        let error = &reply.json()["error"];
        assert_eq!(reply.status, status);
        assert_eq!((error.get("code"), &error["http_status"]), (None, &json!(status)));
        assert_eq!(
            (&error["availability"]["code"], &error["availability"]["retryable"]),
            (&json!(code), &json!(false))
        );
    }
}

#[test]
fn errors_hide_inside_a_200() {
    let error_reply = chat(&start_with(Fault::ErrorReply), P, &ask("1"));
    assert_eq!(error_reply.status, 200);
    assert!(error_reply.json().get("choices").is_none() && error_reply.json()["error"]["code"] == 502);

    let error_choice = chat(&start_with(Fault::ErrorChoice), P, &ask("1"));
    let choice = &error_choice.json()["choices"][0];
    assert_eq!((error_choice.status, &choice["finish_reason"]), (200, &json!("error")));
    assert_eq!(choice["error"]["metadata"]["error_type"], "provider_unavailable");
    assert!(!choice["message"]["content"].as_str().unwrap().is_empty());

    let error_finish = chat(&start_with(Fault::ErrorFinish), P, &ask("1"));
    let choice = error_finish.json()["choices"][0].clone();
    assert_eq!((&choice["finish_reason"], choice.get("error")), (&json!("error"), None));
    assert_eq!(error_finish.json()["usage"]["cost"], 0);
}

#[test]
fn an_error_in_mid_stream_is_the_last_event_and_no_done_follows() {
    let doubles = start_with(Fault::ErrorMidStream);
    let reply = chat(&doubles, P, &streamed(ask("1")));
    assert_eq!((reply.status, reply.end), (200, End::Complete));
    let events = reply.events();
    assert!(!events.contains(&"[DONE]") && events.len() > 1);
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    // The streaming page shows a code that is a text.
    assert_eq!(
        (&last["error"]["code"], &last["choices"][0]["finish_reason"]),
        (&json!("server_error"), &json!("error"))
    );
    assert_eq!(doubles.ledger().marker("1").valid_replies, 0);
}

#[test]
fn a_cut_stream_ends_without_done() {
    let reply = chat(&start_with(Fault::Cut), P, &streamed(ask("1")));
    assert_eq!((reply.status, reply.end), (200, End::Complete));
    assert!(!reply.text().contains("[DONE]") && !reply.text().contains(r#""finish_reason":"stop""#));
}

#[test]
fn empty_truncated_and_filtered_replies_are_complete() {
    let body = |fault| chat(&start_with(fault), P, &ask_json(P, "1")).json();
    assert_eq!(body(Fault::EmptyContent)["choices"][0]["message"]["content"], "");
    assert_eq!(body(Fault::NullContent)["choices"][0]["message"]["content"], Value::Null);
    assert_eq!(body(Fault::NoChoices)["choices"], json!([]));
    let truncated = body(Fault::Truncated);
    assert_eq!(truncated["choices"][0]["finish_reason"], "length");
    let text = truncated["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).is_err() && !text.is_empty());
    assert_eq!(body(Fault::Filtered)["choices"][0]["finish_reason"], "content_filter");
}

#[test]
fn an_invalid_reply_becomes_valid_in_a_repair_conversation() {
    let doubles = start(FaultPlan::always(Fault::InvalidReply));
    let first = content(P, &chat(&doubles, P, &ask_json(P, "1")));
    let value: Value = serde_json::from_str(first.as_str().unwrap()).unwrap();
    assert!(value.get("city").is_none() && value.get("people").is_some());
    check_conforms(&content(P, &chat(&doubles, P, &repair(ask_json(P, "1")))));
    let record = doubles.ledger().marker("1");
    assert_eq!((record.calls, record.repair_calls, record.replies_sent, record.valid_replies), (1, 1, 2, 1));

    let stubborn = start(FaultPlan::always(Fault::StubbornReply));
    let second = content(P, &chat(&stubborn, P, &repair(ask_json(P, "1"))));
    assert!(serde_json::from_str::<Value>(second.as_str().unwrap()).unwrap().get("city").is_none());
}

#[test]
fn a_key_is_required_and_checked_against_the_configured_ones() {
    let json = ("content-type", "application/json");
    let body = ask("1").to_string();
    let status = |doubles: &Doubles, headers: &[(&str, &str)]| {
        send(doubles.addr(), "POST", "/openrouter/api/v1/chat/completions", headers, body.as_bytes())
            .read()
            .unwrap()
            .status
    };
    let any = start(FaultPlan::none());
    assert_eq!(status(&any, &[json]), 401);
    assert_eq!(status(&any, &[json, ("authorization", "Basic key-1")]), 401);
    assert_eq!(status(&any, &[json, ("authorization", "Bearer ")]), 401);
    assert_eq!(status(&any, &[json, ("authorization", "bearer whatever")]), 200);
    let config = Config { openrouter_keys: vec!["key-1".to_owned()], ..Config::default() };
    let named = Doubles::start(config).unwrap();
    assert_eq!(status(&named, &[json, ("authorization", "Bearer key-2")]), 401);
    assert_eq!(status(&named, &[json, ("authorization", "Bearer key-1")]), 200);
    assert_eq!(named.ledger().totals().refused, 1);
    assert!(!serde_json::to_string(&named.ledger().snapshot()).unwrap().contains("key-2"));
}

#[test]
fn models_and_the_key_are_listed() {
    let doubles = start(FaultPlan::none());
    let models = get(&doubles, "/openrouter/api/v1/models").json();
    assert_eq!(models["data"][0]["pricing"]["prompt"], "0.0000005");
    assert!(get(&doubles, "/openrouter/api/v1/key").json()["data"]["limit"].is_null());
    let refused = start(FaultPlan::from(promptmill_doubles::Preset::RefusedKey));
    assert_eq!(get(&refused, "/openrouter/api/v1/key").status, 401);
    assert_eq!(get(&doubles, "/openrouter/api/v1/nothing").status, 404);
    assert_eq!(get(&doubles, "/openrouter/api/v1/chat/completions").status, 405);
}

#[test]
fn an_unlisted_model_is_refused_where_models_are_named() {
    let doubles =
        Doubles::start(Config { models: vec!["acme/known".to_owned()], ..Config::default() }).unwrap();
    assert_eq!(send_chat(&doubles, P, &ask("1")).read().unwrap().status, 400);
    let mut known = ask("1");
    known["model"] = json!("acme/known");
    assert_eq!(chat(&doubles, P, &known).status, 200);
}
