//! Where in a reply the JSON may stand: the whole of it, a fenced block, or a bracketed part of prose.
//!
//! Only finds places, in one pass over the text each; whether a place holds JSON is for the judge to try.

/// The most places tried in one reply.
const PLACES: usize = 16;

/// The insides of fenced code blocks, in order. A fence opens and closes at the beginning of a line, so backticks
/// inside a JSON string never end one.
pub(crate) fn fenced(reply: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut open: Option<usize> = None;
    let mut at = 0;
    for line in reply.split_inclusive('\n') {
        let end = at + line.len();
        if line.trim_start().starts_with("```") {
            match open {
                None => open = Some(end),
                Some(start) => {
                    blocks.push(reply[start..at].trim());
                    open = None;
                    if blocks.len() == PLACES {
                        break;
                    }
                }
            }
        }
        at = end;
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// The outermost bracketed parts, in order; the longest ones when there are many.
///
/// A bracket that is never closed ends the search: what stands inside it is a piece of something cut off, and a piece
/// must not pass for the whole.
pub(crate) fn bracketed(reply: &str) -> Vec<&str> {
    let bytes = reply.as_bytes();
    let mut parts: Vec<&str> = Vec::new();
    let (mut at, mut depth, mut start) = (0, 0_usize, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => {
                if depth == 0 {
                    start = at;
                }
                depth += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    parts.push(&reply[start..=at]);
                }
            }
            // Quotes mean strings only inside brackets; prose has inches and apostrophes.
            b'"' if depth > 0 => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            _ => {}
        }
        at += 1;
    }
    if parts.len() > PLACES {
        let mut lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let least = lengths[PLACES - 1];
        parts.retain(|part| part.len() >= least);
        parts.truncate(PLACES);
    }
    parts
}
