//! The cases of the corpus, as their files have them, and what becomes of one that ran.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Every kind of case: a file `corpus/KIND.jsonl` each.
pub(crate) const KINDS: [&str; 6] = ["templates", "schemas", "rows", "replies", "http", "urls"];

/// One case: what is sent is read by who sends it.
pub(crate) struct Case {
    pub(crate) name: String,
    value: Value,
}

impl Case {
    /// Every case of a kind.
    pub(crate) fn all(kind: &str) -> Vec<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(format!("{kind}.jsonl"));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let read = |(n, line): (usize, &str)| {
            let value: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{kind}.jsonl line {}: {error}", n + 1));
            let name =
                value["name"].as_str().unwrap_or_else(|| panic!("{kind}.jsonl line {}: no name", n + 1));
            Self { name: name.to_owned(), value }
        };
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(read).collect()
    }

    /// A member of the case.
    pub(crate) fn get(&self, member: &str) -> Option<&Value> {
        self.value.get(member)
    }

    /// A member that is a text.
    pub(crate) fn word(&self, member: &str) -> Option<&str> {
        self.get(member).and_then(Value::as_str)
    }

    /// What must come of it.
    pub(crate) fn expected(&self, member: &str) -> Option<&Value> {
        self.value["expect"].get(member)
    }

    /// The most milliseconds of processor time the server may spend on it.
    pub(crate) fn most_ms(&self) -> u64 {
        self.value["ms"].as_u64().unwrap_or_else(|| panic!("{}: no ms", self.name))
    }

    /// The most megabytes the server may grow by while it runs.
    pub(crate) fn most_mb(&self) -> u64 {
        self.value["mb"].as_u64().unwrap_or_else(|| panic!("{}: no mb", self.name))
    }

    /// Notes whether what came is what the case expects at `member`; a list of values means any of them.
    pub(crate) fn compare(&self, member: &str, got: &Value, failures: &mut Vec<String>) {
        let Some(expected) = self.expected(member) else { return };
        let fits = match expected {
            Value::Array(any) if !got.is_array() => any.contains(got),
            one => one == got,
        };
        if !fits {
            failures.push(format!("{member}: expected {expected}, got {got}"));
        }
    }

    /// Notes which of the words the case expects are not in the answer, and which are that must not be.
    pub(crate) fn compare_words(&self, answer: &str, failures: &mut Vec<String>) {
        let words = |member: &str| match self.expected(member) {
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(one)) => vec![one.as_str()],
            _ => Vec::new(),
        };
        failures.extend(
            words("says")
                .iter()
                .filter(|word| !answer.contains(**word))
                .map(|word| format!("does not say {word:?}")),
        );
        failures.extend(
            words("hides").iter().filter(|word| answer.contains(**word)).map(|word| format!("says {word:?}")),
        );
    }
}

#[test]
fn the_corpus_is_large_and_every_case_is_complete_and_named_once() {
    let mut names = BTreeSet::new();
    let mut total = 0;
    for kind in KINDS {
        let cases = Case::all(kind);
        println!("{kind}: {} cases", cases.len());
        for case in &cases {
            assert!(names.insert((kind, case.name.clone())), "{kind}: {} stands twice", case.name);
            assert!(
                case.get("expect").is_some_and(Value::is_object),
                "{kind}: {} expects nothing",
                case.name
            );
            assert!(
                case.most_ms() <= 10_000 && case.most_mb() <= 256,
                "{kind}: {} is not bounded",
                case.name
            );
        }
        total += cases.len();
    }
    println!("{total} cases");
    assert!(total >= 250, "{total} cases");
}

#[test]
fn what_is_not_as_a_case_expects_is_noted() {
    let value = serde_json::json!({"name": "x", "ms": 1, "mb": 1,
        "expect": {"status": [200, 422], "code": "invalid", "says": "here", "hides": ["root:"]}});
    let case = Case { name: "x".to_owned(), value };
    let noted = |status: u64, code: &str, answer: &str| {
        let mut failures = Vec::new();
        case.compare("status", &status.into(), &mut failures);
        case.compare("code", &code.into(), &mut failures);
        case.compare_words(answer, &mut failures);
        failures.len()
    };
    assert_eq!(noted(422, "invalid", "it is here"), 0);
    assert_eq!(noted(500, "invalid", "it is here"), 1);
    assert_eq!(noted(200, "internal", "it is here"), 1);
    assert_eq!(noted(200, "invalid", "it is not"), 1);
    assert_eq!(noted(0, "", "root:x:0"), 4);
}
