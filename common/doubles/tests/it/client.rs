//! A small HTTP client of its own, so that nothing between the test and the bytes can hide a fault.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use promptmill_doubles::{Config, Doubles, FaultPlan, Provider, Step};
use serde_json::{Value, json};

/// A test that would wait for ever fails after this.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    Closed,
    Reset,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The objects of an NDJSON body.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The `data:` payloads of an event stream.
    pub(crate) fn events(&self) -> Vec<&str> {
        self.text().split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect()
    }
}

/// A request that was sent; its reply has not been read.
pub(crate) struct Sent(TcpStream);

pub(crate) fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Sent {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let request = [head.as_bytes(), b"\r\n", body].concat();
    stream.write_all(&request).unwrap();
    Sent(stream)
}

impl Sent {
    /// The reply, or how the connection ended before any byte of it.
    pub(crate) fn read(mut self) -> Result<Reply, End> {
        let mut bytes = Vec::new();
        let mut end = None;
        let head_length = loop {
            if let Some(at) = find(&bytes, b"\r\n\r\n") {
                break at + 4;
            }
            if let Some(end) = end {
                assert!(bytes.is_empty(), "the head was cut: {bytes:?}");
                return Err(end);
            }
            end = self.more(&mut bytes);
        };
        let head = String::from_utf8(bytes.drain(..head_length).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .map(|line| {
                line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap()
            })
            .collect();
        let mut reply = Reply { status, headers, body: Vec::new(), end: End::Complete };
        let length: Option<usize> = reply.header("content-length").map(|length| length.parse().unwrap());
        loop {
            let whole = match length {
                Some(length) => bytes.len() >= length,
                None => bytes.ends_with(b"0\r\n\r\n"),
            };
            if whole || end.is_some() {
                reply.end = if whole { End::Complete } else { end.unwrap() };
                reply.body = if length.is_some() { bytes } else { unchunk(&bytes) };
                return Ok(reply);
            }
            end = self.more(&mut bytes);
        }
    }

    fn more(&mut self, bytes: &mut Vec<u8>) -> Option<End> {
        let mut buffer = [0; 4096];
        match self.0.read(&mut buffer) {
            Ok(0) => Some(End::Closed),
            Ok(length) => {
                bytes.extend_from_slice(&buffer[..length]);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Some(End::Reset),
            Err(error) => panic!("cannot read: {error}"),
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The data of a chunked body, as far as it goes.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(at) = find(bytes, b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        bytes = &bytes[at + 2..];
        data.extend_from_slice(&bytes[..size.min(bytes.len())]);
        if size == 0 || bytes.len() < size + 2 {
            break;
        }
        bytes = &bytes[size + 2..];
    }
    data
}

pub(crate) fn get(doubles: &Doubles, path: &str) -> Reply {
    send(doubles.addr(), "GET", path, &[("authorization", "Bearer key-1")], b"").read().unwrap()
}

pub(crate) fn chat_path(provider: Provider) -> &'static str {
    match provider {
        Provider::OpenRouter => "/openrouter/api/v1/chat/completions",
        Provider::Ollama => "/ollama/api/chat",
        Provider::OpenAi => "/openai/v1/chat/completions",
    }
}

pub(crate) fn send_chat(doubles: &Doubles, provider: Provider, body: &Value) -> Sent {
    let headers = [("authorization", "Bearer key-1"), ("content-type", "application/json")];
    send(doubles.addr(), "POST", chat_path(provider), &headers, body.to_string().as_bytes())
}

pub(crate) fn chat(doubles: &Doubles, provider: Provider, body: &Value) -> Reply {
    send_chat(doubles, provider, body).read().unwrap()
}

pub(crate) fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 3, "maximum": 5}},
        "required": ["city", "people"],
        "additionalProperties": false,
    })
}

/// A request for text; never streamed unless the body is changed.
pub(crate) fn ask(marker: &str) -> Value {
    json!({"model": "m", "stream": false, "messages": [{"role": "user", "content": format!("say it [[row:{marker}]]")}]})
}

/// A request for JSON under [`schema`].
pub(crate) fn ask_json(provider: Provider, marker: &str) -> Value {
    let mut body = ask(marker);
    match provider {
        Provider::Ollama => body["format"] = schema(),
        Provider::OpenRouter | Provider::OpenAi => {
            body["response_format"] = json!({
                "type": "json_schema", "json_schema": {"name": "city", "strict": true, "schema": schema()},
            });
        }
    }
    body
}

/// Shows the model its reply and asks again.
pub(crate) fn repair(mut body: Value) -> Value {
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": "{}"}));
    messages.push(json!({"role": "user", "content": "city is missing"}));
    body
}

pub(crate) fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}

/// The text of a whole reply.
pub(crate) fn content(provider: Provider, reply: &Reply) -> Value {
    match provider {
        Provider::Ollama => reply.json()["message"]["content"].clone(),
        Provider::OpenRouter | Provider::OpenAi => reply.json()["choices"][0]["message"]["content"].clone(),
    }
}

/// Whether `text` is JSON under [`schema`].
#[track_caller]
pub(crate) fn check_conforms(text: &Value) {
    let value: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert!(value["city"].is_string(), "{value}");
    assert!((3..=5).contains(&value["people"].as_i64().unwrap()), "{value}");
    assert_eq!(value.as_object().unwrap().len(), 2, "{value}");
}

pub(crate) fn start(plan: FaultPlan) -> Doubles {
    let config = Config {
        plan,
        slow_first_byte: Duration::from_millis(1),
        hang: Duration::from_millis(1),
        early_grace: Duration::ZERO,
        ..Config::default()
    };
    Doubles::start(config).unwrap()
}

/// A double whose every marker meets `step` first and nothing afterwards.
pub(crate) fn start_with(step: impl Into<Step>) -> Doubles {
    start(FaultPlan::none().script_every([step.into()]))
}

#[track_caller]
pub(crate) fn wait_until(mut met: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !met() {
        assert!(begun.elapsed() < PATIENCE, "the condition was never met");
        std::thread::yield_now();
    }
}
