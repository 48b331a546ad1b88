//! The expressions in which a case writes its bytes (corpus/README.md): small in the file, large only when the case runs.

use std::io::Write as _;

use serde_json::Value;

/// What stands for something that is known only when a case runs, such as `<<CANARY_URL>>`.
pub(crate) struct Tokens(Vec<(&'static str, String)>);

impl Tokens {
    pub(crate) fn new(tokens: Vec<(&'static str, String)>) -> Self {
        Self(tokens)
    }

    fn fill(&self, text: &str) -> String {
        let filled = |text: String, (token, value): &(&str, String)| text.replace(token, value);
        if text.contains("<<") { self.0.iter().fold(text.to_owned(), filled) } else { text.to_owned() }
    }

    /// The bytes an expression stands for.
    pub(crate) fn bytes(&self, expression: &Value) -> Vec<u8> {
        let Value::Object(members) = expression else {
            return self
                .fill(expression.as_str().expect("an expression is a text or an object"))
                .into_bytes();
        };
        let number =
            |name: &str| members.get(name).and_then(Value::as_u64).map(|n| usize::try_from(n).unwrap());
        let (kind, inner) = members.iter().next().expect("an expression has a member");
        match kind.as_str() {
            "repeat" => self.bytes(inner).repeat(number("times").expect("repeat needs times")),
            "concat" => inner.as_array().unwrap().iter().flat_map(|part| self.bytes(part)).collect(),
            "count" => {
                let text = String::from_utf8(self.bytes(inner)).unwrap();
                let between = members.get("between").and_then(Value::as_str).unwrap_or_default();
                let one = |n: usize| text.replace("{n}", &n.to_string()).replace("{m}", &(n + 1).to_string());
                let all: Vec<String> = (0..number("times").expect("count needs times")).map(one).collect();
                all.join(between).into_bytes()
            }
            "hex" => {
                let digits = inner.as_str().unwrap().as_bytes();
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
                digits.chunks(2).map(byte).collect()
            }
            "gzip" => gzip(&self.bytes(inner)),
            "zstd" => zstd(&self.bytes(inner), number("window_log")),
            "json" => self.json(inner),
            other => panic!("{other:?} is no expression"),
        }
    }

    /// The text an expression stands for.
    pub(crate) fn text(&self, expression: &Value) -> String {
        String::from_utf8(self.bytes(expression)).unwrap()
    }

    /// JSON whose objects `{"$text": ...}` become strings and `{"$raw": ...}` stand as they are.
    pub(crate) fn json(&self, value: &Value) -> Vec<u8> {
        let mut written = Vec::new();
        self.write_json(value, &mut written);
        written
    }

    fn write_json(&self, value: &Value, written: &mut Vec<u8>) {
        match value {
            Value::String(text) => serde_json::to_writer(written, &self.fill(text)).unwrap(),
            Value::Array(elements) => {
                written.push(b'[');
                for (n, element) in elements.iter().enumerate() {
                    written.extend_from_slice(if n > 0 { b"," } else { b"" });
                    self.write_json(element, written);
                }
                written.push(b']');
            }
            Value::Object(members) => {
                if let Some(raw) = members.get("$raw") {
                    return written.extend(self.bytes(raw));
                }
                if let Some(text) = members.get("$text") {
                    return serde_json::to_writer(written, &self.text(text)).unwrap();
                }
                written.push(b'{');
                for (n, (key, member)) in members.iter().enumerate() {
                    written.extend_from_slice(if n > 0 { b"," } else { b"" });
                    serde_json::to_writer(&mut *written, key).unwrap();
                    written.push(b':');
                    self.write_json(member, written);
                }
                written.push(b'}');
            }
            plain => serde_json::to_writer(written, plain).unwrap(),
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8], window_log: Option<usize>) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    if let Some(log) = window_log {
        encoder.window_log(u32::try_from(log).unwrap()).unwrap();
    }
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn expressions_make_the_bytes_they_say() {
    let tokens = Tokens::new(vec![("<<KEY>>", "secret".to_owned())]);
    for (expression, expected) in [
        (r#""a <<KEY>>""#, &b"a secret"[..]),
        (r#"{"repeat": "ab", "times": 3}"#, b"ababab"),
        (r#"{"concat": ["a", {"hex": "00ff"}]}"#, b"a\x00\xff"),
        (r#"{"count": "k{n}>{m}", "times": 2, "between": ","}"#, b"k0>1,k1>2"),
        (
            r#"{"json": {"b": {"$text": {"repeat": "\"", "times": 2}}, "a": [{"$raw": "[ ]"}, "<<KEY>>", 1.5]}}"#,
            br#"{"b":"\"\"","a":[[ ],"secret",1.5]}"#,
        ),
    ] {
        let expression = serde_json::from_str(expression).unwrap();
        assert_eq!(String::from_utf8_lossy(&tokens.bytes(&expression)), String::from_utf8_lossy(expected));
    }
}
