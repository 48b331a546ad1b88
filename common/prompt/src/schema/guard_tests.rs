use serde_json::json;

use super::*;

#[track_caller]
fn bounds(schema: &Value) -> Bounds {
    let mut problems = Vec::new();
    let bounds = measure(schema, "", &mut problems);
    bounds.unwrap_or_else(|| panic!("refused: {problems:?}"))
}

#[track_caller]
fn refused(schema: &Value, words: &str) {
    let mut problems = Vec::new();
    assert!(measure(schema, "/output/schema", &mut problems).is_none(), "accepted: {words}");
    let text = problems[0].to_string();
    assert!(text.contains(words), "{text}");
    assert!(text.starts_with("/output/schema"), "{text}");
}

/// `levels` definitions, each asking twice for the next.
fn doubling(levels: usize) -> Value {
    let mut defs = Map::new();
    for n in 0..levels {
        let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
        defs.insert(format!("d{n}"), json!({"allOf": [next.clone(), next]}));
    }
    defs.insert(format!("d{levels}"), json!({"type": "string"}));
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

#[test]
fn definitions_that_double_at_each_level_are_refused() {
    refused(&doubling(25), "in a row");
    refused(&doubling(14), "steps");
    assert!(bounds(&doubling(4)).visits_at(0) < 100);
}

#[test]
fn an_ordinary_schema_costs_a_few_visits_at_any_depth() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string"}, "b": {"type": "array", "items": {"type": "object", "properties": {"c": {}}}}
    }, "additionalProperties": false});
    let bounds = bounds(&schema);
    assert_eq!((bounds.depth, bounds.unique, bounds.alternatives), (127, false, false));
    assert!(bounds.visits_at(127) < 10);
}

#[test]
fn a_tree_that_refers_to_its_own_kind_once_is_cheap() {
    let schema = json!({"type": "object", "properties": {
        "left": {"$ref": "#"}, "right": {"$ref": "#"}, "children": {"type": "array", "items": {"$ref": "#"}}
    }});
    assert_eq!(bounds(&schema).depth, 127);
}

#[test]
fn recursion_that_doubles_on_the_way_down_limits_the_depth() {
    let child = json!({"properties": {"c": {"$ref": "#/$defs/n"}}});
    let schema = json!({"$ref": "#/$defs/n", "$defs": {"n": {"allOf": [child.clone(), child.clone()]}}});
    let depth = bounds(&schema).depth;
    assert!((LEAST_DEPTH..20).contains(&depth), "{depth}");
    let many = json!({"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": vec![child; 12]}}});
    refused(&many, "exponentially");
}

#[test]
fn overlapping_names_count_as_the_same_child() {
    let node = json!({"patternProperties": {"^a": {"$ref": "#"}, "b$": {"$ref": "#"}}});
    assert!(bounds(&node).depth < 20);
}

#[test]
fn loops_that_stay_at_one_value_are_refused() {
    refused(&json!({"$ref": "#"}), "refers to itself");
    refused(
        &json!({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}}),
        "refers to itself",
    );
    refused(&json!({"$dynamicAnchor": "x", "allOf": [{"$dynamicRef": "#x"}]}), "refers to itself");
}

#[test]
fn references_that_leave_the_document_are_refused() {
    for reference in
        ["http://127.0.0.1:9/x.json", "file:///etc/passwd", "gopher://x", "other.json", "other.json#/a"]
    {
        refused(&json!({"properties": {"a": {"$ref": reference}}}), "must be local");
    }
    refused(&json!({"$ref": "#/$defs/none"}), "leads nowhere");
    refused(&json!({"$ref": "#none"}), "leads nowhere");
    refused(&json!({"properties": {"a": {"$id": "http://x/y"}}}), "only at the root");
}

#[test]
fn a_reference_may_be_escaped_or_an_anchor() {
    bounds(&json!({"$ref": "#/$defs/a%20b~1c", "$defs": {"a b/c": {"type": "string"}}}));
    bounds(&json!({"$ref": "#here", "$defs": {"x": {"$anchor": "here"}}}));
    // A property may be called like a keyword.
    bounds(&json!({"properties": {"$id": {"type": "string"}, "$schema": {"type": "string"}}}));
}

#[test]
fn size_depth_and_number_are_bounded() {
    let mut deep = json!({});
    for _ in 0..40 {
        deep = json!({"items": deep});
    }
    bounds(&deep);
    for _ in 0..30 {
        deep = json!({"items": deep});
    }
    refused(&deep, "nested");
    let properties: Map<String, Value> = (0..5_001).map(|n| (format!("p{n}"), json!(true))).collect();
    refused(&json!({"properties": properties}), "sub-schemas");
    refused(&json!({"description": "x".repeat(300_000)}), "bytes");
    let patterns: Map<String, Value> = (0..101).map(|n| (format!("p{n}"), json!({"pattern": "a"}))).collect();
    refused(&json!({"properties": patterns}), "patterns");
    let mut chain: Map<String, Value> =
        (0..100).map(|n| (format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)}))).collect();
    chain.insert("d100".to_owned(), json!({}));
    refused(&json!({"$ref": "#/$defs/d0", "$defs": chain}), "in a row");
}
