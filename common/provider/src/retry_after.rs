//! How long a provider asks to wait: `Retry-After` in both of its forms (RFC 9110, 10.2.3) and OpenRouter's reset time.
//!
//! Every answer is bounded to an hour: a garbled or hostile header must not stop a lane for a day.

use std::time::{Duration, SystemTime};

use hyper::header::{HeaderMap, RETRY_AFTER};

/// The longest wait that is believed.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(3600);

/// The wait a response's headers ask for, at `now`; `None` when they ask for none in a form we read.
pub(crate) fn from_headers(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    text(RETRY_AFTER.as_str())
        .and_then(|value| parse(value, now))
        .or_else(|| text("x-ratelimit-reset").and_then(|value| parse_reset(value, now)))
}

/// Reads `Retry-After`: whole or decimal seconds, or an HTTP date. A past date and a negative number mean "now".
pub(crate) fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if value.is_empty() || value.len() > 64 {
        return None;
    }
    if value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 holds still mean "very long".
        return Some(value.parse().map_or(MAX_WAIT, Duration::from_secs).min(MAX_WAIT));
    }
    if let Ok(seconds) = value.parse::<f64>() {
        return from_seconds(seconds);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(MAX_WAIT))
}

/// Seconds as a number of a JSON body.
pub(crate) fn from_seconds(seconds: f64) -> Option<Duration> {
    if seconds.is_nan() {
        return None;
    }
    Some(Duration::from_secs_f64(seconds.clamp(0.0, MAX_WAIT.as_secs_f64())))
}

/// Reads `X-RateLimit-Reset`, whose unit is not documented: 13 digits can only be epoch milliseconds and 10 only epoch
/// seconds, anything else is not believed.
fn parse_reset(value: &str, now: SystemTime) -> Option<Duration> {
    let number: u64 = value.trim().parse().ok()?;
    let since_epoch = match number {
        1_000_000_000..10_000_000_000 => Duration::from_secs(number),
        1_000_000_000_000..10_000_000_000_000 => Duration::from_millis(number),
        _ => return None,
    };
    let reset = SystemTime::UNIX_EPOCH.checked_add(since_epoch)?;
    Some(reset.duration_since(now).unwrap_or_default().min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
    }

    #[test]
    fn both_forms_are_read_and_bounded() {
        let soon = httpdate::fmt_http_date(now() + Duration::from_secs(90));
        let past = httpdate::fmt_http_date(now() - Duration::from_secs(90));
        let far = httpdate::fmt_http_date(now() + Duration::from_secs(86_400));
        let seconds = |s| Some(Duration::from_secs(s));
        let cases = [
            ("0", seconds(0)),
            (" 7 ", seconds(7)),
            ("1.5", Some(Duration::from_millis(1500))),
            ("-5", seconds(0)),
            ("86400", seconds(3600)),
            ("99999999999999999999999", seconds(3600)),
            ("inf", seconds(3600)),
            ("NaN", None),
            (soon.as_str(), seconds(90)),
            (past.as_str(), seconds(0)),
            (far.as_str(), seconds(3600)),
            ("soon", None),
            ("", None),
            ("1, 2", None),
        ];
        for (value, expected) in cases {
            assert_eq!(parse(value, now()), expected, "{value:?}");
        }
    }

    #[test]
    fn a_reset_time_is_read_in_either_unit() {
        for (value, expected) in [("1790000030", 30), ("1790000030000", 30), ("1780000000", 0)] {
            assert_eq!(parse_reset(value, now()), Some(Duration::from_secs(expected)), "{value}");
        }
        assert_eq!(parse_reset("30", now()), None);
    }

    #[test]
    fn retry_after_wins_over_the_reset_time() {
        let mut headers = HeaderMap::new();
        headers.insert("x-ratelimit-reset", "1790000030".parse().unwrap());
        assert_eq!(from_headers(&headers, now()), Some(Duration::from_secs(30)));
        headers.insert(RETRY_AFTER, "2".parse().unwrap());
        assert_eq!(from_headers(&headers, now()), Some(Duration::from_secs(2)));
    }
}
