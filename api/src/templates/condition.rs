//! Versions as entity tags (RFC 9110), and the conditions that name them.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::problem::{Problem, ProblemId};

/// The tag of a version: `"v3"`.
pub(crate) fn tag(version: u32) -> HeaderValue {
    HeaderValue::from_str(&format!("\"v{version}\"")).expect("quotes, a letter and digits are a header value")
}

/// What `If-Match` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Whatever there is.
    Any,
    /// That version.
    Version(u32),
    /// Something we never gave as a tag, so nothing matches.
    Nothing,
}

/// The condition of a change; `None` when it has none.
///
/// # Errors
/// `bad_request` when there are several.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<Expected>, Problem> {
    let mut sent = headers.get_all(header::IF_MATCH).iter();
    let Some(value) = sent.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if sent.next().is_some() || text.contains(',') {
        return Err(Problem::new(ProblemId::BadRequest).detail("If-Match takes one tag here"));
    }
    Ok(Some(match text {
        "*" => Expected::Any,
        tag => version_of(tag).map_or(Expected::Nothing, Expected::Version),
    }))
}

/// Whether the caller has that version already.
pub(crate) fn is_known(headers: &HeaderMap, version: u32) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || version_of(tag) == Some(version))
}

fn version_of(tag: &str) -> Option<u32> {
    let digits = tag.strip_prefix("\"v")?.strip_suffix('"')?;
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_condition_names_one_version_or_any() {
        let read = |values: &[&'static str]| if_match(&with(header::IF_MATCH, values));
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["\"v3\""]).unwrap(), Some(Expected::Version(3)));
        assert_eq!(read(&["*"]).unwrap(), Some(Expected::Any));
        for other in ["v3", "\"v+3\"", "W/\"v3\"", ""] {
            assert_eq!(read(&[other]).unwrap(), Some(Expected::Nothing), "{other}");
        }
        assert!(read(&["\"v3\", \"v4\""]).is_err());
    }

    #[test]
    fn a_known_version_is_recognised_in_a_list() {
        let headers = with(header::IF_NONE_MATCH, &["\"v1\", W/\"v2\"", "\"v4\""]);
        assert!(is_known(&headers, 2) && is_known(&headers, 4));
        assert!(!is_known(&headers, 3));
    }
}
