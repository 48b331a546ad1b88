//! What is wrong with a template or a row, said so that its author finds the place.
//!
//! Messages name keys, types and limits; they never repeat the content of a row.

use std::fmt;

/// One thing that is wrong with a template or a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// JSON Pointer (RFC 6901) to the place; empty for the whole.
    pub pointer: String,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
}

impl Problem {
    /// A problem at the place `pointer`.
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }

    /// A problem of the whole.
    pub fn whole(message: impl Into<String>) -> Self {
        Self::at("", message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.pointer, self.message)
        }
    }
}

impl std::error::Error for Problem {}

/// Why a template could not be rendered with a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {message}")]
pub struct RenderError {
    /// JSON Pointer to the message in the template.
    pub pointer: String,
    /// What went wrong, with the line inside the message where it is known; never text of the row.
    pub message: String,
}

/// `pointer` extended by one member name or index, escaped as RFC 6901 asks.
pub(crate) fn join(pointer: &str, segment: &str) -> String {
    let mut joined = String::with_capacity(pointer.len() + segment.len() + 1);
    joined.push_str(pointer);
    push_segment(&mut joined, segment);
    joined
}

pub(crate) fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for c in segment.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}

/// `text` cut to `max` characters, with an ellipsis where something was cut.
pub(crate) fn shorten(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// `names` as a readable list, at most `max` of them, each cut.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>, max: usize) -> String {
    let mut listed = String::new();
    for (n, name) in names.into_iter().enumerate() {
        if n == max {
            listed.push_str(", …");
            break;
        }
        if n > 0 {
            listed.push_str(", ");
        }
        listed.push_str(&shorten(name, 60));
    }
    listed
}

/// The one of `candidates` that `name` was probably meant to be, when one is close.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let allowed = 1 + name.len() / 4;
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= 128)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance over lower-cased characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_escape_what_rfc_6901_escapes() {
        assert_eq!(join("/a", "b/c~d"), "/a/b~1c~0d");
    }

    #[test]
    fn the_nearest_name_is_hinted_only_when_it_is_near() {
        assert_eq!(nearest("prodcut", ["price", "product"]), Some("product"));
        assert_eq!(nearest("Product", ["price", "product"]), Some("product"));
        assert_eq!(nearest("colour", ["price", "product"]), None);
    }

    #[test]
    fn cutting_respects_characters() {
        assert_eq!(shorten("привет", 3), "при…");
        assert_eq!(shorten("при", 3), "при");
    }
}
