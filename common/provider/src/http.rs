//! The deadlines of a call, and reading a reply within bounds.
//!
//! Compressed replies are not asked for and refused, so the bytes on the wire bound the memory of a reply.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper::{Request, Response};
use promptmill_domain::FailureKind;
use promptmill_domain::rate::RateHints;
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::{BrokenOff, Caller, ReplyBody};
use crate::failure::CallFailure;
use crate::{MAX_REPLY_WIRE_BYTES, limits, retry_after};

const JSON: &str = "application/json";

/// How much of an error body is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Every token comes in about 130 to 300 bytes of JSON and thinking is streamed too, so the wire of a stream may carry far more than
/// the content; memory is bounded by the line and the content, not by this.
pub(crate) const MAX_STREAM_BYTES: usize = 256 * 1024 * 1024;
/// How long the end of a stream's body is waited for once the reply is whole, so that the connection can be used again.
const TAIL_WAIT: Duration = Duration::from_millis(500);

/// Deadlines of one call. They end the wait for a reply, not a connection attempt ([`HttpOptions::connect`](crate::HttpOptions::connect)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From the start of the call to the reply's headers.
    pub first_byte: Duration,
    /// The longest pause between two pieces of the reply.
    pub idle: Duration,
    /// The whole call.
    pub total: Duration,
}

impl Timeouts {
    /// 600 s, 120 s, 900 s: a non-streamed reply begins when its last token is made, and one that was cut off is billed.
    pub const fn openrouter() -> Self {
        Self::seconds(600, 120, 900)
    }

    /// 600 s, 120 s, 900 s, as for OpenRouter.
    pub const fn openai_compatible() -> Self {
        Self::seconds(600, 120, 900)
    }

    /// 900 s, 120 s, 3600 s: no byte comes while a model loads (5 minutes by the server's own limit) and while the call
    /// waits for a free slot, and a small machine may write for a long time.
    pub const fn ollama() -> Self {
        Self::seconds(900, 120, 3600)
    }

    /// None of them is longer than this.
    pub fn shorten(&mut self, most: Duration) {
        for deadline in [&mut self.first_byte, &mut self.idle, &mut self.total] {
            *deadline = most.min(*deadline);
        }
    }

    const fn seconds(first_byte: u64, idle: u64, total: u64) -> Self {
        Self {
            first_byte: Duration::from_secs(first_byte),
            idle: Duration::from_secs(idle),
            total: Duration::from_secs(total),
        }
    }
}

/// A response whose headers came, with the deadlines its body is read under.
#[derive(Debug)]
pub(crate) struct Incoming {
    response: Response<ReplyBody>,
    idle: Duration,
    deadline: Instant,
    read: usize,
}

/// A body that was read to its end.
#[derive(Debug)]
pub(crate) struct WholeReply {
    pub(crate) status: u16,
    pub(crate) content_type: Cow<'static, str>,
    pub(crate) generation: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

/// Sends a request and waits for the headers of its reply.
pub(crate) async fn send(
    caller: &Caller,
    request: Request<Bytes>,
    timeouts: &Timeouts,
) -> Result<Incoming, CallFailure> {
    let started = Instant::now();
    let deadline = started + timeouts.total;
    match timeout_at(deadline.min(started + timeouts.first_byte), caller.execute(request)).await {
        Ok(response) => Ok(Incoming { response: response?, idle: timeouts.idle, deadline, read: 0 }),
        Err(_) => {
            let waited = timeouts.first_byte.min(timeouts.total).as_secs();
            Err(CallFailure::new(FailureKind::Timeout, format!("no reply began within {waited} s")))
        }
    }
}

impl Incoming {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// What the headers tell of the provider's limits.
    pub(crate) fn limits(&self) -> RateHints {
        limits::from_headers(self.response.headers(), SystemTime::now())
    }

    pub(crate) fn is_success(&self) -> bool {
        self.response.status().is_success()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The content type without its parameters, shortened; `none` where there is none.
    pub(crate) fn content_type(&self) -> Cow<'static, str> {
        let value = self.header(CONTENT_TYPE.as_str()).unwrap_or("none");
        let essence = value.split(';').next().unwrap_or(value).trim();
        // What nearly every reply is takes no memory of its own.
        if essence == JSON {
            return Cow::Borrowed(JSON);
        }
        Cow::Owned(essence.chars().take(60).collect::<String>().to_ascii_lowercase())
    }

    fn failure(&self, kind: FailureKind, message: impl AsRef<str>) -> CallFailure {
        CallFailure::new(kind, message).with_status(self.status())
    }

    /// The next piece of the body, `None` at its end.
    ///
    /// # Errors
    /// The body broke off, did not go on in time, was compressed, or passed `cap` bytes.
    pub(crate) async fn chunk(&mut self, cap: usize) -> Result<Option<Bytes>, CallFailure> {
        let idle = Instant::now() + self.idle;
        let chunk = match timeout_at(idle.min(self.deadline), self.response.body_mut().chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(BrokenOff)) => {
                let message = format!("the reply broke off after {} bytes", self.read);
                return Err(self.failure(FailureKind::MalformedReply, message));
            }
            Err(_) => {
                let message =
                    format!("the reply stopped after {} bytes and did not go on in time", self.read);
                return Err(self.failure(FailureKind::Timeout, message));
            }
        };
        self.read = self.read.saturating_add(chunk.as_ref().map_or(0, Bytes::len));
        if self.read > cap { Err(self.too_large(cap)) } else { Ok(chunk) }
    }

    /// Refuses a body that we could only read by unpacking it, or that says itself it is too large.
    pub(crate) fn check_head(&self, cap: usize) -> Result<(), CallFailure> {
        if self
            .header(CONTENT_ENCODING.as_str())
            .is_some_and(|value| !value.trim().eq_ignore_ascii_case("identity"))
        {
            return Err(self.failure(
                FailureKind::MalformedReply,
                "the reply is compressed although we did not ask for it",
            ));
        }
        if self.response.body().length().is_some_and(|length| length > cap as u64) {
            return Err(self.too_large(cap));
        }
        Ok(())
    }

    fn too_large(&self, cap: usize) -> CallFailure {
        self.failure(FailureKind::ReplyTooLarge, format!("the reply is larger than {cap} bytes"))
    }

    /// The provider's id of the generation, where a header tells it.
    pub(crate) fn generation(&self) -> Option<String> {
        self.header("x-generation-id").map(|id| id.chars().take(128).collect())
    }

    /// Reads what is left behind a reply that is whole, for a moment.
    pub(crate) async fn read_tail(&mut self, cap: usize) {
        let _ = timeout(TAIL_WAIT, async { while let Ok(Some(_)) = self.chunk(cap).await {} }).await;
    }

    /// Reads the body to its end.
    pub(crate) async fn read_whole(mut self) -> Result<WholeReply, CallFailure> {
        self.check_head(MAX_REPLY_WIRE_BYTES)?;
        let mut body = self.chunk(MAX_REPLY_WIRE_BYTES).await?.unwrap_or_default();
        if let Some(second) = self.chunk(MAX_REPLY_WIRE_BYTES).await? {
            let rest = self.response.body().length().unwrap_or(0).min(MAX_REPLY_WIRE_BYTES as u64);
            let rest = usize::try_from(rest).unwrap_or(0);
            let mut joined = Vec::with_capacity(body.len() + second.len() + rest);
            joined.extend_from_slice(&body);
            joined.extend_from_slice(&second);
            while let Some(chunk) = self.chunk(MAX_REPLY_WIRE_BYTES).await? {
                joined.extend_from_slice(&chunk);
            }
            body = joined.into();
        }
        Ok(self.into_reply(body))
    }

    /// Reads what there is of an error's body: the status alone already tells enough, so a broken body is no further error.
    pub(crate) async fn read_error(mut self) -> WholeReply {
        let mut body = Vec::new();
        if self.check_head(usize::MAX).is_ok() {
            while let Ok(Some(chunk)) = self.chunk(usize::MAX).await {
                let room = MAX_ERROR_BYTES - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if body.len() == MAX_ERROR_BYTES {
                    break;
                }
            }
        }
        self.into_reply(body.into())
    }

    fn into_reply(self, body: Bytes) -> WholeReply {
        WholeReply {
            status: self.status(),
            content_type: self.content_type(),
            generation: self.generation(),
            retry_after: retry_after::from_headers(self.response.headers(), SystemTime::now()),
            body,
        }
    }
}
