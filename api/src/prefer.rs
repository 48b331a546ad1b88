//! `Prefer: wait=N` (RFC 7240, 4.3): how long a client wants to wait for what it began.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;

use crate::problem::Problem;

/// The header of the answer that says which preference was followed.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The longest wait, seconds.
const MAX_WAIT_S: u64 = 60;

/// A wait in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(u64);

impl Wait {
    /// What the client asks for, at most a minute; nothing where it says nothing of it. A preference that is none is passed over, as that
    /// specification asks.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let preferred = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
        let mut waits = preferred.flat_map(|value| value.split([',', ';'])).filter_map(|preference| {
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "wait" => value.parse::<u64>().ok(),
                "respond-async" => Some(0),
                _ => None,
            }
        });
        waits.next().map(|seconds| Self(seconds.min(MAX_WAIT_S)))
    }

    /// So many seconds.
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// As a duration.
    pub(crate) const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// Says in the answer that it was followed.
    pub(crate) fn applied(self, response: &mut Response) -> Result<(), Problem> {
        let applied = HeaderValue::try_from(format!("wait={}", self.0)).map_err(Problem::internal)?;
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_read_as_the_specification_says() {
        let with = |value| HeaderMap::from_iter([(PREFER, HeaderValue::from_static(value))]);
        assert_eq!(Wait::of(&HeaderMap::new()), None);
        for (value, seconds) in [
            ("wait=5", Some(5)),
            ("Wait = \"7\"", Some(7)),
            ("return=minimal, wait=0", Some(0)),
            ("wait=3600", Some(60)),
            ("respond-async", Some(0)),
            ("respond-async; wait=10", Some(0)),
            ("wait=soon", None),
            ("wait=-1", None),
            ("handling=lenient", None),
        ] {
            assert_eq!(Wait::of(&with(value)), seconds.map(Wait), "{value}");
        }
    }
}
