//! What headers tell of a provider's limits: how many calls and tokens there are, how many are left, and when all of them are back.
//!
//! There is no standard that providers follow, but few spellings: OpenAI's (also Groq's, Azure's and OpenRouter's), Mistral's,
//! Anthropic's, and the drafts of the IETF (draft-ietf-httpapi-ratelimit-headers, in its older form of three headers and its newer
//! form of one). Numbers that cannot be are left out; nothing here is trusted beyond that.

use std::time::{Duration, SystemTime};

use hyper::header::HeaderMap;
use promptmill_domain::rate::{Quota, RateHints};

/// A limit above this is none.
const MOST: u64 = 1_000_000_000;

/// The longest reset that is believed: a day has passed then.
const LONGEST_RESET: Duration = Duration::from_secs(24 * 3600);

/// Names of one limit: how many there are, how many are left, when they are back.
type Names = [&'static str; 3];

const REQUESTS: [Names; 5] = [
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
    ["x-ratelimit-limit-req-minute", "x-ratelimit-remaining-req-minute", "x-ratelimit-reset-req-minute"],
    [
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ],
    ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"],
    ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"],
];

const TOKENS: [Names; 3] = [
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
    [
        "x-ratelimit-limit-tokens-minute",
        "x-ratelimit-remaining-tokens-minute",
        "x-ratelimit-reset-tokens-minute",
    ],
    [
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ],
];

/// What the headers of a reply tell, at `now`.
pub(crate) fn from_headers(headers: &HeaderMap, now: SystemTime) -> RateHints {
    // Most replies tell nothing, and then a look at the names is all there is to do.
    if !headers.keys().any(|name| name.as_str().contains("ratelimit")) {
        return RateHints::default();
    }
    let first = |names: &[Names]| names.iter().find_map(|names| quota(headers, names, now));
    RateHints { requests: first(&REQUESTS).or_else(|| combined(headers)), tokens: first(&TOKENS) }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn quota(headers: &HeaderMap, [limit, remaining, reset]: &Names, now: SystemTime) -> Option<Quota> {
    let limit = text(headers, limit)?;
    // The older draft tells the time behind the number: `10, 10;w=1`.
    let window = limit.split([',', ';']).find_map(|part| number(part.trim().strip_prefix("w=")?));
    let limit = per_minute(number(limit)?, window);
    let remaining = number(text(headers, remaining)?)?;
    let reset = text(headers, reset).and_then(|text| parse_reset(text, now));
    sensible(limit, remaining, reset)
}

/// `RateLimit: "name";r=50;t=30` beside `RateLimit-Policy: "name";q=100;w=60`.
fn combined(headers: &HeaderMap) -> Option<Quota> {
    let parameter = |header: &str, key: &str| {
        let first = text(headers, header)?.split(',').next()?;
        first.split(';').find_map(|part| number(part.trim().strip_prefix(key)?.strip_prefix('=')?))
    };
    let reset = parameter("ratelimit", "t").map(Duration::from_secs);
    let (quota, window) = (parameter("ratelimit-policy", "q")?, parameter("ratelimit-policy", "w"));
    sensible(per_minute(quota, window), parameter("ratelimit", "r")?, reset)
}

/// What is told for another time than a minute is made one of a minute: that is what a limit is taken for.
fn per_minute(limit: u64, window_secs: Option<u64>) -> u64 {
    let per_minute = |secs: u64| (limit.saturating_mul(60) / secs).max(limit.min(1));
    window_secs.filter(|secs| *secs > 0).map_or(limit, per_minute)
}

fn sensible(limit: u64, remaining: u64, reset: Option<Duration>) -> Option<Quota> {
    let reset = reset.filter(|reset| *reset <= LONGEST_RESET);
    (1..=MOST).contains(&limit).then_some(Quota { limit, remaining: remaining.min(MOST), reset })
}

/// A whole number, also one written with decimals; the first of a list.
fn number(text: &str) -> Option<u64> {
    let text = text.split([',', ';']).next()?.trim();
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        (0.0..=MOST as f64).contains(&number).then_some(number as u64)
    })
}

/// Reads a reset: seconds from now (`12`, `1.5`), a sum of parts (`6m0s`, `120ms`), a moment since the epoch in seconds or milliseconds,
/// or a date (RFC 3339).
fn parse_reset(text: &str, now: SystemTime) -> Option<Duration> {
    if text.is_empty() || text.len() > 40 {
        return None;
    }
    if let Ok(number) = text.parse::<f64>() {
        let since_epoch = match number {
            0.0..=1_000_000_000.0 => return Some(Duration::from_secs_f64(number)),
            1_000_000_000.0..=10_000_000_000.0 => Duration::from_secs_f64(number),
            1_000_000_000_000.0..=10_000_000_000_000.0 => Duration::from_secs_f64(number / 1_000.0),
            _ => return None,
        };
        return Some((SystemTime::UNIX_EPOCH + since_epoch).duration_since(now).unwrap_or_default());
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some(SystemTime::from(moment).duration_since(now).unwrap_or_default());
    }
    parts(text)
}

/// `1h2m3.5s`, `120ms`.
fn parts(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let secs = match &rest[..unit] {
            "d" => 86_400.0,
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" | "µs" => 0.000_001,
            _ => return None,
        };
        rest = &rest[unit..];
        sum = sum.checked_add(Duration::try_from_secs_f64(number * secs).ok()?)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
    }

    fn told(headers: &[(&str, &str)]) -> RateHints {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        from_headers(&map, now())
    }

    fn quota_of(limit: u64, remaining: u64, reset_ms: u64) -> Option<Quota> {
        Some(Quota { limit, remaining, reset: Some(Duration::from_millis(reset_ms)) })
    }

    #[test]
    fn every_spelling_is_read() {
        let openai = told(&[
            ("x-ratelimit-limit-requests", "600"),
            ("x-ratelimit-remaining-requests", "599"),
            ("x-ratelimit-reset-requests", "100ms"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ]);
        assert_eq!(openai.requests, quota_of(600, 599, 100));
        assert_eq!(openai.tokens, quota_of(150_000, 149_984, 360_000));
        let groq = told(&[
            ("x-ratelimit-limit-requests", "14400"),
            ("x-ratelimit-remaining-requests", "14370"),
            ("x-ratelimit-reset-requests", "2m59.56s"),
        ]);
        assert_eq!(groq.requests, quota_of(14_400, 14_370, 179_560));
        let anthropic = told(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2026-09-21T14:13:30Z"),
        ]);
        assert_eq!(anthropic.requests, quota_of(50, 49, 10_000));
        for reset in ["30", "1790000030", "1790000030000"] {
            let plain = told(&[
                ("x-ratelimit-limit", "20"),
                ("x-ratelimit-remaining", "3"),
                ("x-ratelimit-reset", reset),
            ]);
            assert_eq!(plain.requests, quota_of(20, 3, 30_000), "{reset}");
        }
        let old_draft = told(&[
            ("ratelimit-limit", "100, 100;w=60"),
            ("ratelimit-remaining", "50"),
            ("ratelimit-reset", "7"),
        ]);
        assert_eq!(old_draft.requests, quota_of(100, 50, 7_000));
        let of_a_second = told(&[
            ("ratelimit-limit", "10, 10;w=1"),
            ("ratelimit-remaining", "4"),
            ("ratelimit-reset", "1"),
        ]);
        assert_eq!(of_a_second.requests, quota_of(600, 4, 1_000));
        let draft =
            told(&[("ratelimit", "\"default\";r=50;t=30"), ("ratelimit-policy", "\"default\";q=10;w=1")]);
        assert_eq!(draft.requests, quota_of(600, 50, 30_000));
    }

    #[test]
    fn what_cannot_be_is_left_out() {
        for (limit, remaining) in
            [("0", "1"), ("-1", "1"), ("many", "1"), ("600", ""), ("600", "NaN"), ("1e300", "1")]
        {
            let hints =
                told(&[("x-ratelimit-limit-requests", limit), ("x-ratelimit-remaining-requests", remaining)]);
            assert!(hints.is_empty(), "{limit:?} {remaining:?}");
        }
        let hints = told(&[
            ("x-ratelimit-limit-requests", "600"),
            ("x-ratelimit-remaining-requests", "1"),
            ("x-ratelimit-reset-requests", "soon"),
        ]);
        assert_eq!(hints.requests, Some(Quota { limit: 600, remaining: 1, reset: None }));
        assert!(told(&[("content-type", "application/json")]).is_empty());
    }

    proptest! {
        #[test]
        fn no_header_makes_reading_panic(texts in proptest::collection::vec("[ -~]{0,45}", 3)) {
            let _ = told(&[
                ("x-ratelimit-limit-requests", texts[0].as_str()),
                ("x-ratelimit-remaining-requests", texts[1].as_str()),
                ("x-ratelimit-reset-requests", texts[2].as_str()),
            ]);
            let _ = told(&[("ratelimit", texts[0].as_str()), ("ratelimit-policy", texts[1].as_str())]);
        }
    }
}
