use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Makes thirty values, which `fits` must accept.
#[track_caller]
fn check(schema: &Value, fits: impl Fn(&Value) -> bool) {
    for seed in 0..30 {
        let value = conforming(schema, Dice::new(seed), false);
        assert!(fits(&value), "{value} for {schema}");
    }
}

#[test]
fn constants_and_choices_are_taken_as_they_are() {
    check(&json!({"const": {"a": [1]}}), |value| *value == json!({"a": [1]}));
    check(&json!({"type": "string", "enum": ["x", "y"]}), |value| value == "x" || value == "y");
    check(&json!({"allOf": [{"enum": [1, 2, 3]}, {"enum": [3, 4]}]}), |value| *value == 3);
}

#[test]
fn numbers_stay_inside_their_bounds() {
    check(&json!({"type": "integer", "minimum": 3, "exclusiveMaximum": 6}), |value| {
        (3..6).contains(&value.as_i64().unwrap())
    });
    check(&json!({"type": "integer", "minimum": -7, "maximum": 20, "multipleOf": 5}), |value| {
        [-5, 0, 5, 10, 15, 20].contains(&value.as_i64().unwrap())
    });
    check(&json!({"type": "integer", "maximum": -5}), |value| value.as_i64().unwrap() <= -5);
    check(&json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}), |value| {
        (0.01..0.99).contains(&value.as_f64().unwrap())
    });
    check(&json!({"type": "number", "minimum": 0, "exclusiveMaximum": 0.4, "multipleOf": 0.1}), |value| {
        [0.0, 0.1, 0.2, 0.3].contains(&value.as_f64().unwrap())
    });
}

#[test]
fn texts_have_the_length_the_format_and_the_pattern() {
    check(&json!({"type": "string", "minLength": 30, "maxLength": 33}), |value| {
        (30..=33).contains(&value.as_str().unwrap().chars().count())
    });
    check(&json!({"type": "string", "maxLength": 2}), |value| value.as_str().unwrap().chars().count() <= 2);
    check(&json!({"type": "string", "format": "date"}), |value| {
        value.as_str().unwrap().starts_with("2026-02-")
    });
    check(&json!({"type": "string", "pattern": "^[A-Z]+$", "minLength": 20, "maxLength": 20}), |value| {
        let text = value.as_str().unwrap();
        text.len() == 20 && text.bytes().all(|b| b.is_ascii_uppercase())
    });
}

#[test]
fn objects_have_what_is_required_and_nothing_that_is_not_named() {
    let schema = json!({
        "type": "object", "required": ["a", "b"], "additionalProperties": false,
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"type": "integer"}, "d": false},
    });
    check(&schema, |value| {
        let object = value.as_object().unwrap();
        value["a"].is_boolean() && value["b"].is_null() && object.contains_key("b") && object.len() <= 3
    });
    check(&json!({"additionalProperties": {"type": "integer"}, "minProperties": 3}), |value| {
        value.as_object().unwrap().len() >= 3 && value.as_object().unwrap().values().all(Value::is_i64)
    });
    check(&json!({"properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 1}), |value| {
        value.as_object().unwrap().len() <= 1
    });
}

#[test]
fn arrays_have_the_size_the_items_and_no_repetition() {
    check(&json!({"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 5}), |value| {
        let items = value.as_array().unwrap();
        (4..=5).contains(&items.len()) && items.iter().all(Value::is_i64)
    });
    check(
        &json!({"items": {"enum": [1, 2, 3]}, "minItems": 3, "uniqueItems": true, "maxItems": 3}),
        |value| {
            let mut items: Vec<i64> =
                value.as_array().unwrap().iter().map(|item| item.as_i64().unwrap()).collect();
            items.sort_unstable();
            items == [1, 2, 3]
        },
    );
    check(&json!({"prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": false}), |value| {
        let items = value.as_array().unwrap();
        items.len() == 2 && items[0].is_null() && items[1].is_boolean()
    });
}

#[test]
fn references_and_alternatives_are_followed() {
    let schema = json!({
        "$ref": "#/$defs/pair",
        "$defs": {
            "pair": {"type": "object", "properties": {"x": {"$ref": "#/$defs/small"}}, "required": ["x"]},
            "small": {"allOf": [{"type": "integer", "minimum": 0}, {"maximum": 9}, {"minimum": 8}]},
        },
    });
    check(&schema, |value| (8..=9).contains(&value["x"].as_i64().unwrap()));
    check(&json!({"anyOf": [{"type": "boolean"}, {"type": "null"}]}), Value::is_boolean);
    check(&json!({"type": ["null", "string"]}), Value::is_string);
    check(
        &json!({"type": "object", "properties": {"a": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        |value| value.get("a").is_some(),
    );
}

#[test]
fn recursive_schemas_end() {
    let tree = json!({
        "type": "object", "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#"}},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
    });
    check(&tree, |value| value["name"].is_string());
    for endless in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"anyOf": [{"$ref": "#"}]}),
        json!({"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]}),
        json!({"type": "array", "items": {"$ref": "#"}, "minItems": 3}),
    ] {
        let _ = conforming(&endless, Dice::new(1), false);
    }
}

#[test]
fn a_violation_lacks_a_required_property_or_has_another_type() {
    let object = json!({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]});
    let violation = violating(&object, Dice::new(1)).unwrap();
    assert!(violation.get("a").is_none() && violation.get("b").is_some());
    assert!(violating(&json!({"type": "array"}), Dice::new(1)).unwrap().is_string());
    assert!(violating(&json!({"type": ["string", "null"]}), Dice::new(1)).unwrap().is_boolean());
    assert_eq!(violating(&json!({}), Dice::new(1)), None);
    assert_eq!(violating(&json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), Dice::new(1)), None);
}

#[test]
fn the_mark_begins_one_text() {
    let schema = json!({"type": "object", "required": ["kind", "a", "b"], "properties": {
        "kind": {"enum": ["x"]}, "a": {"type": "string"}, "b": {"type": "string"},
    }});
    let value = conforming(&schema, Dice::new(1), true);
    assert!(value["a"].as_str().unwrap().starts_with(SURROGATE_MARK));
    assert_eq!(value.to_string().matches(SURROGATE_MARK).count(), 1);
}

/// Anything that looks like a schema, sensible or not.
fn schemas() -> impl Strategy<Value = Value> {
    let number =
        prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from), Just(json!(3))];
    let word = prop_oneof![
        Just("object"),
        Just("array"),
        Just("integer"),
        Just("number"),
        Just("string"),
        Just("a"),
        Just("#/$defs/a"),
        Just("^(a+|[b-z]{2,}){3}$"),
        Just("date"),
    ];
    let leaf = prop_oneof![
        number,
        word.prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null)
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        let name = prop_oneof![
            Just("type"),
            Just("properties"),
            Just("required"),
            Just("items"),
            Just("prefixItems"),
            Just("minItems"),
            Just("maxItems"),
            Just("uniqueItems"),
            Just("minimum"),
            Just("exclusiveMaximum"),
            Just("multipleOf"),
            Just("minLength"),
            Just("maxLength"),
            Just("pattern"),
            Just("anyOf"),
            Just("allOf"),
            Just("$ref"),
            Just("a"),
            Just("$defs"),
            Just("additionalProperties"),
            Just("minProperties"),
            Just("enum"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((name, inner), 0..6).prop_map(|members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_schema_makes_the_generator_panic(schema in schemas(), seed in any::<u64>()) {
        let value = conforming(&schema, Dice::new(seed), false);
        prop_assert_eq!(&value, &conforming(&schema, Dice::new(seed), false));
        let _ = violating(&schema, Dice::new(seed));
    }
}
