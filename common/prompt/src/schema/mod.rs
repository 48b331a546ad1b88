//! The JSON Schema of an output: refused when it could fetch, hang or blow up, compiled once, and its complaints put
//! into words that never repeat what the model wrote.
//!
//! `guard` bounds the work before anything is compiled, `describe` words the errors. Start at [`Checker::compile`].

mod describe;
mod guard;
mod steps;

use std::net::{Ipv4Addr, Ipv6Addr};

use jsonschema::{Draft, PatternOptions, Validator};
use promptmill_domain::Reason;
use serde_json::{Value, json};

use crate::json::Parsed;
use crate::problem::{Problem, shorten};
use guard::Bounds;

/// The most reasons one reply gets.
pub(crate) const REASONS: usize = 50;
/// Compiled size of one pattern, in bytes (`regex` crate, `size_limit`).
const PATTERN_BYTES: usize = 1 << 18;
/// Schema visits one validation may make: instance values times the visits of the worst path.
const VISITS: usize = 20_000_000;
/// Elements of an array that `uniqueItems` may compare pairwise.
const UNIQUE_ITEMS: usize = 4_000;
/// Bytes that wording the errors may copy: every failed alternative keeps its own copy of the value.
const DETAIL_BYTES: usize = 64 << 20;
/// Values of a reply beyond which only its first error is worded.
const DETAIL_NODES: usize = 20_000;

/// A compiled schema with the bounds of its use.
pub(crate) struct Checker {
    validator: Validator,
    bounds: Bounds,
}

impl Checker {
    /// Compiles the schema at `pointer`; every problem found is noted.
    pub(crate) fn compile(
        schema: &Value,
        formats: bool,
        pointer: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let before = problems.len();
        let draft = draft(schema, pointer, problems)?;
        let bounds = guard::measure(schema, pointer, problems)?;
        if problems.len() > before {
            return None;
        }
        match options(draft, formats).build(schema) {
            Ok(validator) => Some(Self { validator, bounds }),
            Err(error) => {
                let place = format!("{pointer}{}", error.instance_path().as_str());
                problems.push(Problem::at(place, describe::build_error(&error)));
                None
            }
        }
    }

    /// What is wrong with `parsed`, read from `bytes` bytes; empty when it satisfies the schema.
    pub(crate) fn check(&self, parsed: &Parsed, bytes: usize) -> Vec<Reason> {
        if parsed.depth > self.bounds.depth {
            return vec![Reason::whole(format!(
                "must not be nested deeper than {} levels",
                self.bounds.depth
            ))];
        }
        if parsed.nodes.saturating_mul(self.bounds.visits_at(parsed.depth)) > VISITS {
            return vec![Reason::whole("is too large to be checked against the schema")];
        }
        if self.bounds.unique && parsed.longest_array > UNIQUE_ITEMS {
            return vec![Reason::whole(format!(
                "must not hold an array of more than {UNIQUE_ITEMS} elements"
            ))];
        }
        if self.validator.is_valid(&parsed.value) {
            return Vec::new();
        }
        let copies = bytes.saturating_mul(self.bounds.visits_at(parsed.depth));
        if self.bounds.alternatives && copies > DETAIL_BYTES {
            return vec![Reason::whole("does not satisfy the schema")];
        }
        // All errors of an instance exist before the first is handed out.
        if parsed.nodes > DETAIL_NODES {
            return self.validator.validate(&parsed.value).err().iter().map(describe::reason).collect();
        }
        self.validator
            .iter_errors(&parsed.value)
            .take(REASONS)
            .map(|error| describe::reason(&error))
            .collect()
    }
}

/// Compiles the pattern of a string variable, or says what is wrong with it.
pub(crate) fn compile_pattern(pattern: &str) -> Result<Validator, String> {
    options(Draft::Draft202012, false).build(&json!({ "pattern": pattern })).map_err(|_| {
        format!("is not a regular expression of the linear-time syntax: {}", shorten(pattern, 60))
    })
}

fn options(draft: Draft, formats: bool) -> jsonschema::ValidationOptions<'static> {
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES);
    jsonschema::options()
        .with_draft(draft)
        .with_pattern_options(patterns)
        .should_validate_formats(formats)
        .with_format("email", is_email)
        .with_format("idn-email", is_email)
        // Compiling an expression out of a reply has no bound of its own, so this format stays an annotation.
        .with_format("regex", |_: &str| true)
        .offline()
}

/// One `@`, a short local part without spaces, a domain of labels or an address in brackets. Cheap on purpose.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    let plain = |c: char| {
        !c.is_whitespace() && !c.is_control() && !matches!(c, '@' | '<' | '>' | ',' | ';' | '(' | ')')
    };
    let local_fits = (1..=64).contains(&local.len())
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.chars().all(plain);
    if let Some(address) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let v6 = address.strip_prefix("IPv6:").is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
        return local_fits && (v6 || address.parse::<Ipv4Addr>().is_ok());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    local_fits && domain.len() <= 253 && domain.split('.').all(label)
}

/// The draft a schema asks for.
fn draft(schema: &Value, pointer: &str, problems: &mut Vec<Problem>) -> Option<Draft> {
    let Some(declared) = schema.get("$schema") else {
        return Some(Draft::Draft202012);
    };
    match declared.as_str().map(|uri| uri.trim_end_matches('#')) {
        Some("https://json-schema.org/draft/2020-12/schema") => Some(Draft::Draft202012),
        Some("http://json-schema.org/draft-07/schema" | "https://json-schema.org/draft-07/schema") => {
            Some(Draft::Draft7)
        }
        _ => {
            problems.push(Problem::at(
                format!("{pointer}/$schema"),
                "must name JSON Schema draft 2020-12 or draft-07",
            ));
            None
        }
    }
}
