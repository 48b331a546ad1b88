//! The example templates and the schema editors use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use promptmill_prompt::Template;
use serde_json::{Value, json};

use crate::support::{lines, problems_of};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates")
}

fn format_schema() -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join("template.schema.json")).unwrap()).unwrap()
}

fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> = entries.filter(|path| path.join("template.json").is_file()).collect();
    assert!(folders.len() >= 3, "{folders:?}");
    folders
}

#[track_caller]
fn checked_rows(folder: &Path, template: &Template) -> Vec<promptmill_prompt::Variables> {
    if let Ok(text) = fs::read_to_string(folder.join("rows.jsonl")) {
        return text
            .lines()
            .map(|line| {
                template.check(line).unwrap_or_else(|problems| panic!("{line}: {}", lines(&problems)))
            })
            .collect();
    }
    let text = fs::read_to_string(folder.join("rows.csv")).unwrap();
    let mut records = text.lines().map(cells);
    let header = records.next().unwrap();
    records
        .map(|record| {
            assert_eq!(record.len(), header.len(), "{record:?}");
            let fields: Vec<(&str, &str)> =
                header.iter().map(String::as_str).zip(record.iter().map(String::as_str)).collect();
            template
                .check_texts(&fields)
                .unwrap_or_else(|problems| panic!("{record:?}: {}", lines(&problems)))
        })
        .collect()
}

/// The cells of a CSV line without line breaks in cells, which is all the examples use.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().unwrap().push(c),
        }
    }
    cells
}

#[test]
fn every_example_parses_and_its_rows_check_and_render() {
    for folder in examples() {
        let source = fs::read_to_string(folder.join("template.json")).unwrap();
        let template =
            Template::parse(&source).unwrap_or_else(|problems| panic!("{folder:?}: {}", lines(&problems)));
        assert_eq!(Some(template.name()), folder.file_name().and_then(|name| name.to_str()));
        let rows = checked_rows(&folder, &template);
        assert!(rows.len() >= 15, "{folder:?}");
        for row in &rows {
            template.render(row).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        }
    }
}

#[test]
fn the_editors_schema_accepts_every_example() {
    let validator = jsonschema::validator_for(&format_schema()).unwrap();
    for folder in examples() {
        let value: Value =
            serde_json::from_str(&fs::read_to_string(folder.join("template.json")).unwrap()).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{folder:?}: {errors:?}");
    }
}

/// The keys the parser names as allowed when it meets an unknown one at `pointer`.
fn allowed_at(template: &Value, pointer: &str) -> BTreeSet<String> {
    let mut broken = template.clone();
    broken.pointer_mut(pointer).unwrap()["unknown_key_of_a_test"] = json!(1);
    let found = problems_of(&broken);
    let start = format!("{pointer}/unknown_key_of_a_test: unknown key (allowed: ");
    let line = found.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{found}"));
    line.trim_end_matches(')').split(", ").map(str::to_owned).collect()
}

#[test]
fn the_editors_schema_has_the_keys_of_the_parser() {
    let template = json!({
        "name": "a", "messages": [{"role": "user", "content": "x"}], "variables": {"v": {"required": false}}, "model": {},
        "output": {"format": "json"}, "rules": [{"expression": "true", "message": "m"}],
    });
    let schema = format_schema();
    for (pointer, definition) in [
        ("", ""),
        ("/messages/0", "/$defs/message"),
        ("/variables/v", "/$defs/variable"),
        ("/model", "/$defs/model"),
        ("/output", "/$defs/output"),
        ("/rules/0", "/$defs/rule"),
    ] {
        let properties = schema.pointer(definition).unwrap()["properties"].as_object().unwrap();
        let known: BTreeSet<String> = properties.keys().cloned().collect();
        assert_eq!(allowed_at(&template, pointer), known, "{definition}");
    }
}

#[test]
fn replies_as_a_model_would_write_them_pass_the_examples() {
    let replies = [
        (
            "product-descriptions",
            r#"{"name": "Silla Marea", "category": "Furniture", "features": "madera de haya"}"#,
            json!({
                "title": "Silla Marea de haya", "short_description": "Una silla ligera y apilable.",
                "long_description": "Silla de madera de haya con asiento de fibra natural. Se apila sin esfuerzo y pesa poco.",
                "bullet_points": ["Madera de haya", "Apilable", "Ligera"], "keywords": ["silla", "haya", "apilable"],
                "meta_description": "Silla de madera de haya, ligera y apilable, para interiores claros.",
            }),
        ),
        (
            "ticket-classification",
            r#"{"subject": "Invoice", "body": "Charged twice"}"#,
            json!({
                "category": "billing", "urgency": "normal", "sentiment": "neutral", "language": "en",
                "summary": "The customer was charged twice.", "requested_action": null, "needs_human": false, "confidence": 0.9,
            }),
        ),
        (
            "translate-russian",
            r#"{"text": "Привет, {name}!"}"#,
            json!({"translation": "Hello, {name}!", "detected_language": "ru"}),
        ),
    ];
    for (name, row, reply) in replies {
        let source = fs::read_to_string(folder().join(name).join("template.json")).unwrap();
        let template = Template::parse(&source).unwrap();
        let row = template.check(row).unwrap();
        let judgement = template.judge(&reply.to_string(), &row);
        assert_eq!(judgement.verdict, promptmill_domain::Verdict::Accept, "{name}");
    }
}
