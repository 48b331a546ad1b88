//! Numbers and texts within the bounds of a schema.

use serde_json::{Map, Number, Value};

use super::draw::Draw;
use super::pattern;
use super::words::Words;

/// The longest text that is made on purpose.
const MAX_TEXT: usize = 64 * 1024;

/// An integer or a number that keeps minimum, maximum (both kinds of exclusive) and multipleOf.
pub(super) fn number(schema: &Map<String, Value>, integer: bool, draw: &mut Draw) -> Value {
    let (low, low_open) = bound(schema, "minimum", "exclusiveMinimum", f64::max);
    let (high, high_open) = bound(schema, "maximum", "exclusiveMaximum", f64::min);
    let span = 100.0;
    let (from, to) = match (low, high) {
        (Some(low), Some(high)) => (low, high),
        (Some(low), None) => (low, low + span),
        (None, Some(high)) => (high - span, high),
        (None, None) => (1.0, span),
    };
    let step = schema.get("multipleOf").and_then(Value::as_f64).filter(|step| *step > 0.0);
    let step = match (step, integer) {
        (Some(step), true) if step.fract() != 0.0 => Some(whole_step(step)),
        (None, true) => Some(1.0),
        (step, _) => step,
    };
    let Some(step) = step else {
        return real(from, to, low_open, high_open, draw);
    };
    let mut first = (from / step).ceil();
    let mut last = (to / step).floor();
    if low_open && multiple(first, step) <= from {
        first += 1.0;
    }
    if high_open && multiple(last, step) >= to {
        last -= 1.0;
    }
    let value = multiple(first + ((last - first).max(0.0) * draw.fraction()).round(), step);
    // Beyond 2^53 a float has no fraction anyway, and its text may not be read back as an integer.
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// The multiple, computed by division where the step is a fraction such as 0.01, which a float does not hold exactly.
fn multiple(count: f64, step: f64) -> f64 {
    let inverse = (1.0 / step).round();
    if step < 1.0 && (1.0 / step - inverse).abs() < 1e-9 { count / inverse } else { count * step }
}

/// The least whole number that is a multiple of a fractional step; 1 where none is near.
fn whole_step(step: f64) -> f64 {
    (1..=1000)
        .map(|times| (f64::from(times) * step * 1e9).round() / 1e9)
        .find(|n| n.fract() == 0.0)
        .unwrap_or(1.0)
}

/// The tighter of both bounds and whether it is excluded; draft 4 writes the exclusion as a boolean beside the bound.
fn bound(
    schema: &Map<String, Value>,
    closed: &str,
    open: &str,
    tighter: fn(f64, f64) -> f64,
) -> (Option<f64>, bool) {
    let closed = schema.get(closed).and_then(Value::as_f64);
    match (closed, schema.get(open)) {
        (closed, Some(Value::Bool(open))) => (closed, *open),
        (None, Some(open)) => (open.as_f64(), true),
        (Some(closed), Some(open)) => match open.as_f64() {
            Some(open) if tighter(open, closed) == open => (Some(open), true),
            _ => (Some(closed), false),
        },
        (closed, None) => (closed, false),
    }
}

fn real(from: f64, to: f64, low_open: bool, high_open: bool, draw: &mut Draw) -> Value {
    let fits =
        |x: f64| (if low_open { x > from } else { x >= from }) && (if high_open { x < to } else { x <= to });
    let drawn = from + (to - from) * (0.05 + 0.9 * draw.fraction());
    let rounded = (drawn * 100.0).round() / 100.0;
    let value = if fits(rounded) { rounded } else { drawn };
    Number::from_f64(value).map_or_else(|| Value::from(0), Value::Number)
}

/// A text that keeps format, pattern and length, as far as one can be made.
pub(super) fn text(schema: &Map<String, Value>, property: &str, words: &Words, draw: &mut Draw) -> String {
    let length =
        |key: &str| schema.get(key).and_then(Value::as_f64).map(|n| n.clamp(0.0, MAX_TEXT as f64) as usize);
    let least = length("minLength").unwrap_or(0);
    let most = length("maxLength").unwrap_or(MAX_TEXT).max(least);
    let pattern = schema.get("pattern").and_then(Value::as_str);
    if let Some(text) = pattern.and_then(|pattern| matching(pattern, least, most, draw)) {
        return text;
    }
    if let Some(text) =
        schema.get("format").and_then(Value::as_str).and_then(|format| formatted(format, words, draw))
    {
        return text;
    }
    let mut text = words.for_property(property, draw);
    while text.len() < least {
        text.push(' ');
        text.push_str(&words.word(draw));
    }
    // Only ASCII is made here, so bytes are characters.
    text.truncate(most);
    if text.ends_with(' ') {
        text.pop();
        text.push('x');
    }
    text
}

/// A text of a fitting length that matches, by trial with ever longer repetitions.
fn matching(pattern: &str, least: usize, most: usize, draw: &mut Draw) -> Option<String> {
    const TRIES: u32 = 12;
    for stretch in [3, 8, 0, 1, 24, 64, 128, 512, 2048] {
        for _ in 0..TRIES {
            match pattern::matching(pattern, stretch, draw) {
                Some(text) if (least..=most).contains(&text.chars().count()) => return Some(text),
                Some(_) => {}
                // Not understood, or too long with this stretch and so with every greater one.
                None => return None,
            }
        }
    }
    None
}

fn formatted(format: &str, words: &Words, draw: &mut Draw) -> Option<String> {
    let date = |draw: &mut Draw| {
        format!("{}-{:02}-{:02}", draw.between(2000, 2029), draw.between(1, 12), draw.between(1, 28))
    };
    let time = |draw: &mut Draw| {
        format!("{:02}:{:02}:{:02}Z", draw.between(0, 23), draw.between(0, 59), draw.between(0, 59))
    };
    let hex = |count: usize, draw: &mut Draw| {
        (0..count).map(|_| draw.char_of(b"0123456789abcdef")).collect::<String>()
    };
    Some(match format {
        "date" => date(draw),
        "time" => time(draw),
        "date-time" => format!("{}T{}", date(draw), time(draw)),
        "duration" => format!("P{}D", draw.between(1, 30)),
        "email" | "idn-email" => format!("{}.{}@example.com", words.word(draw), draw.between(1, 999)),
        "hostname" | "idn-hostname" => format!("{}.example.com", words.word(draw)),
        "uri" | "iri" | "url" => format!("https://example.com/{}/{}", words.word(draw), draw.between(1, 999)),
        "uri-reference" | "iri-reference" => format!("/{}", words.word(draw)),
        "uri-template" => format!("/{}/{{id}}", words.word(draw)),
        "json-pointer" => format!("/{}/0", words.word(draw)),
        "relative-json-pointer" => "0".to_owned(),
        "regex" => format!("^{}$", words.word(draw)),
        // Addresses of the documentation ranges (RFC 5737, RFC 3849).
        "ipv4" => format!("192.0.2.{}", draw.between(1, 254)),
        "ipv6" => format!("2001:db8::{}", hex(4, draw)),
        "uuid" => {
            format!("{}-{}-4{}-a{}-{}", hex(8, draw), hex(4, draw), hex(3, draw), hex(3, draw), hex(12, draw))
        }
        _ => return None,
    })
}
