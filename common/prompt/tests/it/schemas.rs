//! Output schemas that would fetch, hang or blow up.

use std::fmt::Write as _;

use promptmill_domain::Verdict;
use serde_json::{Value, json};

use crate::support::{problems_of, template};

#[track_caller]
fn refused(schema: &Value, words: &str) {
    let found = problems_of(&json!({
        "name": "a", "messages": [{"role": "user", "content": "x"}], "output": {"format": "json", "schema": schema},
    }));
    assert!(found.starts_with("/output/schema") && found.contains(words), "{found}");
    assert!(found.len() < 2_000, "{}", found.len());
}

fn judged(schema: &Value, reply: &str) -> Verdict {
    let template = template("x", json!({"output": {"format": "json", "schema": schema}}));
    template.judge(reply, &template.check("{}").unwrap()).verdict
}

#[test]
fn schemas_that_would_fetch_are_refused() {
    for uri in ["http://127.0.0.1:9/x.json", "file:///etc/passwd", "gopher://x/", "other.json"] {
        refused(&json!({"$ref": uri}), "must be local");
        refused(&json!({"$schema": uri}), "must name JSON Schema draft");
    }
    refused(&json!({"$schema": "http://json-schema.org/draft-04/schema#"}), "draft 2020-12 or draft-07");
    refused(&json!({"$schema": 5}), "draft 2020-12 or draft-07");
}

#[test]
fn twenty_five_levels_that_double_are_refused() {
    let mut defs = serde_json::Map::new();
    for n in 0..25 {
        let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
        defs.insert(format!("d{n}"), json!({"allOf": [next.clone(), next]}));
    }
    defs.insert("d25".to_owned(), json!({}));
    refused(&json!({"$ref": "#/$defs/d0", "$defs": defs}), "/output/schema/$defs/");
}

#[test]
fn patterns_are_of_the_linear_kind_and_small() {
    refused(&json!({"pattern": r"^(a|a)*\1$"}), "linear-time");
    refused(&json!({"pattern": "(?=a)b"}), "linear-time");
    refused(&json!({"pattern": "(((a{1000}){1000}){1000})"}), "linear-time");
    refused(&json!({"patternProperties": {"(?<!a)b": true}}), "linear-time");
    let verdict = judged(&json!({"pattern": "^(a+)+$"}), &json!("a".repeat(50_000) + "!").to_string());
    assert!(matches!(verdict, Verdict::Repair(_)));
}

#[test]
fn what_the_meta_schema_refuses_is_refused() {
    refused(&json!({"multipleOf": 0}), "not a valid schema");
    refused(&json!({"type": "nope"}), "not a valid schema");
    refused(&json!({"properties": []}), "not a valid schema");
    refused(&json!("string"), "/output/schema");
}

#[test]
fn both_drafts_are_understood() {
    let tuple = json!({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}], "additionalItems": false});
    assert_eq!(judged(&tuple, r#"["a"]"#), Verdict::Accept);
    assert!(matches!(judged(&tuple, r#"["a", 1]"#), Verdict::Repair(_)));
    let tuple = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "prefixItems": [{"type": "string"}], "items": false});
    assert_eq!(judged(&tuple, r#"["a"]"#), Verdict::Accept);
    assert!(matches!(judged(&tuple, r#"["a", 1]"#), Verdict::Repair(_)));
}

#[test]
fn recursion_at_the_greatest_depth_fits_a_small_stack() {
    // The longest chain that is allowed at every level, as deep as a reply may be, on the smallest usual stack.
    let links = 28;
    let mut defs = serde_json::Map::new();
    for n in 0..links {
        defs.insert(format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)}));
    }
    defs.insert(
        format!("d{links}"),
        json!({"anyOf": [{"type": "integer"}, {"items": {"$ref": "#/$defs/d0"}, "type": "array"}]}),
    );
    let chain: Value = json!({"$ref": "#/$defs/d2", "$defs": defs});
    let run = move || {
        let good = "[".repeat(127) + &"]".repeat(127);
        assert_eq!(judged(&chain, &good), Verdict::Accept);
        let bad = "[".repeat(126) + "null" + &"]".repeat(126);
        assert!(matches!(judged(&chain, &bad), Verdict::Repair(_)));
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn long_ways_through_definitions_fit_a_small_stack() {
    let mut defs = serde_json::Map::new();
    for n in 0..2_000 {
        defs.insert(format!("d{n}"), json!({"properties": {"x": {"$ref": format!("#/$defs/d{}", n + 1)}}}));
    }
    defs.insert("d2000".to_owned(), json!({"type": "integer"}));
    let schema = json!({"$ref": "#/$defs/d0", "$defs": defs});
    let run = move || assert_eq!(judged(&schema, "{}"), Verdict::Accept);
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn work_that_only_a_hostile_reply_causes_is_bounded() {
    let mut objects = String::from("[");
    for n in 0..5_000 {
        let _ = write!(objects, "{}{{\"n\":{n}}}", if n == 0 { "" } else { "," });
    }
    objects.push(']');
    let Verdict::Repair(reasons) = judged(&json!({"uniqueItems": true}), &objects) else {
        panic!("accepted")
    };
    assert!(reasons[0].message.contains("more than 4000 elements"));
    let child = json!({"properties": {"c": {"$ref": "#/$defs/n"}}});
    let doubling = json!({"$ref": "#/$defs/n", "$defs": {"n": {"allOf": [child.clone(), child]}}});
    let deep = "{\"c\":".repeat(60) + "{}" + &"}".repeat(60);
    let Verdict::Repair(reasons) = judged(&doubling, &deep) else { panic!("accepted") };
    assert!(reasons[0].message.contains("must not be nested deeper than"), "{reasons:?}");
}

#[test]
fn e_mail_addresses_are_told_from_other_texts() {
    let schema = json!({"type": "string", "format": "email"});
    for good in ["a@b.de", "first.last+tag@sub.example.com", "a@localhost", "ü@exämple.de", "a@[127.0.0.1]"]
    {
        assert_eq!(judged(&schema, &json!(good).to_string()), Verdict::Accept, "{good}");
    }
    for bad in
        ["", "a", "@b", "a@", "a b@c.de", "a@b..de", ".a@b.de", "a@-b.de", "a@b@c.de", "a@b.de ", "<a@b.de>"]
    {
        assert!(matches!(judged(&schema, &json!(bad).to_string()), Verdict::Repair(_)), "{bad}");
    }
}
