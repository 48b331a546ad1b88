//! Words about what could not be read, without the content that could not be read.

use serde_path_to_error::{Path, Segment};

/// A JSON Pointer (RFC 6901) of these segments.
pub(crate) fn join(segments: &[String]) -> String {
    let mut pointer = String::new();
    for segment in segments {
        push(&mut pointer, segment);
    }
    pointer
}

/// `pointer` extended by one segment.
pub(crate) fn push(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for c in segment.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}

/// The path as a JSON Pointer.
pub(crate) fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push(&mut pointer, &index.to_string()),
            Segment::Map { key } => push(&mut pointer, key),
            // A variant is named by a member's value or key; the place is the member.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// What the grammar complains about; `serde_json` has fixed words for that, with the place behind them.
pub(crate) fn of_syntax(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or("not JSON").to_owned()
}

/// What a type complains about. The value that was found may stand in the message; it is left out, the name of an unknown member stays
/// when it is a plain one.
pub(crate) fn without_content(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(words, _)| words);
    for found in ["invalid type: ", "invalid value: "] {
        if let Some(rest) = text.strip_prefix(found)
            && let Some((what, expected)) = rest.rsplit_once(", expected ")
        {
            let kind: String = what.chars().take_while(|c| c.is_ascii_lowercase() || *c == ' ').collect();
            return match kind.trim() {
                "" => format!("expected {expected}"),
                kind => format!("{found}{kind}, expected {expected}"),
            };
        }
    }
    if let Some(rest) = text.strip_prefix("unknown variant `")
        && let Some((_, expected)) =
            rest.rsplit_once("`, expected ").or_else(|| rest.rsplit_once("`, there "))
    {
        return format!("not one of those allowed, expected {}", closed_list(expected));
    }
    if let Some(rest) = text.strip_prefix("unknown field `")
        && let Some((name, _)) = rest.split_once('`')
        && !plain(name)
    {
        return "unknown member".to_owned();
    }
    text.replace("unknown field", "unknown member").replace("missing field", "missing member")
}

/// Whether a name is short and harmless enough to be repeated.
fn plain(name: &str) -> bool {
    name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.$".contains(&byte))
}

/// serde's list of variants; the last ", expected " may stand inside of what was found, so only a list of plain names is repeated.
fn closed_list(expected: &str) -> &str {
    let harmless = |c: char| c.is_ascii_alphanumeric() || " `,_-".contains(c);
    if expected.chars().all(harmless) { expected } else { "another value" }
}
