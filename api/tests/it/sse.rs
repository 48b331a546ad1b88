//! Reads server-sent events as a browser would.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::{Response, StatusCode};
use serde_json::Value;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

/// A stream of events being read.
pub(crate) struct Events {
    bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    read: String,
}

impl Events {
    pub(crate) fn of(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { bytes: response.bytes_stream().boxed(), read: String::new() }
    }

    /// The next event; `None` at the end of the stream, which must be a clean one.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.read.find("\n\n") {
                let block: String = self.read.drain(..end + 2).collect();
                if let Some(event) = parsed(&block) {
                    return Some(event);
                }
            }
            let piece = self.bytes.next().await?.unwrap();
            self.read.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// Every event up to the end.
    pub(crate) async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parsed(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let prefix = format!("{name}: ");
        let lines: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix(prefix.as_str())).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    };
    let data = serde_json::from_str(&field("data")?).unwrap();
    Some(Event { name: field("event").unwrap(), id: field("id"), data })
}
