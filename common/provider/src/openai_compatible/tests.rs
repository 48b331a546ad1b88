use promptmill_domain::FailureKind::*;
use serde_json::json;

use super::*;
use crate::chat::{ResponseFormat, ResponseSchema};
use crate::tests_support::{reply_of, request};

#[test]
fn every_word_and_status_has_its_meaning() {
    let rows = [
        (
            r#"{"error":{"message":"m","type":"invalid_request_error","param":null,"code":null}}"#,
            400,
            RequestRefused,
            false,
            false,
        ),
        (
            r#"{"error":{"message":"m","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
            400,
            ContextTooLong,
            false,
            false,
        ),
        (
            r#"{"error":{"code":400,"message":"m","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":4}}"#,
            400,
            ContextTooLong,
            false,
            false,
        ),
        (
            r#"{"object":"error","message":"This model's maximum context length is 4096 tokens","type":"BadRequestError","code":400}"#,
            400,
            ContextTooLong,
            false,
            false,
        ),
        (r#"{"error":{"message":"m","code":"content_filter"}}"#, 400, ContentRefused, false, false),
        (r#"{"error":{"message":"m","code":"content_policy_violation"}}"#, 400, ContentRefused, false, false),
        (r#"{"error":{"message":"m","code":"invalid_prompt"}}"#, 400, ContentRefused, false, false),
        (r#"{"error":{"message":"m","code":"unsupported_parameter"}}"#, 400, RequestRefused, false, false),
        (
            r#"{"error":{"message":"Incorrect API key provided: sk-abcdefgh","code":"invalid_api_key"}}"#,
            401,
            CredentialRefused,
            false,
            true,
        ),
        (r#"{"detail":"Unauthorized"}"#, 401, CredentialRefused, false, true),
        (r#"{"error":{"message":"m"}}"#, 402, PaymentRequired, false, true),
        (r#"{"error":{"message":"m","type":"permission_error"}}"#, 403, CredentialRefused, false, true),
        (r#"{"error":{"message":"m","code":"model_not_found"}}"#, 404, ModelUnavailable, false, false),
        (r#"{"error":{"message":"m","code":"model_not_found"}}"#, 400, ModelUnavailable, false, false),
        (r#"{"error":{"message":"m","type":"not_found_error"}}"#, 404, ModelUnavailable, false, false),
        (r#"{"detail":"Not Found"}"#, 404, ModelUnavailable, false, false),
        ("request timeout", 408, Timeout, true, false),
        ("payload too large", 413, ContextTooLong, false, false),
        (
            r#"{"detail":[{"loc":["body","stop"],"msg":"value is not a valid list"}]}"#,
            422,
            RequestRefused,
            false,
            false,
        ),
        (
            r#"{"error":{"message":"m","type":"requests","code":"rate_limit_exceeded"}}"#,
            429,
            RateLimited,
            true,
            true,
        ),
        (
            r#"{"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            429,
            PaymentRequired,
            false,
            true,
        ),
        (
            r#"{"error":{"message":"m","code":"billing_hard_limit_reached"}}"#,
            429,
            PaymentRequired,
            false,
            true,
        ),
        (r#"{"error":{"message":"m","type":"server_error"}}"#, 500, ProviderError, true, false),
        ("<html></html>", 502, ProviderError, true, false),
        (
            r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#,
            503,
            ProviderOverloaded,
            true,
            false,
        ),
        ("upstream request timeout", 504, Timeout, true, false),
        (r#"{"error":{"message":"m","type":"overloaded_error"}}"#, 529, ProviderOverloaded, true, false),
    ];
    for (body, status, kind, transient, lane_wide) in rows {
        let failure = error_reply(&reply_of(status, "application/json", body));
        assert_eq!(
            (failure.kind, failure.transient, failure.lane_wide),
            (kind, transient, lane_wide),
            "{status} {body}"
        );
        assert_eq!(failure.retry_after, None);
        assert!(!failure.message.contains("sk-"));
    }
}

#[test]
fn a_wait_is_kept_and_makes_an_overload_lane_wide() {
    for (status, lane_wide) in [(429, true), (503, true), (500, false)] {
        let mut reply = reply_of(status, "text/plain", "wait");
        reply.retry_after = Some(Duration::from_secs(9));
        let failure = error_reply(&reply);
        assert_eq!(
            (failure.retry_after, failure.lane_wide),
            (Some(Duration::from_secs(9)), lane_wide),
            "{status}"
        );
    }
}

#[test]
fn content_may_come_in_parts() {
    let body = r#"{"choices":[{"message":{"content":[{"type":"thinking","thinking":[]},{"type":"text","text":"a"},{"type":"text","text":"b"}]}}]}"#;
    assert_eq!(reply::read(&reply_of(200, "application/json", body), classify).unwrap().content, "ab");
}

#[test]
fn only_openai_itself_gets_its_own_dialect() {
    let mut request = request();
    let schema =
        |schema| ResponseFormat::Schema(std::sync::Arc::new(ResponseSchema::new("x".to_owned(), schema)));
    request.format = schema(json!({"type": "object", "properties": {"a": {}}}));
    let body = |request: &ChatRequest, dialect| -> Value {
        serde_json::from_slice(&request_body::write(request, dialect).unwrap()).unwrap()
    };
    let (openai, others) = (body(&request, OPENAI), body(&request, OTHERS));
    assert_eq!((&openai["max_completion_tokens"], &openai["max_tokens"]), (&json!(400), &Value::Null));
    assert_eq!((&others["max_completion_tokens"], &others["max_tokens"]), (&Value::Null, &json!(400)));
    assert_eq!(openai["response_format"]["json_schema"]["strict"], json!(false));
    assert_eq!(others["response_format"]["json_schema"]["strict"], json!(true));
    assert!(openai.get("provider").is_none() && others.get("provider").is_none());
    request.format = schema(
        json!({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": false}),
    );
    assert_eq!(body(&request, OPENAI)["response_format"]["json_schema"]["strict"], json!(true));
}

#[test]
fn strict_rules_hold_at_every_depth() {
    let open = json!({"type": "object", "properties": {"a": {}}});
    let closed =
        json!({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": false});
    assert!(keeps_strict_rules(&json!({"type": "array", "items": closed})));
    assert!(!keeps_strict_rules(&json!({"anyOf": [{"type": "null"}, open]})));
    assert!(!keeps_strict_rules(&json!({"type": "object"})));
}

#[test]
fn models_of_vllm_tell_their_context() {
    let list: ModelList =
        serde_json::from_str(r#"{"object":"list","data":[{"id":"m","max_model_len":4096},{"id":"n"}]}"#)
            .unwrap();
    let listings: Vec<_> = list.data.into_iter().map(Model::into_listing).collect();
    assert_eq!(listings[0].context_length, Some(4096));
    assert_eq!((listings[1].id.as_str(), listings[1].context_length), ("n", None));
}
