//! Conversations handed in as they are, and the template that only judges them.

use promptmill_domain::{Message, Role, Verdict};
use promptmill_prompt::{Problem, RENDERED_BYTES, Template, Variables, estimate_tokens, read_messages};
use proptest::prelude::*;

fn message(role: Role, content: &str) -> Message {
    Message { role, content: content.to_owned() }
}

#[track_caller]
fn check_problems(json: &str, expected: &[(&str, &str)]) {
    let problems = read_messages(json).unwrap_err();
    let found: Vec<(&str, &str)> =
        problems.iter().map(|problem| (problem.pointer.as_str(), problem.message.as_str())).collect();
    assert_eq!(found.len(), expected.len(), "{json}: {found:?}");
    for ((pointer, message), (place, words)) in found.iter().zip(expected) {
        assert!(pointer == place && message.contains(words), "{json}: {found:?}");
    }
}

#[test]
fn a_conversation_is_read_as_it_was_written() {
    let json = r#" [ {"role":"system","content":""}, {"content":"a \"b\" \u00e9 {{ x }}", "role":"user"}, {"role":"assistant","content":"{"} ] "#;
    let expected =
        [message(Role::System, ""), message(Role::User, "a \"b\" é {{ x }}"), message(Role::Assistant, "{")];
    assert_eq!(read_messages(json).unwrap(), expected);
}

#[test]
fn every_problem_is_told_with_its_place() {
    check_problems("{}", &[("", "must be an array")]);
    check_problems("[", &[("", "not valid JSON")]);
    check_problems("[]", &[("", "1 to 256 messages")]);
    check_problems(
        r#"[1, {}, {"role":"tool","content":7}, {"role":"user","content":"a","name":"x","content":"b"}]"#,
        &[
            ("/0", "must be an object"),
            ("/1/role", "is required"),
            ("/1/content", "is required"),
            ("/2/content", "must be a string"),
            ("/2/role", "must be one of: system, user, assistant"),
            ("/3/name", "unknown key"),
            ("/3/content", "stands twice"),
        ],
    );
    check_problems(
        r#"[{"role":"user","conten":"a"}]"#,
        &[("/0/conten", "did you mean `content`?"), ("/0/content", "is required")],
    );
    check_problems(
        r#"[{"role":"user","content":[{"type":"text","text":"a"}]}]"#,
        &[("/0/content", "must be a string")],
    );
    check_problems(
        r#"[{"role":"user","content":"hush \ud83d"}]"#,
        &[("/0/content", "half of a surrogate pair")],
    );
    check_problems(r#"[{"role":"user","content":" \n"}]"#, &[("", "not empty")]);
}

#[test]
fn sizes_are_bounded() {
    let many = |count: usize| {
        let one = r#"{"role":"user","content":"a"}"#;
        format!("[{}]", vec![one; count].join(","))
    };
    assert_eq!(read_messages(&many(256)).unwrap().len(), 256);
    check_problems(&many(257), &[("", "1 to 256 messages")]);
    let sized =
        |bytes: usize| serde_json::json!([{ "role": "user", "content": "x".repeat(bytes) }]).to_string();
    assert!(read_messages(&sized(RENDERED_BYTES)).is_ok());
    check_problems(&sized(RENDERED_BYTES + 1), &[("", "bytes together")]);
    let bad = format!("[{}]", vec!["{}"; 200].join(","));
    assert_eq!(read_messages(&bad).unwrap_err().len(), 50);
    let keys: Vec<String> = (0..10_000).map(|n| format!("\"k{n}\":1")).collect();
    assert!(read_messages(&format!("[{{{}}}]", keys.join(","))).unwrap_err().len() <= 50);
}

#[test]
fn an_estimate_is_a_token_for_four_bytes_of_all_messages() {
    let count = |texts: &[&str]| {
        estimate_tokens(&texts.iter().map(|text| message(Role::User, text)).collect::<Vec<_>>())
    };
    assert_eq!(
        (count(&[]), count(&[""]), count(&["a"]), count(&["abcd"]), count(&["abcd", "ä"])),
        (0, 0, 1, 1, 2)
    );
}

#[test]
fn a_template_for_messages_judges_by_its_output_and_nothing_else() {
    let free = Template::parse(&Template::for_messages(None).unwrap()).unwrap();
    assert!(free.variables().is_empty());
    assert!(matches!(free.judge("anything", &Variables::empty()).verdict, Verdict::Accept));
    let output = r#"{"format":"json","schema":{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}}"#;
    let strict = Template::parse(&Template::for_messages(Some(output)).unwrap()).unwrap();
    assert!(matches!(strict.judge("{\"n\":1}", &Variables::empty()).verdict, Verdict::Accept));
    assert!(matches!(strict.judge("{\"n\":\"x\"}", &Variables::empty()).verdict, Verdict::Repair(_)));
    for (source, expected) in
        [(strict.source(), true), (free.source(), true), ("{\"name\":\"messages\"}", false), ("", false)]
    {
        assert_eq!(Template::is_for_messages(source), expected, "{source}");
    }
    // Its own message is no prompt: a row of variables it takes is the empty one.
    assert!(strict.check("{\"a\":1}").is_err());
}

#[test]
fn a_bad_output_is_told_with_pointers_into_it() {
    let pointers = |output: &str| -> Vec<String> {
        let problems: Vec<Problem> = Template::for_messages(Some(output)).unwrap_err();
        problems.into_iter().map(|problem| problem.pointer).collect()
    };
    assert_eq!(pointers(r#"{"format":"xml"}"#), ["/output/format"]);
    assert_eq!(pointers(r#"{"format":"text","format":"json"}"#), ["/output/format"]);
    assert_eq!(pointers("7"), ["/output"]);
    assert_eq!(pointers("{"), ["/output"]);
    // Nothing beside the output can be brought in.
    assert_eq!(pointers(r#"{"format":"text"},"rules":[]"#), ["/output"]);
}

#[test]
fn a_rule_sees_no_variables_of_a_row_of_messages() {
    let template = Template::parse(
        r#"{"name":"t","messages":[{"role":"user","content":"{{ a }}"}],
            "rules":[{"expression":"variables.a in output","message":"name it"}]}"#,
    )
    .unwrap();
    assert!(!matches!(template.judge("x", &Variables::empty()).verdict, Verdict::Accept));
}

proptest! {
    #[test]
    fn any_conversation_reads_back(contents in proptest::collection::vec(".{0,30}", 1..5)) {
        let messages: Vec<Message> = contents.iter().map(|text| message(Role::User, text)).collect();
        let json = serde_json::to_string(&messages).unwrap();
        match read_messages(&json) {
            Ok(read) => prop_assert_eq!(read, messages),
            Err(_) => prop_assert!(contents.iter().all(|text| text.trim().is_empty())),
        }
    }

    #[test]
    fn no_text_makes_reading_panic(text in "[\\[\\]{}\":,\\\\a1ud8 ]{0,60}") {
        let _ = read_messages(&text);
        let _ = Template::for_messages(Some(&text));
    }
}
