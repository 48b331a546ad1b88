//! Makes a provider's own words safe to keep: one line, bounded, without anything that looks like a key.
//!
//! Providers echo keys in their error texts (`Incorrect API key provided: sk-...`), whole or masked.

const MAX_CHARS: usize = 500;
/// More than is kept is looked at, so that a key across the cut is still seen as one.
const MAX_SCANNED_CHARS: usize = 8 * 1024;
const REPLACEMENT: &str = "[key]";
const KEY_PREFIXES: [&str; 14] =
    ["sk-", "sk_", "pk-", "rk-", "gsk_", "xai-", "hf_", "r8_", "ghp_", "AIza", "AKIA", "eyJ", "key-", "pm_"];

/// One line of at most 500 characters: control and direction characters become spaces, key-like words `[key]`.
pub(crate) fn clean(text: &str) -> String {
    let mut line = String::new();
    let visible = text.chars().take(MAX_SCANNED_CHARS).map(|c| if is_hidden(c) { ' ' } else { c });
    for c in visible {
        if c.is_whitespace() {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
        } else {
            line.push(c);
        }
    }
    let scrubbed = without_keys(line.trim_end());
    if scrubbed.chars().nth(MAX_CHARS).is_none() {
        return scrubbed;
    }
    let mut cut: String = scrubbed.chars().take(MAX_CHARS - 1).collect();
    cut.push('…');
    cut
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn without_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut after_bearer = false;
    while let Some(first) = rest.chars().next() {
        let word_len = rest.find(|c: char| !is_key_char(c)).unwrap_or(rest.len());
        if word_len == 0 {
            after_bearer &= first == ' ' || first == ':';
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, tail) = rest.split_at(word_len);
        out.push_str(if is_key_like(word, after_bearer) { REPLACEMENT } else { word });
        after_bearer = word.eq_ignore_ascii_case("bearer");
        rest = tail;
    }
    out
}

fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*')
}

/// Model names are words of letters, digits and hyphens too, so length alone says nothing while there are hyphens.
fn is_key_like(word: &str, after_bearer: bool) -> bool {
    let prefixed = word.len() >= 8 && KEY_PREFIXES.iter().any(|prefix| word.starts_with(prefix));
    let masked = word.len() >= 8 && word.contains("***");
    let mixed = word.bytes().any(|b| b.is_ascii_digit()) && word.bytes().any(|b| b.is_ascii_alphabetic());
    let dense = word.len() >= 32 && mixed && !word.contains('-');
    prefixed || masked || dense || (after_bearer && word.len() >= 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_scrubbed_and_model_names_are_not() {
        let cases = [
            ("Incorrect API key provided: sk-proj-AbCd1234.", "Incorrect API key provided: [key]."),
            ("key sk-or-v1-0123456789abcdef is disabled", "key [key] is disabled"),
            ("masked abcd********wxyz", "masked [key]"),
            ("Authorization: Bearer abcdefgh1", "Authorization: Bearer [key]"),
            ("token 0123456789abcdef0123456789abcdef!", "token [key]!"),
            ("jwt eyJhbGciOi.eyJzdWIiOi.x", "jwt [key].[key].x"),
            (
                "model claude-3-5-sonnet-20241022-preview-edition is gone",
                "model claude-3-5-sonnet-20241022-preview-edition is gone",
            ),
            ("the bearer of bad news", "the bearer of bad news"),
        ];
        for (text, expected) in cases {
            assert_eq!(clean(text), expected);
        }
    }

    #[test]
    fn the_text_becomes_one_bounded_line() {
        assert_eq!(clean("  a\r\n\u{1b}[31mb\u{202e}c\t "), "a [31mb c");
        let long = clean(&"é".repeat(2000));
        assert_eq!(long.chars().count(), 500);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn a_key_across_the_cut_is_seen() {
        let text = format!("{} sk-{}", "x".repeat(480), "a1".repeat(40));
        assert!(!clean(&text).contains("a1a1"));
    }
}
