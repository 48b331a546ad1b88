//! Versions as entity tags (RFC 9110), and the conditions that name them.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::problem::{Problem, ProblemId};

/// The tag of a version: `"v3"`.
pub(crate) fn tag(version: u32) -> HeaderValue {
    HeaderValue::from_str(&format!("\"v{version}\"")).expect("quotes, a letter and digits are a header value")
}

/// What `If-Match` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Whatever there is.
    Any,
    /// One of these versions. Tags that we never gave are left out: nothing matches them.
    OneOf(Vec<u32>),
}

impl Expected {
    /// The version to change when `latest` is the newest; one that is not the newest is for the store to refuse.
    ///
    /// # Errors
    /// `precondition_failed` when no version was named.
    pub(crate) fn version(&self, latest: u32) -> Result<u32, Problem> {
        match self {
            Self::Any => Ok(latest),
            Self::OneOf(versions) if versions.contains(&latest) => Ok(latest),
            Self::OneOf(versions) => {
                versions.first().copied().ok_or_else(|| ProblemId::PreconditionFailed.into())
            }
        }
    }
}

/// The condition of a change; `None` when it has none.
pub(crate) fn if_match(headers: &HeaderMap) -> Option<Expected> {
    let mut sent = headers.get_all(header::IF_MATCH).iter().peekable();
    sent.peek()?;
    let tags: Vec<&str> = sent.flat_map(|value| value.to_str().unwrap_or_default().split(',')).collect();
    if let [tag] = tags.as_slice()
        && tag.trim() == "*"
    {
        return Some(Expected::Any);
    }
    Some(Expected::OneOf(tags.into_iter().filter_map(|tag| version_of(tag.trim())).collect()))
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

    fn with(name: &header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_condition_names_versions_or_any() {
        let read = |values: &[&'static str]| if_match(&with(&header::IF_MATCH, values));
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["*"]), Some(Expected::Any));
        assert_eq!(read(&["\"v3\", \"x\"", "\"v4\""]), Some(Expected::OneOf(vec![3, 4])));
        for other in ["v3", "\"v+3\"", "W/\"v3\"", "", "*, *"] {
            assert_eq!(read(&[other]), Some(Expected::OneOf(Vec::new())), "{other}");
        }
        let one_of = |versions: &[u32]| Expected::OneOf(versions.to_vec()).version(4).ok();
        assert_eq!((one_of(&[3, 4]), one_of(&[3]), one_of(&[])), (Some(4), Some(3), None));
    }

    #[test]
    fn a_known_version_is_recognised_in_a_list() {
        let headers = with(&header::IF_NONE_MATCH, &["\"v1\", W/\"v2\"", "\"v4\""]);
        assert!(is_known(&headers, 2) && is_known(&headers, 4));
        assert!(!is_known(&headers, 3));
    }
}
