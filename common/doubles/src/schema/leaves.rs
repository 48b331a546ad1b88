//! Numbers and texts within their bounds.

use serde_json::{Number, Value};

use super::keywords::{Keywords, size};
use super::{Generator, SURROGATE_MARK};
use crate::dice::Dice;
use crate::pattern;

/// How much longer than need be the open repetitions of a pattern are tried, one by one, to reach a length.
const PATTERN_TRIES: u32 = 256;

impl Generator<'_> {
    pub(super) fn integer(&mut self, keywords: &Keywords) -> Value {
        let whole = |name: &str| keywords.get(name).and_then(Value::as_f64);
        let low = [whole("minimum").map(f64::ceil), whole("exclusiveMinimum").map(|low| low.floor() + 1.0)];
        let high =
            [whole("maximum").map(f64::floor), whole("exclusiveMaximum").map(|high| high.ceil() - 1.0)];
        // Out of range casts saturate, which is what an unbounded side wants.
        let low = low.into_iter().flatten().reduce(f64::max).map(|low| low as i64);
        let high = high.into_iter().flatten().reduce(f64::min).map(|high| high as i64);
        let (low, high) = match (low, high) {
            (Some(low), Some(high)) => (low, high),
            (Some(low), None) => (low, low.saturating_add(100)),
            (None, Some(high)) if high >= 0 => (0, high),
            (None, Some(high)) => (high.saturating_sub(100), high),
            (None, None) => (0, 100),
        };
        let step = whole("multipleOf").map(|step| step as i64).filter(|step| *step > 1);
        let value = match step {
            None => self.dice.between(low, high),
            Some(step) => {
                let first = low.div_euclid(step) + i64::from(low.rem_euclid(step) != 0);
                self.dice.between(first, high.div_euclid(step)).saturating_mul(step)
            }
        };
        Value::from(value)
    }

    pub(super) fn number(&mut self, keywords: &Keywords) -> Value {
        let bound = |name: &str| keywords.get(name).and_then(Value::as_f64);
        let low = [bound("minimum"), bound("exclusiveMinimum")].into_iter().flatten().reduce(f64::max);
        let high = [bound("maximum"), bound("exclusiveMaximum")].into_iter().flatten().reduce(f64::min);
        let (low, high) = match (low, high) {
            (Some(low), Some(high)) => (low, high),
            (Some(low), None) => (low, low + 100.0),
            (None, Some(high)) => (if high > 0.0 { 0.0 } else { high - 100.0 }, high),
            (None, None) => (0.0, 100.0),
        };
        let value = match bound("multipleOf").filter(|step| *step > 0.0) {
            Some(step) => {
                let at = |name: &str, edge: f64| bound(name).is_some_and(|bound| bound >= edge);
                let mut first = (low / step).ceil();
                let mut last = (high / step).floor();
                first += f64::from(at("exclusiveMinimum", first * step));
                last -= f64::from(bound("exclusiveMaximum").is_some_and(|bound| bound <= last * step));
                let (first, last) = (first as i64, last as i64);
                let start = self.dice.between(first, last);
                // 3 * 0.1 is not 0.3 until it is rounded, and 17.2 / 0.1 is not whole even then: a checker that
                // divides would refuse it, so a multiple is taken that survives the division.
                let multiple = |at: i64| {
                    let rounded = (at as f64 * step * 1e10).round() / 1e10;
                    if rounded.is_finite() { rounded } else { at as f64 * step }
                };
                (start..=last)
                    .take(64)
                    .chain((first..start).rev().take(64))
                    .map(multiple)
                    .find(|value| (value / step).fract() == 0.0)
                    .unwrap_or_else(|| multiple(start))
            }
            // A quarter, a half or three quarters of the way: never on an excluded bound.
            None => low + (high - low) * (1 + self.dice.below(3)) as f64 / 4.0,
        };
        Number::from_f64(value).map_or(Value::from(0), Value::Number)
    }

    pub(super) fn string(&mut self, keywords: &Keywords) -> String {
        let at_least = size(keywords, "minLength").unwrap_or(0);
        let at_most = size(keywords, "maxLength").unwrap_or(usize::MAX).max(at_least);
        if let Some(sample) =
            keywords.get("format").and_then(Value::as_str).and_then(|name| self.format(name))
        {
            return sample;
        }
        if let Some(pattern) = keywords.get("pattern").and_then(Value::as_str) {
            let longest = u32::try_from(at_least).unwrap_or(u32::MAX).min(PATTERN_TRIES);
            let fits = |text: &String| (at_least..=at_most).contains(&text.chars().count());
            let start = self.dice.next();
            let text = (0..=longest)
                .find_map(|extra| pattern::matching(pattern, extra, &mut Dice::new(start)).filter(fits));
            if let Some(text) = text {
                return text;
            }
        }
        let mut text = words(&mut self.dice, 2);
        while text.chars().count() < at_least {
            text.push(' ');
            text.push_str(&words(&mut self.dice, 4));
        }
        if at_most < text.len() {
            text = text.chars().take(at_most).collect();
        }
        if self.mark && !text.is_empty() {
            self.mark = false;
            text = std::iter::once(SURROGATE_MARK).chain(text.chars().skip(1)).collect();
        }
        text
    }

    fn format(&mut self, name: &str) -> Option<String> {
        let n = self.dice.below(28) + 1;
        Some(match name {
            "date" => format!("2026-02-{n:02}"),
            "time" => format!("11:{n:02}:00Z"),
            "date-time" => format!("2026-02-{n:02}T11:05:00Z"),
            "duration" => format!("P{n}D"),
            "email" | "idn-email" => format!("reader{n}@example.com"),
            "hostname" | "idn-hostname" => format!("host{n}.example.com"),
            "ipv4" => format!("192.0.2.{n}"),
            "ipv6" => format!("2001:db8::{n:x}"),
            "uri" | "uri-reference" | "iri" | "iri-reference" | "url" => format!("https://example.com/{n}"),
            "uuid" => format!("00000000-0000-4000-8000-{n:012x}"),
            "json-pointer" => format!("/items/{n}"),
            "relative-json-pointer" => format!("{n}/items"),
            "regex" => "^[a-z]+$".to_owned(),
            _ => return None,
        })
    }
}

/// Words of several alphabets, and one with a quotation mark, so that encodings are exercised.
pub(crate) fn words(dice: &mut Dice, count: u64) -> String {
    const WORDS: [&str; 16] = [
        "amber",
        "birch",
        "cobalt",
        "delta",
        "ember",
        "fjord",
        "gravel",
        "harbour",
        "naïve",
        "город",
        "東京",
        "willow",
        "said \"yes\"",
        "quartz, fine",
        "river",
        "Straße",
    ];
    let mut text = String::new();
    for _ in 0..count + dice.below(count.max(1)) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(WORDS[(dice.next() % 16) as usize]);
    }
    text
}
