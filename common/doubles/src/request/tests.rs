use super::*;

fn ask(provider: Provider, body: &str) -> Result<Asked, Refusal> {
    read(provider, body.as_bytes(), 1, &|text| serde_json::from_str(text).ok().map(Arc::new))
}

#[test]
fn a_marker_is_found_wherever_it_stands() {
    assert_eq!(marker(br#"{"content":"a [b] [[row:12]] [[row:13]]"}"#), Some("12"));
    assert_eq!(marker(b"[[[row:a-1_b.c:d]]"), Some("a-1_b.c:d"));
    for none in ["", "[[row:]]", "[[row:a b]]", "[[row:1]", "[[rows:1]]"] {
        assert_eq!(marker(none.as_bytes()), None, "{none}");
    }
    assert_eq!(marker(format!("[[row:{}]] [[row:7]]", "x".repeat(65)).as_bytes()), Some("7"));
}

#[test]
fn ollama_streams_unless_told_otherwise_and_the_others_only_when_told() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    assert!(ask(Provider::Ollama, body).unwrap().stream);
    assert!(!ask(Provider::OpenRouter, body).unwrap().stream);
    assert!(!ask(Provider::OpenAi, body).unwrap().stream);
}

#[test]
fn a_repair_shows_an_earlier_reply_or_asks_twice() {
    let case = |roles: &[&str]| {
        let messages: Vec<_> =
            roles.iter().map(|role| serde_json::json!({"role": role, "content": "x"})).collect();
        let asked =
            ask(Provider::OpenAi, &serde_json::json!({"model": "m", "messages": messages}).to_string())
                .unwrap();
        (asked.repair, asked.mended)
    };
    assert_eq!(case(&["system", "user"]), (false, false));
    assert_eq!(case(&["user", "user"]), (true, false));
    assert_eq!(case(&["user", "assistant"]), (true, false));
    assert_eq!(case(&["system", "user", "assistant", "user"]), (true, true));
}

#[test]
fn what_a_provider_would_refuse_is_refused() {
    let user = r#""messages":[{"role":"user","content":"x"}]"#;
    let cases = [
        (Provider::OpenRouter, "not json".to_owned(), 400),
        (Provider::OpenRouter, format!("{{{user}}}"), 400),
        (Provider::OpenRouter, r#"{"model":"m","messages":[]}"#.to_owned(), 400),
        (Provider::OpenRouter, r#"{"model":"m","messages":[{"role":"bot","content":"x"}]}"#.to_owned(), 400),
        (Provider::OpenRouter, r#"{"model":"m","messages":[{"role":"user","content":7}]}"#.to_owned(), 400),
        (Provider::OpenRouter, format!(r#"{{"model":"m","temperature":2.5,{user}}}"#), 400),
        (Provider::OpenRouter, format!(r#"{{"model":"m","stop":["1","2","3","4","5"],{user}}}"#), 400),
        (Provider::OpenRouter, format!(r#"{{"model":"m","response_format":{{"type":"xml"}},{user}}}"#), 400),
        (
            Provider::OpenAi,
            format!(
                r#"{{"model":"m","response_format":{{"type":"json_schema","json_schema":{{"name":"a b","schema":{{}}}}}},{user}}}"#
            ),
            400,
        ),
        (Provider::Ollama, format!(r#"{{"model":"m","format":"xml",{user}}}"#), 500),
        (Provider::Ollama, format!(r#"{{"model":"m","options":{{"stop":"x"}},{user}}}"#), 500),
        (Provider::Ollama, format!(r#"{{"model":"m","stream":"yes",{user}}}"#), 400),
        (Provider::Ollama, r#"{"model":"m","messages":[{"role":"user","content":[]}]}"#.to_owned(), 400),
    ];
    for (provider, body, status) in cases {
        assert_eq!(ask(provider, &body).unwrap_err().status, status, "{provider:?} {body}");
    }
    assert!(ask(Provider::Ollama, r#"{"model":"m"}"#).unwrap().empty);
}
