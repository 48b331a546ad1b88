//! Mends JSON with half surrogate escapes (`\ud83d` alone), which models write when cut inside an emoji.
//!
//! The parser refuses such a text as a whole, and one broken character must not cost a whole reply.

const REPLACEMENT: &[u8; 6] = b"\\ufffd";

/// The text with each half surrogate replaced by U+FFFD; `None` when there is none, so parsing again would not help.
pub(crate) fn replace_lone(json: &[u8]) -> Option<Vec<u8>> {
    let mut mended: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(offset) = json.get(at..).and_then(|rest| rest.iter().position(|b| *b == b'\\')) {
        at += offset;
        match escape_unit(json, at) {
            Some(0xd800..=0xdbff) if matches!(escape_unit(json, at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => {
                // Same length, so every later index stays true.
                mended.get_or_insert_with(|| json.to_vec())[at..at + 6].copy_from_slice(REPLACEMENT);
                at += 6;
            }
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    mended
}

/// The UTF-16 unit of a `\uXXXX` escape that begins at `at`.
fn escape_unit(json: &[u8], at: usize) -> Option<u16> {
    let escape = json.get(at..at.checked_add(6)?)?;
    let hex = escape.strip_prefix(b"\\u")?;
    if !hex.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_half_surrogates_are_replaced() {
        let cases = [
            (r#""a\ud800b""#, Some(r#""a\ufffdb""#)),
            (r#""\udc00""#, Some(r#""\ufffd""#)),
            (r#""\ud83d\ud83d\ude00""#, Some(r#""\ufffd\ud83d\ude00""#)),
            (r#""\uD83D""#, Some(r#""\ufffd""#)),
            (r#""\ud83d\ude00""#, None),
            (r#""\\ud800""#, None),
            (r#""\u00e9 \n\" \ud8""#, None),
            (r#""\"#, None),
        ];
        for (json, expected) in cases {
            assert_eq!(replace_lone(json.as_bytes()).as_deref(), expected.map(str::as_bytes), "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_string_of_escapes_parses_once_mended(units in proptest::collection::vec(any::<u16>(), 0..40)) {
            let body: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let json = format!("\"{body}\"").into_bytes();
            let mended = replace_lone(&json).unwrap_or(json);
            prop_assert!(serde_json::from_slice::<String>(&mended).is_ok());
        }
    }
}
