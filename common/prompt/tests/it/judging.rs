//! Judging replies.

use promptmill_domain::{Flag, Output, Reason, Role, Verdict};
use promptmill_prompt::{Judgement, REPLY_BYTES, Template};
use serde_json::{Value, json};

use crate::support::template;

fn any_json() -> Template {
    template("x", json!({"output": {"format": "json"}}))
}

fn person() -> Template {
    template(
        "x",
        json!({"output": {"format": "json", "schema": {
            "type": "object", "required": ["name"], "additionalProperties": false,
            "properties": {"name": {"type": "string", "maxLength": 10}, "mail": {"type": "string", "format": "email"}},
        }}}),
    )
}

fn judge(template: &Template, reply: &str) -> Judgement {
    template.judge(reply, &template.check("{}").unwrap())
}

#[track_caller]
fn accepts(template: &Template, reply: &str, output: &str, flags: &[Flag]) {
    let judgement = judge(template, reply);
    assert_eq!(judgement.verdict, Verdict::Accept, "{reply}");
    match judgement.output.unwrap() {
        Output::Json(raw) => assert_eq!(raw.get(), output),
        Output::Text(text) => assert_eq!(text, output),
    }
    assert_eq!(judgement.flags, flags, "{reply}");
}

#[track_caller]
fn repairs(template: &Template, reply: &str, expected: &[&str]) {
    let judgement = judge(template, reply);
    assert_eq!(judgement.output, None);
    let Verdict::Repair(reasons) = judgement.verdict else { panic!("{:?} for {reply}", judgement.verdict) };
    let text: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    assert_eq!(text.len(), expected.len(), "{text:?}");
    for (reason, expected) in text.iter().zip(expected) {
        assert!(reason.contains(expected), "{text:?}");
    }
}

#[test]
fn bare_json_is_kept_as_it_is_written_on_one_line() {
    let any = any_json();
    accepts(
        &any,
        r#"{"a": 1.50, "b": 123456789012345678901234567890}"#,
        r#"{"a": 1.50, "b": 123456789012345678901234567890}"#,
        &[],
    );
    accepts(&any, " \n[1]\n ", "[1]", &[]);
    accepts(&any, "\"x\"", "\"x\"", &[]);
    accepts(&any, "42", "42", &[]);
    accepts(
        &any,
        "{\n  \"a\": \"x  \\\" \\n\",\r\n\t\"b\": [1,\n2]\n}",
        r#"{"a":"x  \" \n","b":[1,2]}"#,
        &[],
    );
}

#[test]
fn json_inside_other_text_is_found_and_flagged() {
    let any = any_json();
    let flags = &[Flag::Mended];
    accepts(&any, "```json\n{\"a\": 1}\n```", r#"{"a": 1}"#, flags);
    accepts(&any, "Here you are:\n```\n{\"a\": \"```\"}\n```\nEnjoy", r#"{"a": "```"}"#, flags);
    accepts(&any, "Sure! {\"a\": \"}{\\\"\"} Anything else?", r#"{"a": "}{\""}"#, flags);
    accepts(&any, "The 5\" list: [1, 2]", "[1, 2]", flags);
    accepts(&any, "```json\n{\"a\": 1}", r#"{"a": 1}"#, flags);
    accepts(&any, "\u{feff}{\"a\": 1}", r#"{"a": 1}"#, flags);
    accepts(&any, "As [1] says: {\"a\": [1, 2, 3]}", r#"{"a": [1, 2, 3]}"#, flags);
}

#[test]
fn of_several_places_the_last_that_fits_the_schema_counts() {
    let flags = &[Flag::Mended];
    let draft = "<think>maybe {\"name\": \"a longer draft\"} or {\"name\": \"Bob\"}</think>{\"name\": \"Ada\"} see [1]";
    accepts(&person(), draft, r#"{"name": "Ada"}"#, flags);
    accepts(&person(), "```\n{\"name\": \"A\"}\n```\n```\n{\"name\": \"B\"}\n```", r#"{"name": "B"}"#, flags);
    repairs(
        &person(),
        "{\"nam\": 1} [1]",
        &["must not have the properties: nam", "must have the property \"name\""],
    );
}

#[test]
fn slips_with_one_meaning_are_mended() {
    let any = any_json();
    accepts(&any, "{\"a\": [1, 2,], }", r#"{"a": [1, 2] }"#, &[Flag::Mended]);
    accepts(&any, "{\"a\": \"x\ny\tz\u{1}\"}", "{\"a\": \"x\\ny\\tz\\u0001\"}", &[Flag::Mended]);
    accepts(&any, r#"{"a": ",}"}"#, r#"{"a": ",}"}"#, &[]);
    accepts(&any, r#"{"a": "\ud83e"}"#, r#"{"a": "\ufffd"}"#, &[Flag::SurrogatesReplaced]);
    accepts(
        &any,
        r#"{"a": "\udd80 \ud83e\udd80 \\ud83e"}"#,
        r#"{"a": "\ufffd \ud83e\udd80 \\ud83e"}"#,
        &[Flag::SurrogatesReplaced],
    );
    accepts(
        &any,
        "```\n{\"a\": \"\\ud83e\",}\n```",
        r#"{"a": "\ufffd"}"#,
        &[Flag::Mended, Flag::SurrogatesReplaced],
    );
}

#[test]
fn content_is_never_guessed() {
    let any = any_json();
    for reply in [
        "",
        "  \n",
        "no json here",
        "{\"a\": 1",
        "{\"a\": {\"b\": 2}",
        "[1, 2",
        "{'a': 1}",
        "{a: 1}",
        "{\"a\": 1 \"b\": 2}",
        "{\"a\": \"unfinished",
        "NaN",
        "{\"a\": NaN}",
        "{\"a\": 01}",
        "{\"a\": {\"b\": 2}, \"c\": \"cut",
        "[,]",
        "[1,,]",
        "{\"a\":,}",
        "// x\n{\"a\": }",
    ] {
        let judgement = judge(&any, reply);
        assert!(matches!(judgement.verdict, Verdict::Repair(_)), "{reply}: {judgement:?}");
    }
    repairs(&any, "", &["the reply is empty"]);
}

#[test]
fn keys_written_twice_are_asked_about() {
    repairs(
        &any_json(),
        r#"{"a": 1, "b": [{"c": 1, "c": 2}], "a": 2}"#,
        &["/b/0/c: stands twice", "/a: stands twice"],
    );
}

#[test]
fn depth_and_size_of_a_reply_are_bounded() {
    let any = any_json();
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    accepts(&any, &nested(127), &nested(127), &[]);
    repairs(&any, &nested(128), &["recursion limit"]);
    repairs(&any, &"[".repeat(REPLY_BYTES), &["not valid JSON"]);
    repairs(&any, &"x".repeat(REPLY_BYTES + 1), &["longer than 1048576 bytes"]);
    repairs(&any, &"{\"".repeat(REPLY_BYTES / 2), &["not valid JSON"]);
}

#[test]
fn every_error_of_an_instance_is_a_reason() {
    repairs(
        &person(),
        r#"{"name": "far too long a name", "mail": "nope", "x": 1}"#,
        &[
            "/name: must have at most 10 characters, has 19",
            "/mail: must be a valid email",
            "must not have the properties: x",
        ],
    );
}

#[test]
fn reasons_are_few_and_never_hold_long_content() {
    let long = "y".repeat(100_000);
    let template = template(
        "x",
        json!({"output": {"format": "json", "schema": {"type": "array", "items": {
            "anyOf": [{"type": "integer"}, {"enum": ["a", "b"]}, {"type": "string", "pattern": "^z"}]
        }}}}),
    );
    let reply = json!(vec![long.as_str(); 5]).to_string();
    let Verdict::Repair(reasons) = judge(&template, &reply).verdict else { panic!("accepted") };
    assert_eq!(reasons.len(), 5);
    assert_eq!(reasons[0].pointer, "/0");
    assert!(
        reasons.iter().all(|reason| reason.to_string().len() < 600 && !reason.message.contains("yyy")),
        "{reasons:?}"
    );
    let many = Value::from(vec![Value::Null; 1000]).to_string();
    let Verdict::Repair(reasons) = judge(&template, &many).verdict else { panic!("accepted") };
    assert_eq!(reasons.len(), 50);
    let named = person();
    let reply = json!({"name": "a", long.as_str(): 1}).to_string();
    let Verdict::Repair(reasons) = judge(&named, &reply).verdict else { panic!("accepted") };
    assert!(reasons[0].message.len() < 300);
}

#[test]
fn formats_can_be_turned_off() {
    let schema = json!({"type": "string", "format": "date"});
    let on = template("x", json!({"output": {"format": "json", "schema": schema}}));
    let off = template("x", json!({"formats": false, "output": {"format": "json", "schema": schema}}));
    repairs(&on, "\"2024-02-30\"", &["must be a valid date"]);
    accepts(&on, "\"2024-02-29\"", "\"2024-02-29\"", &[]);
    accepts(&off, "\"2024-02-30\"", "\"2024-02-30\"", &[]);
}

#[test]
fn rules_see_output_and_variables_and_the_strictest_decides() {
    let template = template(
        "{{ min }}",
        json!({
            "output": {"format": "json"},
            "rules": [
                {"expression": "output.n >= variables.min", "message": "n is too small"},
                {"expression": "output.tags | length < 3", "message": "too many tags"},
                {"expression": "not output.spam | default(false)", "message": "spam", "verdict": "reject"},
            ],
        }),
    );
    let row = template.check(r#"{"min": 5}"#).unwrap();
    let verdict = |reply: &str| template.judge(reply, &row).verdict;
    assert_eq!(verdict(r#"{"n": 5, "tags": []}"#), Verdict::Accept);
    assert_eq!(verdict(r#"{"n": 4, "tags": []}"#), Verdict::Repair(vec![Reason::whole("n is too small")]));
    let spam = verdict(r#"{"n": 4, "tags": [1, 2, 3], "spam": true}"#);
    assert_eq!(
        spam,
        Verdict::Reject(["n is too small", "too many tags", "spam"].map(Reason::whole).to_vec())
    );
    let Verdict::Repair(reasons) = verdict(r#"{"n": 5}"#) else { panic!("accepted") };
    assert!(reasons[0].message.starts_with("too many tags ("), "{reasons:?}");
}

#[test]
fn a_rule_that_works_too_long_does_not_hold() {
    let template = template(
        "x",
        json!({"output": {"format": "text"}, "rules": [{"expression": "(output * 1000000000) | length > 0", "message": "no"}]}),
    );
    repairs(&template, "abc", &["no (this takes more work"]);
}

#[test]
fn text_is_kept_as_it_is_unless_it_is_a_choice() {
    let text = template("x", json!({}));
    accepts(&text, "  hello\n", "  hello\n", &[]);
    repairs(&text, " \n ", &["the reply is empty"]);
    let bounded = template("x", json!({"output": {"format": "text", "min_length": 2, "max_length": 4}}));
    accepts(&bounded, " привет"[..9].trim_end(), &" привет"[..9], &[]);
    repairs(&bounded, " a ", &["must have at least 2 characters, has 1"]);
    repairs(&bounded, "abcde", &["must have at most 4 characters, has 5"]);
    let choice = template("x", json!({"output": {"format": "text", "enum": ["yes", "no"]}}));
    accepts(&choice, " yes\n", "yes", &[]);
    repairs(&choice, "Yes.", &["must be exactly one of: yes, no"]);
}

#[test]
fn the_message_that_asks_again_is_bounded() {
    let reasons = vec![Reason::at("/a".repeat(500), "x".repeat(5000)); 60];
    let message = person().repair_message(&reasons);
    assert_eq!(message.role, Role::User);
    assert!(message.content.len() < 8_000, "{}", message.content.len());
    assert!(message.content.contains("and 40 more") && message.content.contains("bare JSON"));
    let text = template("x", json!({})).repair_message(&[Reason::whole("too short")]);
    assert!(text.content.contains("- too short\n") && !text.content.contains("JSON"));
}
