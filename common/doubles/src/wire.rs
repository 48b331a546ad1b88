//! What goes out for one call: status, headers, the pieces of the body and how it ends.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::time::{Sleep, sleep};

use crate::ledger::{Delivery, RunningCall};
use crate::socket::Line;

pub(crate) const JSON: &str = "application/json";

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As HTTP wants it.
    Complete,
    /// The connection is closed before the body is whole.
    Closed,
    /// The connection is reset before the body is whole.
    Reset,
}

/// A reply before it is put on a connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) ending: Ending,
    /// Whether the length is declared beforehand; what is declared is the length of all pieces and, where the ending
    /// is not complete, one more byte.
    pub(crate) sized: bool,
    /// Whether each piece is sent on its own.
    pub(crate) apart: bool,
    /// How long each piece is waited for.
    pub(crate) pause: Duration,
    pub(crate) delivery: Delivery,
}

impl Answer {
    /// One whole body.
    pub(crate) fn whole(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type,
            headers: Vec::new(),
            pieces: vec![body.into()],
            ending: Ending::Complete,
            sized: true,
            apart: false,
            pause: Duration::ZERO,
            delivery: Delivery { ok: status == 200, ..Delivery::default() },
        }
    }

    /// A body of lines or events that comes as it is made.
    pub(crate) fn stream(content_type: &'static str, pieces: Vec<String>) -> Self {
        let pieces = pieces.into_iter().map(Bytes::from).collect();
        Self { pieces, sized: false, ..Self::whole(200, content_type, Bytes::new()) }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((HeaderName::from_static(name), value.into()));
        self
    }

    /// The same, broken off in the middle: half of the bytes, then `ending`.
    pub(crate) fn broken(mut self, ending: Ending) -> Self {
        let body = self.pieces.concat();
        self.pieces = vec![Bytes::copy_from_slice(&body[..body.len() / 2])];
        self.ending = ending;
        self.apart = true;
        self.delivery = Delivery::default();
        self
    }

    /// The same in three to five pieces that end anywhere.
    pub(crate) fn dribbled(mut self, chance: u64) -> Self {
        let body = Bytes::from(self.pieces.concat());
        let piece = body.len() / (3 + (chance % 3) as usize) + 1;
        self.pieces =
            (0..body.len()).step_by(piece).map(|at| body.slice(at..body.len().min(at + piece))).collect();
        self.apart = true;
        self
    }

    /// The same in three to five pieces that come `pause` after one another.
    pub(crate) fn dripping(self, chance: u64, pause: Duration) -> Self {
        Self { pause, ..self.dribbled(chance) }
    }

    /// Puts the answer on `line`; `call` ends when it has left, or when the connection breaks.
    pub(crate) fn respond(self, line: Arc<Line>, call: Option<RunningCall>) -> Response<ReplyBody> {
        let length: usize = self.pieces.iter().map(Bytes::len).sum();
        let missing = usize::from(self.ending != Ending::Complete);
        let body = ReplyBody {
            pieces: self.pieces.into_iter(),
            ending: self.ending,
            apart: self.apart,
            flushing: false,
            pause: self.pause,
            waiting: None,
            line,
            call,
        };
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(self.status).expect("every status made here has three digits");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if self.sized {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length + missing));
        }
        for (name, value) in self.headers {
            headers
                .insert(name, HeaderValue::try_from(value).expect("header values made here are plain ASCII"));
        }
        response
    }
}

/// The body of a reply.
pub(crate) struct ReplyBody {
    pieces: std::vec::IntoIter<Bytes>,
    ending: Ending,
    apart: bool,
    flushing: bool,
    pause: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    line: Arc<Line>,
    call: Option<RunningCall>,
}

/// The body was broken off on purpose; hyper closes the connection when it meets this.
#[derive(Debug)]
pub(crate) struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken off on purpose")
    }
}

impl std::error::Error for BrokenOff {}

impl From<Infallible> for BrokenOff {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl ReplyBody {
    fn finish(&mut self) {
        if self.ending == Ending::Complete
            && let Some(call) = self.call.take()
        {
            self.line.deliver_with_next_write(call);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        if this.apart && std::mem::take(&mut this.flushing) {
            // hyper writes out what it has whenever the body has nothing ready.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !this.pause.is_zero() && this.pieces.len() > 0 {
            let pause = this.pause;
            ready!(this.waiting.get_or_insert_with(|| Box::pin(sleep(pause))).as_mut().poll(context));
            this.waiting = None;
        }
        if let Some(piece) = this.pieces.next() {
            this.flushing = true;
            if this.is_end_stream() {
                this.finish();
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match this.ending {
            Ending::Complete => {
                this.finish();
                Poll::Ready(None)
            }
            Ending::Closed => Poll::Ready(Some(Err(BrokenOff))),
            Ending::Reset => {
                this.line.reset.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(BrokenOff)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ending == Ending::Complete && self.pieces.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        // The length is declared in the headers, where it may be untrue.
        SizeHint::default()
    }
}
