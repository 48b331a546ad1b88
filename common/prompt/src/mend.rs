//! Slips of JSON syntax that have one possible meaning, put right without asking the model again.
//!
//! Mended are: a byte order mark, commas before a closing bracket, raw control characters inside strings, and halves
//! of surrogate pairs. Nothing is ever closed, quoted or completed: a cut reply stays invalid.

/// A text after mending.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mended {
    pub(crate) text: String,
    /// Something other than a surrogate was changed.
    pub(crate) slips: bool,
    /// Half a surrogate pair was replaced by U+FFFD.
    pub(crate) surrogates: bool,
}

/// Mends `text` in one pass; `None` when there is nothing to mend.
pub(crate) fn mend(text: &str) -> Option<Mended> {
    let bytes = text.as_bytes();
    let mut mended = Mended { text: String::with_capacity(text.len() + 16), slips: false, surrogates: false };
    let (mut at, mut copied, mut in_string, mut before) = (0, 0, false, b'[');
    while at < bytes.len() {
        let (len, replacement) = if in_string { in_text(bytes, at) } else { in_structure(bytes, at, before) };
        if !in_string && !bytes[at].is_ascii_whitespace() {
            before = bytes[at];
        }
        match bytes[at] {
            b'"' => in_string = !in_string,
            _ => {
                if let Some(replacement) = replacement {
                    mended.text.push_str(&text[copied..at]);
                    mended.text.push_str(&replacement);
                    copied = at + len;
                    if replacement == "\\ufffd" {
                        mended.surrogates = true;
                    } else {
                        mended.slips = true;
                    }
                }
            }
        }
        at += len;
    }
    if !mended.slips && !mended.surrogates {
        return None;
    }
    mended.text.push_str(&text[copied..]);
    Some(mended)
}

/// Outside strings: the length of what stands at `at`, and what to put in its place. A comma is only superfluous after
/// a value; where none stands `before` it, something is missing.
fn in_structure(bytes: &[u8], at: usize, before: u8) -> (usize, Option<String>) {
    if bytes[at] != b',' || matches!(before, b'[' | b'{' | b',' | b':') {
        return (1, None);
    }
    let next = bytes[at + 1..].iter().find(|byte| !byte.is_ascii_whitespace());
    (1, matches!(next, Some(b']' | b'}')).then(String::new))
}

/// Inside a string.
fn in_text(bytes: &[u8], at: usize) -> (usize, Option<String>) {
    match bytes[at] {
        b'\n' => (1, Some("\\n".to_owned())),
        b'\r' => (1, Some("\\r".to_owned())),
        b'\t' => (1, Some("\\t".to_owned())),
        control @ 0..=0x1f => (1, Some(format!("\\u{control:04x}"))),
        b'\\' => match unit(bytes, at) {
            None => (2.min(bytes.len() - at), None),
            Some(0xd800..=0xdbff) => match unit(bytes, at + 6) {
                Some(0xdc00..=0xdfff) => (12, None),
                _ => (6, Some("\\ufffd".to_owned())),
            },
            Some(0xdc00..=0xdfff) => (6, Some("\\ufffd".to_owned())),
            Some(_) => (6, None),
        },
        _ => (1, None),
    }
}

/// The UTF-16 unit of a `\uXXXX` at `at`.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let text = std::str::from_utf8(digits).ok()?;
    if text.bytes().all(|byte| byte.is_ascii_hexdigit()) { u16::from_str_radix(text, 16).ok() } else { None }
}

/// `json` on one line: line breaks can only be white space between tokens, and lines are how outcomes are stored.
pub(crate) fn on_one_line(json: &str) -> std::borrow::Cow<'_, str> {
    if !json.contains(['\n', '\r']) {
        return std::borrow::Cow::Borrowed(json);
    }
    let bytes = json.as_bytes();
    let mut line = String::with_capacity(json.len());
    let (mut at, mut copied, mut in_string) = (0, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            byte if !in_string && byte.is_ascii_whitespace() => {
                line.push_str(&json[copied..at]);
                copied = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    line.push_str(&json[copied..]);
    std::borrow::Cow::Owned(line)
}
