//! Judging a reply: find the JSON, read it once, hold it against the schema and the rules.
//!
//! Order: bare reply, fenced block, bracketed part of prose; each as it is, then with slips mended. Content is never
//! guessed, and what the model wrote never reaches a reason.

use minijinja::Value as Jinja;
use minijinja::value::Serde;
use promptmill_domain::{Flag, Output, Reason, Verdict};
use serde_json::value::RawValue;

use crate::extract;
use crate::json::{self, Parsed, syntax_message};
use crate::mend::{mend, on_one_line};
use crate::output::{OutputSchema, OutputSpec};
use crate::problem::list;
use crate::row::Variables;
use crate::rules::{self, Rule};

/// The most bytes of a reply that is judged.
pub const REPLY_BYTES: usize = 1 << 20;

/// What judging a reply found.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// What the reply delivers; there if and only if the verdict is [`Verdict::Accept`]. JSON stands on one line.
    pub output: Option<Output>,
    /// What was done to the reply before it was accepted.
    pub flags: Vec<Flag>,
}

impl Judgement {
    fn repair(reasons: Vec<Reason>) -> Self {
        Self { verdict: Verdict::Repair(reasons), output: None, flags: Vec::new() }
    }
}

/// Judges `reply` to a prompt rendered with `variables`.
pub(crate) fn judge(spec: &OutputSpec, rules: &[Rule], reply: &str, variables: &Variables) -> Judgement {
    if reply.len() > REPLY_BYTES {
        return Judgement::repair(vec![Reason::whole(format!(
            "the reply is longer than {REPLY_BYTES} bytes"
        ))]);
    }
    match spec {
        OutputSpec::Text { min_length, max_length, choices } => {
            let text = match check_text(reply, *min_length, *max_length, choices) {
                Ok(text) => text,
                Err(reason) => return Judgement::repair(vec![reason]),
            };
            conclude(rules, variables, || Jinja::from(text), || Output::Text(text.to_owned()), Vec::new())
        }
        OutputSpec::Json { schema } => match find_json(reply, schema.as_deref()) {
            Err(reasons) => Judgement::repair(reasons),
            Ok(found) => {
                let Found { text, parsed, flags } = found;
                let raw = match RawValue::from_string(on_one_line(&text).into_owned()) {
                    Ok(raw) => raw,
                    Err(error) => return Judgement::repair(vec![unreadable(&error)]),
                };
                conclude(rules, variables, || Jinja::from(Serde(&parsed.value)), || Output::Json(raw), flags)
            }
        },
    }
}

/// The last step: the rules decide.
fn conclude(
    rules: &[Rule],
    variables: &Variables,
    value: impl FnOnce() -> Jinja,
    output: impl FnOnce() -> Output,
    flags: Vec<Flag>,
) -> Judgement {
    if !rules.is_empty() {
        let broken = rules::check(rules, value(), variables.root());
        if broken.rejects {
            return Judgement { verdict: Verdict::Reject(broken.reasons), output: None, flags };
        }
        if !broken.reasons.is_empty() {
            return Judgement { verdict: Verdict::Repair(broken.reasons), output: None, flags };
        }
    }
    Judgement { verdict: Verdict::Accept, output: Some(output()), flags }
}

/// The text a reply delivers: itself, or the allowed text it names.
fn check_text<'t>(
    reply: &'t str,
    min_length: Option<u64>,
    max_length: Option<u64>,
    choices: &'t [String],
) -> Result<&'t str, Reason> {
    let trimmed = reply.trim();
    if trimmed.is_empty() {
        return Err(Reason::whole("the reply is empty"));
    }
    if !choices.is_empty() {
        let chosen = choices.iter().find(|choice| choice.trim() == trimmed);
        return chosen.map(String::as_str).ok_or_else(|| {
            Reason::whole(format!("must be exactly one of: {}", list(choices.iter().map(String::as_str), 30)))
        });
    }
    if min_length.is_some() || max_length.is_some() {
        let found = trimmed.chars().count() as u64;
        if min_length.is_some_and(|low| found < low) {
            let low = min_length.unwrap_or_default();
            return Err(Reason::whole(format!("must have at least {low} characters, has {found}")));
        }
        if let Some(high) = max_length.filter(|high| found > *high) {
            return Err(Reason::whole(format!("must have at most {high} characters, has {found}")));
        }
    }
    Ok(reply)
}

/// JSON found in a reply, with what it took to find it.
struct Found<'r> {
    text: std::borrow::Cow<'r, str>,
    parsed: Parsed,
    flags: Vec<Flag>,
}

/// The JSON of a reply that satisfies the schema, or why there is none.
fn find_json<'r>(reply: &'r str, schema: Option<&OutputSchema>) -> Result<Found<'r>, Vec<Reason>> {
    let bare = reply.trim();
    if bare.is_empty() {
        return Err(vec![Reason::whole("the reply is empty")]);
    }
    let first_error = match json::parse(bare) {
        Ok(parsed) => {
            return accept(Found { text: bare.into(), parsed, flags: Vec::new() }, schema);
        }
        Err(error) => error,
    };
    let unmarked = bare.trim_start_matches('\u{feff}').trim_start();
    if let Some(found) = read(unmarked, unmarked.len() < bare.len()) {
        return accept(found, schema);
    }
    for places in [extract::fenced(unmarked), extract::bracketed(unmarked)] {
        if let Some(result) = choose(&places, schema) {
            return result;
        }
    }
    Err(vec![unreadable(&first_error)])
}

/// Of several places the last that satisfies the schema, because a model drafts before it answers; without a schema,
/// or when none satisfies it, the longest. `None` when the place that counts holds no JSON.
fn choose<'r>(places: &[&'r str], schema: Option<&OutputSchema>) -> Option<Result<Found<'r>, Vec<Reason>>> {
    let longest = places.iter().rev().max_by_key(|place| place.len())?;
    if schema.is_some() && places.len() > 1 {
        for place in places.iter().rev() {
            if let Some(Ok(found)) = read(place, true).map(|found| accept(found, schema)) {
                return Some(Ok(found));
            }
        }
    }
    read(longest, true).map(|found| accept(found, schema))
}

/// Reads the JSON at one place, mending slips when it must.
fn read(place: &str, moved: bool) -> Option<Found<'_>> {
    if let Ok(parsed) = json::parse(place) {
        let flags = if moved { vec![Flag::Mended] } else { Vec::new() };
        return Some(Found { text: place.into(), parsed, flags });
    }
    let mended = mend(place)?;
    let parsed = json::parse(&mended.text).ok()?;
    let mut flags = Vec::new();
    if moved || mended.slips {
        flags.push(Flag::Mended);
    }
    if mended.surrogates {
        flags.push(Flag::SurrogatesReplaced);
    }
    Some(Found { text: mended.text.into(), parsed, flags })
}

/// Passes on what satisfies the schema. A key written twice has no one meaning, so the model is asked.
fn accept<'r>(found: Found<'r>, schema: Option<&OutputSchema>) -> Result<Found<'r>, Vec<Reason>> {
    if !found.parsed.duplicates.is_empty() {
        let place = |pointer: &String| {
            Reason::at(crate::problem::shorten(pointer, 200), "stands twice in its object")
        };
        return Err(found.parsed.duplicates.iter().map(place).collect());
    }
    let reasons =
        schema.map(|schema| schema.checker.check(&found.parsed, found.text.len())).unwrap_or_default();
    if reasons.is_empty() { Ok(found) } else { Err(reasons) }
}

fn unreadable(error: &serde_json::Error) -> Reason {
    Reason::whole(format!("the reply is not valid JSON: {}", syntax_message(error)))
}
