//! Checking rows, from JSON and from texts.

use promptmill_prompt::{Template, Variables};
use serde_json::json;

use crate::support::{lines, template};

fn declared() -> Template {
    template(
        "{{ name }}",
        json!({"variables": {
            "name": {"type": "string", "min_length": 2, "max_length": 4, "pattern": "^[A-Zа-яa-z]+$"},
            "count": {"type": "integer", "minimum": 1, "maximum": 10, "default": 7},
            "price": {"type": "number", "required": false},
            "on": {"type": "boolean", "required": false},
            "tags": {"type": "array", "min_items": 1, "max_items": 2, "required": false},
            "more": {"type": "object", "required": false},
            "kind": {"type": "string", "enum": ["a", "b"], "required": false},
            "any": {"required": false},
        }}),
    )
}

#[track_caller]
fn refused(row: &str, expected: &str) {
    let found = lines(&declared().check(row).expect_err(row));
    assert!(found.contains(expected), "{row}: {found}");
}

#[test]
fn a_row_is_canonical_whatever_its_order() {
    let template = declared();
    let a = template.check(r#"{"tags": ["x"], "price": 1.50, "name": "Ada", "any": null}"#).unwrap();
    let b = template.check("{\"name\":\"\\u0041da\",\n\"price\":1.5,\"tags\":[\"x\"]}").unwrap();
    assert_eq!(a, b);
    assert_eq!(a.to_json(), r#"{"name":"Ada","count":7,"price":1.5,"tags":["x"]}"#);
    assert_eq!(Variables::from_json(&a.to_json()).unwrap(), a);
    assert_eq!(format!("{a:?}"), "Variables(4)");
}

#[test]
fn every_limit_of_a_variable_is_held() {
    refused(r#"{}"#, "/name: is required");
    refused(r#"{"name": null}"#, "/name: is required");
    refused(r#"{"name": 5}"#, "/name: must be string, not integer");
    refused(r#"{"name": "a"}"#, "/name: must have at least 2 characters, has 1");
    refused(r#"{"name": "приве"}"#, "/name: must have at most 4 characters, has 5");
    refused(r#"{"name": "a1"}"#, "/name: must match the pattern");
    refused(r#"{"name": "Ada", "count": 0}"#, "/count: must be at least 1");
    refused(r#"{"name": "Ada", "count": 11}"#, "/count: must be at most 10");
    refused(r#"{"name": "Ada", "count": 1.5}"#, "/count: must be integer, not number");
    refused(r#"{"name": "Ada", "price": "1"}"#, "/price: must be number, not string");
    refused(r#"{"name": "Ada", "on": 1}"#, "/on: must be boolean, not integer");
    refused(r#"{"name": "Ada", "tags": []}"#, "/tags: must have at least 1 elements");
    refused(r#"{"name": "Ada", "tags": [1, 2, 3]}"#, "/tags: must have at most 2 elements");
    refused(r#"{"name": "Ada", "more": []}"#, "/more: must be object, not array");
    refused(r#"{"name": "Ada", "kind": "c"}"#, "/kind: must be one of: \"a\", \"b\"");
}

#[test]
fn all_problems_of_a_row_are_found_at_once() {
    let found = lines(&declared().check(r#"{"nmae": "x", "count": "x", "zzz": 1, "on": "x"}"#).unwrap_err());
    assert_eq!(
        found,
        "/nmae: unknown variable; did you mean `name`?\n/zzz: unknown variable\n/name: is required\n\
         /count: must be integer, not string\n/on: must be boolean, not string"
    );
}

#[test]
fn hostile_json_is_refused_with_its_place() {
    refused("", "not valid JSON");
    let flood: Vec<String> = (0..5_000).map(|n| format!("\"zzz{n}\":1")).collect();
    refused(&format!("{{{}}}", flood.join(",")), "too many problems");
    refused("[]", "a row is a JSON object");
    refused("5", "a row is a JSON object");
    refused(r#"{"name": "Ada"} x"#, "trailing characters at line 1 column 17");
    refused(r#"{"name": NaN}"#, "not valid JSON");
    refused(r#"{"name": "Ada", "price": 1e400}"#, "number out of range");
    refused(r#"{"name": "\ud800"}"#, "not valid JSON");
    refused("\u{feff}{}", "not valid JSON");
    refused(r#"{"name": "Ada", "name": "Bob"}"#, "/name: stands twice");
    refused(
        r#"{"name": "Ada", "any": {"x": {"a": 1, "a": 2}}}"#,
        "/any: an object inside has the same key twice",
    );
    let key = "k".repeat(257);
    refused(
        &format!(r#"{{"name": "Ada", "any": {{"{key}": 1}}}}"#),
        "/any: a key inside has more than 256 bytes",
    );
    refused(&format!(r#"{{"name": "Ada", "{key}": 1}}"#), "a name has at most 256 bytes");
    let nested =
        |levels: usize| format!(r#"{{"name": "Ada", "any": {}1{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert!(declared().check(&nested(63)).is_ok());
    refused(&nested(64), "/any: is nested deeper than 64 levels");
    refused(&nested(300), "recursion limit");
    refused(&format!(r#"{{"name": "{}"}}"#, "x".repeat(1 << 20)), "a row has at most");
}

#[test]
fn integers_that_would_lose_digits_are_refused() {
    let place = "/any: holds an integer of more than 64 bits";
    refused(r#"{"name": "Ada", "any": 18446744073709551616}"#, place);
    refused(r#"{"name": "Ada", "any": [{"x": -123456789012345678901234567890}]}"#, place);
    let row = r#"{"name":"Ada","any":[18446744073709551615,-9223372036854775808,1e30,"123456789012345678901234567890"]}"#;
    let variables = declared().check(row).unwrap();
    assert!(
        variables.to_json().contains("[18446744073709551615,-9223372036854775808,1e+30,\"1234567"),
        "{}",
        variables.to_json()
    );
}

#[test]
fn text_may_hold_anything_unicode() {
    let template = template("{{ a }}", json!({}));
    let row = r#"{"a":"\u0000 é é \u202e 🦀 \u2028"}"#;
    let variables = template.check(row).unwrap();
    let content = &template.render(&variables).unwrap()[0].content;
    assert_eq!(content, "\0 é é \u{202e} 🦀 \u{2028}");
}

#[test]
fn whole_fractions_count_as_integers() {
    assert_eq!(
        declared().check(r#"{"name":"Ada","count":5.0}"#).unwrap().to_json(),
        r#"{"name":"Ada","count":5}"#
    );
}

#[test]
fn texts_are_read_as_the_declared_types() {
    let template = declared();
    let texts = template
        .check_texts(&[
            ("name", "Ada"),
            ("count", " 5 "),
            ("price", "1e3"),
            ("on", "TRUE"),
            ("tags", "[1, \"x\"]"),
            ("more", r#"{"a": {}}"#),
            ("kind", "a"),
            ("any", "5"),
        ])
        .unwrap();
    let json = template
        .check(r#"{"name":"Ada","count":5,"price":1e3,"on":true,"tags":[1,"x"],"more":{"a":{}},"kind":"a","any":"5"}"#)
        .unwrap();
    assert_eq!(texts, json);
    assert_eq!(texts.to_json(), json.to_json());
    let empty: Vec<(&str, &str)> =
        ["count", "price", "on", "tags", "more", "kind", "any"].map(|name| (name, "")).to_vec();
    let texts = template.check_texts(&[&[("name", "Ada")], empty.as_slice()].concat()).unwrap();
    assert_eq!(texts, template.check(r#"{"name":"Ada"}"#).unwrap());
}

#[test]
fn texts_that_do_not_fit_are_refused() {
    let cases = [
        ("count", "007", "must be integer written as JSON"),
        ("count", "+5", "must be integer written as JSON"),
        ("count", "1,5", "must be integer written as JSON"),
        ("count", "5.5", "must be integer, not number"),
        ("price", "NaN", "must be number written as JSON"),
        ("price", "123456789012345678901", "more than 64 bits"),
        ("on", "yes", "must be true or false"),
        ("tags", "a;b", "must be array written as JSON"),
        ("tags", "{}", "must be array, not object"),
        ("more", "{\"a\":1,\"a\":2}", "same key twice"),
        ("nmae", "x", "unknown variable; did you mean `name`?"),
        ("name", "Bob", "stands twice"),
    ];
    for (name, text, expected) in cases {
        let found = lines(&declared().check_texts(&[("name", "Ada"), (name, text)]).unwrap_err());
        assert!(found.contains(expected), "{name}={text}: {found}");
    }
}

#[test]
fn an_empty_text_is_kept_where_a_string_is_required() {
    let template =
        template("{{ a }}{{ b }}", json!({"variables": {"a": {"type": "string"}, "b": {"type": "integer"}}}));
    let found = lines(&template.check_texts(&[("a", ""), ("b", "")]).unwrap_err());
    assert_eq!(found, "/b: is required");
    assert_eq!(
        template.check_texts(&[("a", ""), ("b", "1")]).unwrap(),
        template.check(r#"{"a":"","b":1}"#).unwrap()
    );
}

#[test]
fn without_declarations_a_row_may_hold_more_than_is_used() {
    let template = template("{{ b }}", json!({}));
    let a = template.check(r#"{"z": "1", "b": "2", "a": "3"}"#).unwrap();
    assert_eq!(a.to_json(), r#"{"b":"2","a":"3","z":"1"}"#);
    assert_eq!(a, template.check_texts(&[("a", "3"), ("b", "2"), ("z", "1")]).unwrap());
    assert!(lines(&template.check(r#"{"z": 1, "z": 2, "b": 1}"#).unwrap_err()).contains("/z: stands twice"));
    assert!(lines(&template.check("{}").unwrap_err()).contains("/b: is required"));
}

#[test]
fn problems_never_repeat_what_a_row_holds() {
    let found = lines(
        &declared()
            .check(r#"{"name": "hunter2-hunter2", "kind": "hunter2", "count": "hunter2"}"#)
            .unwrap_err(),
    );
    assert!(!found.contains("hunter2"), "{found}");
}

#[test]
fn a_stored_row_that_is_no_object_is_corrupt() {
    for text in ["", "[]", "{", "null"] {
        assert!(Variables::from_json(text).is_err(), "{text}");
    }
}
