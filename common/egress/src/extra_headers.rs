//! Headers that a tenant may set in requests to its receivers: what identifies the sender to the receiver, and nothing that HTTP or the signature lives on.

use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// The most there may be, and the most bytes of a name and of a value.
const MOST: usize = 10;
const NAME_BYTES: usize = 64;
const VALUE_BYTES: usize = 1_024;

/// Why headers are not taken. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadersRefused {
    /// There are too many.
    #[error("at most {MOST} headers may be set")]
    TooMany,
    /// This one is none that may be set.
    #[error("{0:?} cannot be set; Authorization and names that begin with X- can")]
    Name(String),
    /// The value of this one is none.
    #[error("the value of {0} must be 1 to {VALUE_BYTES} visible ASCII characters and spaces")]
    Value(String),
}

/// The headers as they are sent.
///
/// # Errors
/// See [`HeadersRefused`].
pub fn extra_headers(headers: &BTreeMap<String, String>) -> Result<HeaderMap, HeadersRefused> {
    if headers.len() > MOST {
        return Err(HeadersRefused::TooMany);
    }
    let mut taken = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let shown = || name.chars().take(NAME_BYTES).collect::<String>();
        let lower = name.to_ascii_lowercase();
        let may = name.len() <= NAME_BYTES && (lower == "authorization" || lower.starts_with("x-"));
        let header = HeaderName::from_bytes(lower.as_bytes()).ok().filter(|_| may);
        let header = header.ok_or_else(|| HeadersRefused::Name(shown()))?;
        let is_plain = (1..=VALUE_BYTES).contains(&value.len())
            && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
            && value.trim() == value;
        let value = HeaderValue::from_str(value).ok().filter(|_| is_plain);
        let mut value = value.ok_or_else(|| HeadersRefused::Value(header.to_string()))?;
        value.set_sensitive(true);
        // Two spellings of one name.
        if taken.insert(header, value).is_some() {
            return Err(HeadersRefused::Name(shown()));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&str, &str)]) -> Result<HeaderMap, HeadersRefused> {
        extra_headers(
            &headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    #[test]
    fn what_identifies_the_sender_is_taken_and_what_http_lives_on_is_not() {
        let taken = of(&[("Authorization", "Bearer a.b-c=="), ("X-Tenant", "one two")]).unwrap();
        assert_eq!(
            (&taken["authorization"], &taken["x-tenant"]),
            (&"Bearer a.b-c==".parse().unwrap(), &"one two".parse().unwrap())
        );
        assert!(taken.values().all(HeaderValue::is_sensitive));
        let long = format!("x-{}", "a".repeat(NAME_BYTES));
        for name in [
            "Host",
            "Content-Length",
            "content-type",
            "webhook-id",
            "Webhook-Signature",
            "Connection",
            "Transfer-Encoding",
            "Cookie",
            "",
            "x-a b",
            "x-a\r\nhost",
            &long,
        ] {
            assert!(matches!(of(&[(name, "v")]), Err(HeadersRefused::Name(_))), "{name:?}");
        }
        assert!(matches!(of(&[("X-A", "1"), ("x-a", "2")]), Err(HeadersRefused::Name(_))));
    }

    #[test]
    fn a_value_is_one_line_of_visible_characters() {
        let long = "a".repeat(VALUE_BYTES + 1);
        for value in ["", " a", "a ", "a\r\nhost: b", "a\0", "é", &long] {
            assert_eq!(of(&[("x-a", value)]), Err(HeadersRefused::Value("x-a".to_owned())), "{value:?}");
        }
        let many: Vec<_> = (0..=MOST).map(|n| format!("x-{n}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "v")).collect();
        assert_eq!(of(&many), Err(HeadersRefused::TooMany));
        assert_eq!(of(&many[1..]).unwrap().len(), MOST);
    }
}
