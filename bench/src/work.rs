//! The work that is measured: one template with a schema of ten properties, rows of 200 bytes, and the reply that satisfies it.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

/// The name of the template.
pub const TEMPLATE: &str = "bench";

/// Bytes of a row with its line end.
pub const ROW_BYTES: usize = 200;

/// The model that is asked for.
pub const MODEL: &str = "openai:bench";

/// The template: two messages, two variables, a closed schema of ten properties.
pub fn template() -> Value {
    json!({
        "name": TEMPLATE,
        "messages": [
            {"role": "system", "content": "You sort messages of customers. Answer with one JSON object that the schema allows."},
            {"role": "user", "content": "Message {{ n }}:\n{{ note }}\n\nSort it."},
        ],
        "variables": {"n": {"type": "integer", "minimum": 0}, "note": {"type": "string", "max_length": 2000}},
        "output": {"format": "json", "schema": {
            "type": "object",
            "additionalProperties": false,
            "required": ["title", "summary", "category", "language", "score", "confidence", "urgent", "tags", "steps", "contact"],
            "properties": {
                "title": {"type": "string", "minLength": 3, "maxLength": 80},
                "summary": {"type": "string", "maxLength": 400},
                "category": {"enum": ["bug", "billing", "question", "praise"]},
                "language": {"type": "string", "pattern": "^[a-z]{2}$"},
                "score": {"type": "integer", "minimum": 0, "maximum": 100},
                "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                "urgent": {"type": "boolean"},
                "tags": {"type": "array", "maxItems": 8, "items": {"type": "string", "maxLength": 30}},
                "steps": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 200}},
                "contact": {"type": ["string", "null"], "maxLength": 100},
            },
        }},
    })
}

/// What the model says, whatever it is asked.
pub fn answer() -> Value {
    json!({
        "title": "Printer prints blank pages",
        "summary": "The customer replaced the cartridge of the printer and gets blank pages since; a reset did not help.",
        "category": "bug",
        "language": "en",
        "score": 71,
        "confidence": 0.93,
        "urgent": false,
        "tags": ["printer", "cartridge", "blank pages"],
        "steps": ["Ask for the number of the cartridge", "Send the guide for cleaning the print head"],
        "contact": null,
    })
}

/// What the model says with other words each time, as many as those of [`answer`].
pub fn answer_in_words(seed: u32) -> Value {
    let mut answer = answer();
    let (words, mut dice) = (vocabulary(), Dice::new(seed));
    for name in ["title", "summary", "tags", "steps"] {
        reword(&mut answer[name], &words, &mut dice);
    }
    answer
}

/// Puts other words in the place of every text, as long as it is.
fn reword(value: &mut Value, words: &[&str], dice: &mut Dice) {
    match value {
        Value::String(text) => {
            let length = text.len();
            text.clear();
            fill_from(text, dice, length, words);
        }
        Value::Array(values) => values.iter_mut().for_each(|value| reword(value, words, dice)),
        _ => {}
    }
}

/// The words of a text in plain English, each as often as it stands there.
fn vocabulary() -> Vec<&'static str> {
    let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_alphabetic() || c == ',' || c == '.');
    include_str!("../../ARCHITECTURE.md").split_whitespace().filter(is_word).collect()
}

/// Tokens of the prompt that a reply tells, and of both together.
const PROMPT_TOKENS: u32 = 120;
/// See there.
pub const REPLY_TOKENS: u32 = 216;

/// The body of a reply with that answer.
pub fn reply(answer: &Value) -> Bytes {
    reply_of(answer, REPLY_TOKENS)
}

/// The same with so many tokens in all.
pub fn reply_of(answer: &Value, tokens: u32) -> Bytes {
    let (prompt, completion) = (PROMPT_TOKENS.min(tokens), tokens.saturating_sub(PROMPT_TOKENS));
    let reply = json!({
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": answer.to_string()},
            "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": tokens},
    });
    Bytes::from(reply.to_string())
}

/// The variables of row `n`: the number, and words that differ from row to row.
pub fn variables(n: u32) -> Value {
    let mut note = String::new();
    fill(&mut note, n, 100);
    json!({"n": n, "note": note})
}

/// The variables of a row like [`variables`], so long that the fake server knows its call.
pub fn long_variables(n: u32) -> Value {
    let mut note = String::new();
    fill(&mut note, n, 1_900);
    json!({"n": n, "note": note})
}

/// Rows `0..count` as NDJSON, each of exactly [`ROW_BYTES`] bytes, under a `custom_id` of its own.
pub fn rows(count: u32) -> Bytes {
    rows_of(count, fill)
}

/// The same of words that compress as text of people does.
pub fn rows_in_words(count: u32) -> Bytes {
    let words = vocabulary();
    rows_of(count, |text, seed, length| fill_from(text, &mut Dice::new(seed), length, &words))
}

fn rows_of(count: u32, fill: impl Fn(&mut String, u32, usize)) -> Bytes {
    let mut text = String::with_capacity(count as usize * ROW_BYTES);
    for n in 0..count {
        let end = text.len() + ROW_BYTES;
        // A String takes every write.
        let _ = write!(text, r#"{{"custom_id":"row-{n:08}","variables":{{"n":{n},"note":""#);
        fill(&mut text, n, end - 4);
        text.push_str("\"}}\n");
    }
    Bytes::from(text)
}

/// Appends words, which ones `seed` decides, until `text` is `length` bytes long.
fn fill(text: &mut String, seed: u32, length: usize) {
    const WORDS: [&str; 16] = [
        "printer ",
        "order ",
        "since Monday ",
        "blank ",
        "again ",
        "the ",
        "invoice ",
        "please ",
        "cannot ",
        "open ",
        "twice ",
        "charged ",
        "my ",
        "account ",
        "still ",
        "page ",
    ];
    let mut dice = Dice::new(seed);
    while text.len() < length {
        text.push_str(WORDS[(dice.roll() >> 60) as usize]);
    }
    text.truncate(length);
}

/// Appends words of those, which ones `dice` decide, until `text` is `length` bytes long.
fn fill_from(text: &mut String, dice: &mut Dice, length: usize, words: &[&str]) {
    while text.len() < length {
        let at = (dice.roll() >> 32) as usize % words.len().max(1);
        text.push_str(words.get(at).copied().unwrap_or("word"));
        text.push(' ');
    }
    text.truncate(length);
}

/// Numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn new(seed: u32) -> Self {
        Self(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }
}
