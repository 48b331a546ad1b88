//! What must hold for any bytes at all, one function a target.
//!
//! A fuzzer (`fuzz/run`) looks for bytes that break a property; the ordinary tests replay `fuzz/corpus` through the same functions.
//! Beyond "nothing panics" each target states what its room promises: [`template`], [`schema`], [`reply`], [`rows`].

pub mod judged;
pub mod reply;
pub mod rows;
pub mod schema;
pub mod template;

use promptmill_prompt::Problem;

/// The line between the two halves of an input that has two, such as a schema and a reply.
const BETWEEN: &str = "\n---\n";

/// Checks what must hold for an input, and panics where it does not.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its folder in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("template", template::target),
    ("schema", schema::target),
    ("reply", reply::target),
    ("ndjson", rows::ndjson),
    ("csv", rows::csv),
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// The halves of an input; the second is empty where there is only one.
fn halves(text: &str) -> (&str, &str) {
    text.split_once(BETWEEN).unwrap_or((text, ""))
}

/// Problems are told so that a person finds them, and their words are bounded whatever the input is.
fn check_problems(problems: &[Problem]) {
    assert!(!problems.is_empty(), "refused without a reason");
    for Problem { pointer, message } in problems {
        assert!(pointer.is_empty() || pointer.starts_with('/'), "{pointer:?} is no JSON Pointer");
        assert!(!message.is_empty() && message.len() <= 8 << 10, "a message of {} bytes", message.len());
    }
}
