//! The corpora of the fuzz targets, through the functions the fuzzer calls.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may fail a test like the tests themselves"
)]

use std::fs;
use std::path::{Path, PathBuf};

use promptmill_fuzz::{TARGETS, target};

/// Committed inputs are small: a large one belongs into `corpus/`, made by an expression.
const MOST_BYTES: u64 = 16 << 10;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = corpus().join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Names the input that breaks a property; the test fails with the property's own words above it.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}

#[track_caller]
fn replay(name: &str) {
    let target = target(name).unwrap();
    let inputs = inputs(name);
    assert!(inputs.len() >= 10, "{} inputs of {name}", inputs.len());
    for path in inputs {
        let _named = Named(&path);
        assert!(fs::metadata(&path).unwrap().len() <= MOST_BYTES, "too large to be committed");
        target(&fs::read(&path).unwrap());
    }
}

#[test]
fn templates_of_the_corpus_keep_their_promises() {
    replay("template");
}

#[test]
fn schemas_of_the_corpus_keep_their_promises() {
    replay("schema");
}

#[test]
fn replies_of_the_corpus_keep_their_promises() {
    replay("reply");
}

#[test]
fn rows_of_the_corpus_keep_their_promises() {
    replay("ndjson");
    replay("csv");
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let mut folders: Vec<String> = fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let mut names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(folders, names);
}

#[test]
fn nothing_and_anything_are_inputs() {
    for (_, target) in TARGETS {
        target(b"");
        target(b"\n---\n");
        target(&[0xff; 700]);
        target(&[b'['; 700]);
    }
}
