use promptmill_domain::FailureKind::{self, *};
use promptmill_domain::{Flag, Money, Tokens};

use super::*;
use crate::chat::{Finish, ResponseFormat, ResponseSchema};
use crate::request_body;
use crate::tests_support::{reply_of, request, request_with};

/// (body, status, kind, transient, lane-wide, retry-after seconds)
type Row<'a> = (&'a str, u16, FailureKind, bool, bool, Option<u64>);

#[track_caller]
fn check_rows(rows: &[Row<'_>], header: Option<u64>) {
    for (body, status, kind, transient, lane_wide, retry_after) in rows {
        let mut reply = reply_of(*status, "application/json", body);
        reply.retry_after = header.map(Duration::from_secs);
        let failure = if (200..300).contains(status) {
            reply::read(&reply, classify).unwrap_err()
        } else {
            error_reply(&reply)
        };
        let found =
            (failure.kind, failure.transient, failure.lane_wide, failure.retry_after.map(|d| d.as_secs()));
        assert_eq!(found, (*kind, *transient, *lane_wide, *retry_after), "{status} {body}");
        assert_eq!(failure.status, Some(*status));
        assert!(!failure.message.is_empty());
    }
}

#[test]
fn every_status_of_the_table_has_its_meaning() {
    let plain = r#"{"error":{"code":0,"message":"m"}}"#;
    check_rows(
        &[
            (plain, 400, RequestRefused, false, false, None),
            (plain, 401, CredentialRefused, false, true, None),
            (plain, 402, PaymentRequired, false, true, None),
            (plain, 403, CredentialRefused, false, true, None),
            (plain, 404, ModelUnavailable, false, false, None),
            (plain, 408, Timeout, true, false, None),
            (plain, 412, RequestRefused, false, false, None),
            (plain, 413, ContextTooLong, false, false, None),
            (plain, 422, RequestRefused, false, false, None),
            (plain, 429, RateLimited, true, true, None),
            (plain, 500, ProviderError, true, false, None),
            (plain, 502, ProviderError, true, false, None),
            (plain, 503, ProviderOverloaded, true, false, None),
            (plain, 504, Timeout, true, false, None),
            (plain, 524, Timeout, true, false, None),
            (plain, 529, ProviderOverloaded, true, false, None),
            (plain, 599, ProviderError, true, false, None),
            (plain, 302, RequestRefused, false, false, None),
        ],
        None,
    );
    check_rows(
        &[
            (plain, 429, RateLimited, true, true, Some(7)),
            (plain, 503, ProviderOverloaded, true, true, Some(7)),
            (plain, 500, ProviderError, true, false, Some(7)),
        ],
        Some(7),
    );
}

#[test]
fn words_decide_where_a_status_means_several_things() {
    check_rows(
        &[
            (
                r#"{"error":{"message":"This endpoint's maximum context length is 8192 tokens"}}"#,
                400,
                ContextTooLong,
                false,
                false,
                None,
            ),
            (
                r#"{"error":{"message":"acme/x is not a valid model ID"}}"#,
                400,
                ModelUnavailable,
                false,
                false,
                None,
            ),
            (
                r#"{"error":{"message":"m","metadata":{"reasons":["violence"],"flagged_input":"a...b"}}}"#,
                403,
                ContentRefused,
                false,
                false,
                None,
            ),
            (
                r#"{"error":{"message":"m","metadata":{"patterns":["ssn"]}}}"#,
                403,
                ContentRefused,
                false,
                false,
                None,
            ),
            (r#"{"error":{"message":"blocked by content policy"}}"#, 400, ContentRefused, false, false, None),
            ("<html>bad gateway</html>", 502, ProviderError, true, false, None),
            ("", 500, ProviderError, true, false, None),
        ],
        None,
    );
}

#[test]
fn error_type_wins_over_the_status() {
    let words = [
        ("context_length_exceeded", ContextTooLong),
        ("max_tokens_exceeded", RequestRefused),
        ("token_limit_exceeded", ContextTooLong),
        ("string_too_long", ContextTooLong),
        ("authentication", CredentialRefused),
        ("permission_denied", CredentialRefused),
        ("payment_required", PaymentRequired),
        ("rate_limit_exceeded", RateLimited),
        ("provider_overloaded", ProviderOverloaded),
        ("provider_unavailable", ProviderError),
        ("invalid_request", RequestRefused),
        ("invalid_prompt", ContentRefused),
        ("not_found", ModelUnavailable),
        ("precondition_failed", RequestRefused),
        ("payload_too_large", ContextTooLong),
        ("unprocessable", RequestRefused),
        ("content_policy_violation", ContentRefused),
        ("refusal", ContentRefused),
        ("invalid_image", RequestRefused),
        ("image_too_large", RequestRefused),
        ("image_too_small", RequestRefused),
        ("unsupported_image_format", RequestRefused),
        ("image_not_found", RequestRefused),
        ("image_download_failed", RequestRefused),
        ("server", ProviderError),
        ("timeout", Timeout),
        // These two leave it to the status.
        ("unmapped", ProviderError),
        ("a_word_of_tomorrow", ProviderError),
    ];
    for (word, kind) in words {
        let lane_wide = matches!(kind, CredentialRefused | PaymentRequired | RateLimited);
        for body in [
            format!(r#"{{"error":{{"code":500,"message":"m","error_type":"{word}"}}}}"#),
            format!(r#"{{"error":{{"code":500,"message":"m","metadata":{{"error_type":"{word}"}}}}}}"#),
        ] {
            check_rows(&[(&body, 500, kind, kind.is_transient(), lane_wide, None)], None);
        }
    }
}

#[test]
fn availability_says_whether_to_try_again() {
    let body = |code: &str, retryable: bool| {
        format!(
            r#"{{"error":{{"http_status":1,"message":"m","availability":{{"code":"{code}","retryable":{retryable},"retry_after":3}}}}}}"#
        )
    };
    let rows = [
        ("model_not_found", 400, false, ModelUnavailable, false),
        ("wrong_endpoint", 400, false, RequestRefused, false),
        ("no_endpoints", 404, false, ModelUnavailable, false),
        ("no_endpoints", 404, true, ModelUnavailable, false),
        ("model_deprecated", 404, false, ModelUnavailable, false),
        ("model_unavailable_upstream", 404, false, ModelUnavailable, false),
        ("capacity_exhausted", 429, true, ProviderOverloaded, true),
        ("temporarily_unavailable", 503, true, ProviderOverloaded, true),
        ("temporarily_unavailable", 503, false, ProviderOverloaded, true),
        ("region_restricted", 403, false, ModelUnavailable, false),
        ("privacy_restricted", 404, false, ModelUnavailable, false),
        ("constraint_filtered", 404, false, ModelUnavailable, false),
        ("free_variant_ended", 404, false, ModelUnavailable, false),
        ("new_code", 404, true, ModelUnavailable, false),
    ];
    for (code, status, retryable, kind, lane_wide) in rows {
        check_rows(&[(&body(code, retryable), status, kind, retryable, lane_wide, Some(3))], None);
    }
}

#[test]
fn an_error_inside_a_200_is_found_wherever_it_stands() {
    check_rows(
        &[
            (r#"{"error":{"code":429,"message":"slow down"}}"#, 200, RateLimited, true, true, None),
            (
                r#"{"error":{"code":"server_error","message":"m"},"choices":[]}"#,
                200,
                ProviderError,
                true,
                false,
                None,
            ),
            (r#"{"choices":[]}"#, 200, MalformedReply, true, false, None),
            ("{}", 200, MalformedReply, true, false, None),
            (
                r#"{"choices":[{"finish_reason":"error","message":{"content":"partial te"},"error":{"code":502,"message":"upstream closed","metadata":{"error_type":"provider_unavailable"}}}]}"#,
                200,
                ProviderError,
                true,
                false,
                None,
            ),
            (
                r#"{"choices":[{"finish_reason":"error","message":{"content":"partial"}}]}"#,
                200,
                ProviderError,
                true,
                false,
                None,
            ),
            (
                r#"{"choices":[{"finish_reason":"stop","message":{"content":null}}]}"#,
                200,
                EmptyReply,
                true,
                false,
                None,
            ),
            (
                r#"{"choices":[{"finish_reason":null,"message":{"content":" \n"}}]}"#,
                200,
                EmptyReply,
                true,
                false,
                None,
            ),
            (
                r#"{"choices":[{"finish_reason":"length","message":{"content":""}}]}"#,
                200,
                TruncatedReply,
                true,
                false,
                None,
            ),
            (
                r#"{"choices":[{"finish_reason":"content_filter","message":{"content":""}}]}"#,
                200,
                ContentRefused,
                false,
                false,
                None,
            ),
            (
                r#"{"choices":[{"finish_reason":"stop","message":{"content":null,"refusal":"no"}}]}"#,
                200,
                ContentRefused,
                false,
                false,
                None,
            ),
            (
                r#"{"choices":[{"finish_reason":"tool_calls","message":{"content":null,"tool_calls":[]}}]}"#,
                200,
                EmptyReply,
                true,
                false,
                None,
            ),
            (r#"{"choices":[{"finish_reason":"stop"}]}"#, 200, MalformedReply, true, false, None),
            ("<!doctype html><p>hello", 200, MalformedReply, true, false, None),
            (r#"{"choices":[{"message":{"content":"cut"#, 200, MalformedReply, true, false, None),
        ],
        None,
    );
}

#[test]
fn a_reply_cut_at_any_byte_never_succeeds_and_never_shows_itself() {
    let whole = r#"{"id":"gen-1","choices":[{"finish_reason":"stop","message":{"content":"hush"}}],"usage":{"cost":1e-5}}"#;
    for cut in 0..whole.len() {
        let failure = reply::read(&reply_of(200, "application/json", &whole[..cut]), classify).unwrap_err();
        assert_eq!(failure.kind, MalformedReply);
        assert!(!failure.message.contains("hush"));
    }
    assert!(reply::read(&reply_of(200, "application/json", whole), classify).is_ok());
}

#[test]
fn a_whole_reply_brings_tokens_and_the_exact_cost() {
    let body = r#"
        {"id":"gen-1790000000-abc","object":"chat.completion","model":"acme/model-a","provider":"SomeHost",
         "choices":[{"index":0,"finish_reason":"stop","native_finish_reason":"end_turn","logprobs":null,
           "message":{"role":"assistant","content":"{\"city\":\"Oslo\"}","refusal":null,"reasoning":null}}],
         "usage":{"prompt_tokens":61,"completion_tokens":9,"total_tokens":70,"cost":0.0000412,"is_byok":false}}"#;
    let reply = reply::read(&reply_of(200, "application/json", body), classify).unwrap();
    assert_eq!(reply.content, r#"{"city":"Oslo"}"#);
    assert_eq!(reply.usage, Some(Tokens { prompt: 61, completion: 9 }));
    assert_eq!(reply.cost, Some(Money::from_pico(41_200_000)));
    assert_eq!((reply.finish, reply.generation.as_deref()), (Finish::Stop, Some("gen-1790000000-abc")));
    assert!(reply.flags.is_empty());
}

#[test]
fn usage_of_any_form_never_costs_the_reply() {
    let rows = [
        ("null", None, None),
        ("[]", None, None),
        (r#"{"prompt_tokens":3}"#, Some((3, 0)), None),
        (
            r#"{"prompt_tokens":3.0,"completion_tokens":null,"cost":"0.5"}"#,
            Some((3, 0)),
            Some(500_000_000_000),
        ),
        (r#"{"prompt_tokens":-1,"completion_tokens":2,"cost":-1}"#, Some((0, 2)), None),
        (r#"{"prompt_tokens":1,"cost":4.12e-5}"#, Some((1, 0)), Some(41_200_000)),
        (r#"{"prompt_tokens":1,"cost":0}"#, Some((1, 0)), Some(0)),
    ];
    for (usage, tokens, pico) in rows {
        let body = format!(r#"{{"choices":[{{"message":{{"content":"x"}}}}],"usage":{usage}}}"#);
        let reply = reply::read(&reply_of(200, "application/json", &body), classify).unwrap();
        assert_eq!(reply.usage.map(|tokens| (tokens.prompt, tokens.completion)), tokens, "{usage}");
        assert_eq!(reply.cost.map(Money::pico), pico, "{usage}");
        assert_eq!(reply.flags.contains(&Flag::UsageUnknown), tokens.is_none());
    }
}

#[test]
fn a_failed_generation_keeps_what_it_cost() {
    let body = r#"{"id":"gen-9","choices":[{"finish_reason":"length","message":{"content":""}}],"usage":{"prompt_tokens":5,"completion_tokens":16,"cost":0.25}}"#;
    let failure = reply::read(&reply_of(200, "application/json", body), classify).unwrap_err();
    assert_eq!(failure.usage, Some(Tokens { prompt: 5, completion: 16 }));
    assert_eq!((failure.cost, failure.generation.as_deref()), ("0.25".parse().ok(), Some("gen-9")));
}

#[test]
fn half_surrogates_do_not_cost_the_reply() {
    let body = r#"{"choices":[{"message":{"content":"a\ud83d b\ud83d\ude00"}}],"usage":{"prompt_tokens":1}}"#;
    let reply = reply::read(&reply_of(200, "application/json", body), classify).unwrap();
    assert_eq!((reply.content.as_str(), reply.flags), ("a\u{fffd} b😀", vec![Flag::SurrogatesReplaced]));
}

#[test]
fn a_text_over_a_mebibyte_is_cut_at_a_character_and_flagged() {
    let body = format!(r#"{{"choices":[{{"message":{{"content":"x{}"}}}}]}}"#, "я".repeat(512 * 1024));
    let reply = reply::read(&reply_of(200, "application/json", &body), classify).unwrap();
    assert_eq!(reply.content.len(), 1024 * 1024 - 1);
    assert!(reply.flags.contains(&Flag::ReplyCut));
}

#[test]
fn an_echoed_key_never_reaches_the_message() {
    let body = r#"{"error":{"code":401,"message":"No auth for sk-or-v1-deadbeefdeadbeef\u0000\n."}}"#;
    assert_eq!(error_reply(&reply_of(401, "application/json", body)).message, "No auth for [key] .");
}

#[test]
fn the_body_is_what_the_reference_shows() {
    let mut request = request();
    request.format = ResponseFormat::Schema(std::sync::Arc::new(ResponseSchema::new(
        "city".to_owned(),
        serde_json::json!({"type": "object", "properties": {"city": {"type": "string"}}}),
    )));
    assert_eq!(
        String::from_utf8(request_body::write(&request, DIALECT).unwrap()).unwrap(),
        concat!(
            r#"{"model":"acme/model-a","messages":[{"role":"system","content":"Reply with JSON only."},"#,
            r#"{"role":"user","content":"Where is \"Oslo\"?"}],"stream":false,"temperature":0.0,"top_p":0.9,"max_tokens":400,"seed":7,"#,
            r#""stop":["\n\n"],"response_format":{"type":"json_schema","json_schema":{"name":"city","strict":true,"#,
            r#""schema":{"type":"object","properties":{"city":{"type":"string"}}}}},"provider":{"require_parameters":true}}"#
        )
    );
}

#[test]
fn pass_through_options_win_key_by_key_but_not_over_the_call_itself() {
    let mut request = request_with(serde_json::json!({
        "provider": {"order": ["a"], "require_parameters": false},
        "response_format": {"json_schema": {"strict": false}},
        "temperature": 1, "reasoning": {"effort": "low"}, "models": ["acme/b"],
        "messages": [], "stream": true, "model": "other"
    }));
    request.format = ResponseFormat::Schema(std::sync::Arc::new(ResponseSchema::new(
        "größe".to_owned(),
        serde_json::json!(true),
    )));
    let body: serde_json::Value =
        serde_json::from_slice(&request_body::write(&request, DIALECT).unwrap()).unwrap();
    assert_eq!(body["provider"], serde_json::json!({"require_parameters": false, "order": ["a"]}));
    assert_eq!(
        body["response_format"],
        serde_json::json!({"type": "json_schema", "json_schema": {"name": "gr__e", "strict": false, "schema": true}})
    );
    assert_eq!(
        (&body["temperature"], &body["reasoning"]["effort"]),
        (&serde_json::json!(1), &serde_json::json!("low"))
    );
    assert_eq!(
        (&body["model"], &body["stream"]),
        (&serde_json::json!("acme/model-a"), &serde_json::json!(false))
    );
    assert_eq!(body["messages"].as_array().map(Vec::len), Some(2));
    assert_eq!(body["models"], serde_json::json!(["acme/b"]));
}

#[test]
fn json_mode_asks_for_an_object_and_text_for_nothing() {
    let mut request = request();
    request.format = ResponseFormat::Json;
    let json = String::from_utf8(request_body::write(&request, DIALECT).unwrap()).unwrap();
    assert!(
        json.ends_with(r#""response_format":{"type":"json_object"},"provider":{"require_parameters":true}}"#),
        "{json}"
    );
    request.format = ResponseFormat::Text;
    let text = String::from_utf8(request_body::write(&request, DIALECT).unwrap()).unwrap();
    assert!(!text.contains("response_format") && !text.contains("provider"), "{text}");
}

#[test]
fn prices_of_models_are_read_as_written() {
    let body = r#"{"data":[{"id":"acme/model-a","context_length":131072,
        "pricing":{"prompt":"0.0000005","completion":"0.0000015","request":"0","discount":0.1},
        "top_provider":{"context_length":1,"max_completion_tokens":16384},
        "supported_parameters":["response_format","structured_outputs"]},
        {"id":"acme/free","context_length":null,"pricing":{"prompt":"-1"},"top_provider":{"max_completion_tokens":null}}]}"#;
    let list: ModelList<'_> = serde_json::from_str(body).unwrap();
    let listings: Vec<ModelListing> = list.data.into_iter().map(Model::into_listing).collect();
    assert_eq!(
        listings,
        vec![
            ModelListing {
                id: "acme/model-a".to_owned(),
                context_length: Some(131_072),
                max_completion_tokens: Some(16_384),
                prompt_price: Some(Money::from_pico(500_000)),
                completion_price: Some(Money::from_pico(1_500_000)),
                request_price: Some(Money::ZERO),
                structured_outputs: Some(true),
            },
            ModelListing { id: "acme/free".to_owned(), ..ModelListing::default() },
        ]
    );
}

#[test]
fn what_is_left_of_a_key_is_read_as_far_as_it_is_told() {
    for (body, left) in [
        (r#"{"data":{"label":"x","limit":10,"limit_remaining":4.25}}"#, Some("4.25")),
        (r#"{"data":{"limit_remaining":-0.01}}"#, Some("0")),
        (r#"{"data":{"limit_remaining":null}}"#, None),
        (r#"{"data":{}}"#, None),
        ("no json", None),
    ] {
        let left = left.map(|left| left.parse().unwrap());
        assert_eq!(credential(body.as_bytes()), Credential { left }, "{body}");
    }
}
