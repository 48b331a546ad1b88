//! What the client did: every attempt to submit, synced to the disk before it is sent, and what was answered.
//!
//! The file is all the checker reads, so that nothing depends on the memory of a client that died.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// How an attempt ended for the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// A 2xx.
    Acked,
    /// A status that says no.
    Refused(u16),
    /// No answer, or none yet: it may have happened or not.
    Unknown,
}

/// One attempt to submit a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The Idempotency-Key; attempts with the same one are about the same batch.
    pub(crate) key: String,
    /// The marker of every row.
    pub(crate) markers: Vec<String>,
    pub(crate) answer: Answer,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Sends { n: usize, key: String, markers: Vec<String> },
    Answered { n: usize, answer: Answer },
}

/// A journal being written.
pub(crate) struct Journal {
    path: PathBuf,
    open: Mutex<(File, usize)>,
}

impl Journal {
    /// A new one.
    pub(crate) fn create(path: PathBuf) -> Self {
        let file = File::create(&path).unwrap();
        Self { path, open: Mutex::new((file, 0)) }
    }

    /// Writes down that a batch of these rows is about to be sent, and answers the attempt's number once that is durable.
    pub(crate) fn sends(&self, key: &str, markers: &[String]) -> usize {
        let mut open = self.open.lock().unwrap();
        let n = open.1;
        open.1 += 1;
        write(&mut open.0, &Line::Sends { n, key: key.to_owned(), markers: markers.to_vec() });
        n
    }

    /// Writes down what the attempt was answered.
    pub(crate) fn answered(&self, n: usize, answer: Answer) {
        write(&mut self.open.lock().unwrap().0, &Line::Answered { n, answer });
    }

    /// Everything written so far.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        read(&self.path)
    }
}

fn write(file: &mut File, line: &Line) {
    let mut text = serde_json::to_vec(line).unwrap();
    text.push(b'\n');
    file.write_all(&text).unwrap();
    file.sync_data().unwrap();
}

/// Reads a journal; an attempt without an answer is one of unknown outcome.
fn read(path: &Path) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut places = HashMap::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        match serde_json::from_str(line).unwrap() {
            Line::Sends { n, key, markers } => {
                places.insert(n, attempts.len());
                attempts.push(Attempt { key, markers, answer: Answer::Unknown });
            }
            Line::Answered { n, answer } => attempts[places[&n]].answer = answer,
        }
    }
    attempts
}

#[test]
fn an_attempt_without_an_answer_reads_as_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::create(folder.path().join("journal.jsonl"));
    let rows = vec!["a".to_owned(), "b".to_owned()];
    let first = journal.sends("one", &rows);
    let second = journal.sends("two", &rows[..1]);
    journal.answered(second, Answer::Refused(507));
    assert_eq!(
        journal.attempts()[first],
        Attempt { key: "one".into(), markers: rows, answer: Answer::Unknown }
    );
    assert_eq!(journal.attempts()[second].answer, Answer::Refused(507));
}
