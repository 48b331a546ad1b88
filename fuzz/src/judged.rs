//! What holds for every judgement of every reply.

use promptmill_domain::{Flag, Output, Verdict};
use promptmill_prompt::{Template, Variables};
use serde_json::Value;

/// The most reasons a reply gets.
const REASONS: usize = 100;

/// Bytes beyond which the message that asks a model again may not grow.
const REPAIR_BYTES: usize = 32 << 10;

/// Judges `reply` and checks what comes of it.
///
/// # Panics
/// When the judgement is not sound, or not the same a second time.
pub fn check(template: &Template, reply: &str) {
    let judgement = template.judge(reply, &Variables::empty());
    assert!(judgement == template.judge(reply, &Variables::empty()), "judging twice differs");
    match (&judgement.verdict, &judgement.output) {
        (Verdict::Accept, Some(Output::Text(text))) => {
            // One of the allowed texts is delivered as it is written in the template; any other stands in the reply.
            assert!(reply.contains(text.trim()), "a text that is not in the reply");
        }
        (Verdict::Accept, Some(Output::Json(json))) => {
            check_json(template, reply, json.get(), &judgement.flags)
        }
        (Verdict::Repair(reasons) | Verdict::Reject(reasons), None) => {
            assert!((1..=REASONS).contains(&reasons.len()), "{} reasons", reasons.len());
            let bytes = template.repair_message(reasons).content.len();
            assert!(bytes <= REPAIR_BYTES, "a message of {bytes} bytes asks again");
        }
        (verdict, output) => unreachable!("{verdict:?} with an output: {}", output.is_some()),
    }
}

/// What holds for JSON that was taken out of a reply.
fn check_json(template: &Template, reply: &str, json: &str, flags: &[Flag]) {
    assert!(!json.contains(['\n', '\r']), "an output is one line");
    let value: Value = serde_json::from_str(json).expect("an output is JSON");
    if flags.is_empty() {
        let whole: Value =
            serde_json::from_str(reply.trim()).expect("a reply that was taken as it is, is JSON");
        assert!(whole == value, "a reply that was taken as it is means something else");
        assert_eq!(without_blanks(json), without_blanks(reply.trim()), "and it is written otherwise");
    }
    assert!(skeleton(reply).contains(&skeleton(json)), "an output that is not in the reply");
    let again = template.judge(json, &Variables::empty());
    assert_eq!(again.verdict, Verdict::Accept, "an output that does not pass itself");
    assert!(again.flags.is_empty(), "an output that must be mended itself");
    assert!(again.output.is_some_and(|output| output == Output::Json(raw(json))), "an output that changes");
}

fn raw(json: &str) -> Box<serde_json::value::RawValue> {
    serde_json::value::RawValue::from_string(json.to_owned()).expect("an output is JSON")
}

/// A JSON text without the blanks between its tokens.
fn without_blanks(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        let kept = in_string || !matches!(c, ' ' | '\t' | '\n' | '\r');
        in_string ^= *c == '"' && !escaped;
        escaped = in_string && *c == '\\' && !escaped;
        kept
    };
    json.chars().filter(keep).collect()
}

/// What mending leaves alone, in its order: no blanks, control characters, commas, backslashes, or letters and digits (which escapes
/// are made of). Of a piece of a text it is a piece of the text's.
fn skeleton(text: &str) -> String {
    let touched = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || c.is_ascii_alphanumeric()
            || matches!(c, ',' | '\\' | '\u{feff}' | '\u{fffd}')
    };
    text.chars().filter(|c| !touched(*c)).collect()
}
