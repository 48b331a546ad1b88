//! What holds for every input.

use promptmill_domain::{Output, Verdict};
use promptmill_prompt::{Template, Variables};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::template;

fn json_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[{}\\[\\]:,\"\\\\ \n`a-c0-9.-]{0,6}",
        Just("```json\n".to_owned()),
        Just("\n```\n".to_owned()),
        Just(r#"{"n": 1}"#.to_owned()),
        Just(r#""\ud83e""#.to_owned()),
        Just("\u{feff}".to_owned()),
        ".{0,4}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e15..1e15f64).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-d]{1,3}", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn numbered() -> Template {
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
    template("x", json!({"output": {"format": "json", "schema": schema}}))
}

proptest! {
    #[test]
    fn judging_never_panics_and_accepts_only_what_fits(reply in json_like()) {
        let template = numbered();
        let judgement = template.judge(&reply, &template.check("{}").unwrap());
        prop_assert_eq!(judgement.output.is_some(), judgement.verdict == Verdict::Accept);
        if let Some(Output::Json(raw)) = judgement.output {
            let value: Value = serde_json::from_str(raw.get()).unwrap();
            prop_assert!(value["n"].is_i64() || value["n"].is_u64() || value["n"].as_f64().is_some_and(|n| n.fract() == 0.0));
            prop_assert!(!raw.get().contains('\n'));
        }
    }

    #[test]
    fn any_json_is_accepted_as_the_same_value(value in value(), pretty in any::<bool>(), fence in any::<bool>()) {
        let template = template("x", json!({"output": {"format": "json"}}));
        let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        let reply = if fence { format!("Here:\n```json\n{text}\n```") } else { text };
        let judgement = template.judge(&reply, &template.check("{}").unwrap());
        let Some(Output::Json(raw)) = judgement.output else { return Err(TestCaseError::fail(format!("{judgement:?}"))) };
        prop_assert_eq!(serde_json::from_str::<Value>(raw.get()).unwrap(), value);
    }

    #[test]
    fn parsing_a_template_never_panics(text in json_like(), content in "[{}%#a-z |'\"().-]{0,30}", rule in "[a-z .|'\"()<>-]{0,20}") {
        let _ = Template::parse(&text);
        let value = json!({"name": "a", "messages": [{"role": "user", "content": content}],
                           "rules": [{"expression": rule, "message": "m"}]});
        let _ = Template::parse(&value.to_string());
    }

    #[test]
    fn a_text_comes_out_as_it_went_in(text in ".{0,40}", tags in "[{}%# a-z]{0,20}") {
        let template = template("<{{ a }}>", json!({}));
        let text = text + &tags;
        let row = template.check(&json!({"a": text}).to_string()).unwrap();
        prop_assert_eq!(&template.render(&row).unwrap()[0].content, &format!("<{text}>"));
        let texts = template.check_texts(&[("a", &text)]).unwrap();
        prop_assert_eq!(row, texts);
    }

    #[test]
    fn a_row_survives_its_stored_form(value in value()) {
        let template = template("{{ a }}", json!({"variables": {"a": {"required": false}}}));
        let row = template.check(&json!({"a": value}).to_string()).unwrap();
        let stored = Variables::from_json(&row.to_json()).unwrap();
        prop_assert_eq!(&stored, &row);
        prop_assert_eq!(stored.to_json(), row.to_json());
        if !value.is_null() {
            prop_assert_eq!(serde_json::from_str::<Value>(&row.to_json()).unwrap(), json!({"a": value}));
        }
    }

    #[test]
    fn json_and_texts_give_the_same_row(
        name in ".{0,10}", count in any::<i64>(), price in proptest::option::of(-1e12..1e12f64), on in any::<bool>(), tags in value(),
    ) {
        let kind = if tags.is_array() { "array" } else { "object" };
        let tags = if tags.is_array() || tags.is_object() { tags } else { json!({"x": tags}) };
        let template = template("x", json!({"variables": {
            "name": {"type": "string"}, "count": {"type": "integer"}, "price": {"type": "number", "required": false},
            "on": {"type": "boolean"}, "tags": {"type": kind},
        }}));
        let mut row = json!({"on": on, "tags": tags, "name": name, "count": count});
        let mut price_text = String::new();
        if let Some(price) = price {
            row["price"] = json!(price);
            price_text = row["price"].to_string();
        }
        let texts = [
            ("name", name), ("count", count.to_string()), ("price", price_text), ("on", on.to_string()), ("tags", tags.to_string()),
        ];
        let fields: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let (json, texts) = (template.check(&row.to_string()).unwrap(), template.check_texts(&fields).unwrap());
        prop_assert_eq!(json.to_json(), texts.to_json());
        prop_assert_eq!(json, texts);
    }

    #[test]
    fn checking_a_row_never_panics(text in json_like()) {
        let template = template("{{ a }}", json!({}));
        let _ = template.check(&text);
        let _ = template.check_texts(&[("a", &text), ("b", &text)]);
        let _ = Variables::from_json(&text);
    }
}
