//! Server-sent events (the HTML standard's `text/event-stream`), written by hand: a comment, or an event with its id and data.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;

/// How long a stream says nothing before it shows that it lives.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(15);

/// A comment, which readers pass over.
pub(crate) const PING: Bytes = Bytes::from_static(b": ping\n\n");

/// How soon a reader whose connection broke may come back.
pub(crate) const RETRY: Bytes = Bytes::from_static(b"retry: 3000\n\n");

/// An event. `name` and `id` have no line breaks; those of `data` reach the reader as line feeds.
pub(crate) fn event(name: &str, id: Option<&str>, data: &str) -> Bytes {
    let mut text = String::with_capacity(data.len() + name.len() + 64);
    text.push_str("event: ");
    text.push_str(name);
    if let Some(id) = id {
        text.push_str("\nid: ");
        text.push_str(id);
    }
    let data = data.replace("\r\n", "\n");
    for line in data.split(['\n', '\r']) {
        text.push_str("\ndata: ");
        text.push_str(line);
    }
    text.push_str("\n\n");
    text.into()
}

/// An answer that streams events. It ends cleanly when the stream does.
pub(crate) fn response(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures_util::StreamExt as _;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        // Asks proxies that know it not to hold events back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(events.map(Ok::<_, std::convert::Infallible>))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_over_several_lines_stays_one_event() {
        let text = event("batch", Some("3.14"), "{\r\n\"a\": 1\n}\r[]");
        assert_eq!(text, "event: batch\nid: 3.14\ndata: {\ndata: \"a\": 1\ndata: }\ndata: []\n\n");
        assert_eq!(event("begin", None, ""), "event: begin\ndata: \n\n");
    }
}
