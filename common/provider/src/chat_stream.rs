//! Reads the streamed chat reply of OpenAI's API, shared by OpenRouter and the compatible servers.
//!
//! A reply is whole with `[DONE]`, or when the stream ends in order behind a `finish_reason` (some servers write no `[DONE]`, others no
//! reason). A stream that ends without either was cut: compatible servers tell a failure in the middle in no other way. An event with an `error` is
//! the last one that is read, since nobody says that `[DONE]` follows it.

use promptmill_domain::{FailureKind, Flag, Money, Tokens};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chat::{ChatReply, ChatRequest, Delta, DeltaSink, Finish};
use crate::endpoint::Endpoint;
use crate::error_body::ErrorFacts;
use crate::failure::{CallFailure, with_limits};
use crate::gathered::Gathered;
use crate::http::{Incoming, MAX_STREAM_BYTES, WholeReply};
use crate::reply::{self, Answered, Classify, Content, IgnoredText};
use crate::sse::EventReader;
use crate::surrogates;

const DONE: &[u8] = b"[DONE]";

/// Makes a call of OpenAI's API and reads its reply, or the error that came instead.
pub(crate) async fn call(
    endpoint: &Endpoint,
    request: &ChatRequest,
    body: Vec<u8>,
    classify: Classify,
    error_reply: fn(&WholeReply) -> CallFailure,
) -> Result<ChatReply, CallFailure> {
    let incoming = endpoint.chat(request, body).await?;
    let limits = incoming.limits();
    let result = if incoming.is_success() {
        receive(incoming, request.deltas.as_ref(), classify).await
    } else {
        Err(error_reply(&incoming.read_error().await))
    };
    with_limits(result, limits)
}

/// Reads a 2xx reply to its end: streamed to `deltas` where they are wanted, else whole.
async fn receive(
    mut incoming: Incoming,
    deltas: Option<&DeltaSink>,
    classify: Classify,
) -> Result<ChatReply, CallFailure> {
    let Some(deltas) = deltas else {
        return reply::read(&incoming.read_whole().await?, classify);
    };
    if incoming.content_type() != "text/event-stream" {
        // A server that takes no notice of `stream`, or something that is no reply at all.
        let reply = reply::read(&incoming.read_whole().await?, classify)?;
        deltas.send(Delta::Text(&reply.content));
        return Ok(reply);
    }
    incoming.check_head(MAX_STREAM_BYTES)?;
    let mut stream = ReplyStream::new(incoming.status(), incoming.generation(), deltas.clone(), classify);
    let mut events = EventReader::default();
    while let Some(piece) = incoming.chunk(MAX_STREAM_BYTES).await? {
        match events.push(&piece, |data| stream.event(data)) {
            Ok(None) => {}
            Ok(Some(Ok(()))) => {
                incoming.read_tail(MAX_STREAM_BYTES).await;
                return stream.conclude();
            }
            Ok(Some(Err(failure))) => return Err(failure),
            Err(_) => {
                let message = "an event of the stream is larger than we read";
                return Err(stream.failure(FailureKind::ReplyTooLarge, message));
            }
        }
    }
    match events.finish(|data| stream.event(data)) {
        // An event that was cut is a cut stream, not a foreign protocol, unless nothing else ever came.
        Some(Err(failure)) if failure.kind != FailureKind::MalformedReply || stream.gathered.is_empty() => {
            Err(failure)
        }
        Some(Ok(())) => stream.conclude(),
        Some(Err(_)) | None if stream.finish.is_some() => stream.conclude(),
        Some(Err(_)) | None => {
            Err(stream.failure(FailureKind::MalformedReply, "the stream ended before the model was done"))
        }
    }
}

/// A reply being gathered from its chunks.
struct ReplyStream {
    status: u16,
    classify: Classify,
    gathered: Gathered,
    finish: Option<String>,
    refused: bool,
    usage: Option<Tokens>,
    cost: Option<Money>,
    generation: Option<String>,
    surrogates_replaced: bool,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u64,
    #[serde(default)]
    delta: Option<ChunkDelta>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ChunkDelta {
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    refusal: Option<IgnoredText>,
}

impl ReplyStream {
    fn new(status: u16, generation: Option<String>, deltas: DeltaSink, classify: Classify) -> Self {
        Self {
            status,
            classify,
            gathered: Gathered::telling(Some(deltas)),
            finish: None,
            refused: false,
            usage: None,
            cost: None,
            generation,
            surrogates_replaced: false,
        }
    }

    /// Takes the data of one event: `Some(Ok)` when the reply is whole, `Some(Err)` when there will be none.
    fn event(&mut self, data: &[u8]) -> Option<Result<(), CallFailure>> {
        let data = data.trim_ascii();
        if data.is_empty() {
            return None;
        }
        if data.starts_with(DONE) {
            return Some(Ok(()));
        }
        if let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) {
            return self.take(chunk).err().map(Err);
        }
        let mended = surrogates::replace_lone(data);
        match mended.as_deref().map(serde_json::from_slice::<Chunk<'_>>) {
            Some(Ok(chunk)) => {
                self.surrogates_replaced = true;
                self.take(chunk).err().map(Err)
            }
            Some(Err(_)) | None => {
                let message = format!("an event of {} bytes is not the JSON the protocol says", data.len());
                Some(Err(self.failure(FailureKind::MalformedReply, &message)))
            }
        }
    }

    fn take(&mut self, chunk: Chunk<'_>) -> Result<(), CallFailure> {
        if let Some((usage, cost)) = chunk.usage.map(|raw| reply::read_usage(raw.get())) {
            // Some servers count along in every chunk: the last word holds.
            self.usage = usage.or(self.usage);
            self.cost = cost.or(self.cost);
        }
        if let Some(id) = chunk.id.and_then(|raw| reply::short_text(raw.get())) {
            self.generation = Some(id);
        }
        let choice = chunk.choices.unwrap_or_default().into_iter().find(|choice| choice.index == 0);
        let error = chunk.error.or_else(|| choice.as_ref().and_then(|choice| choice.error));
        if let Some(error) = error {
            let failure = (self.classify)(ErrorFacts::from_error(error.get()), self.status, None);
            return Err(self.told(failure));
        }
        let Some(choice) = choice else {
            return Ok(());
        };
        if choice.finish_reason.as_deref() == Some("error") {
            let message = "the generation ended with an error that is not told";
            return Err(self.failure(FailureKind::ProviderError, message));
        }
        if let Some(delta) = choice.delta {
            self.gathered.push(&delta.content.unwrap_or_default().0);
            self.refused |= delta.refusal.is_some_and(|refusal| refusal.0);
        }
        self.finish = choice.finish_reason.or(self.finish.take());
        Ok(())
    }

    fn conclude(&mut self) -> Result<ChatReply, CallFailure> {
        let (content, cut) = self.gathered.take();
        let flags = if self.surrogates_replaced { vec![Flag::SurrogatesReplaced] } else { Vec::new() };
        let finish = Finish::from_wire(self.finish.as_deref());
        Answered {
            content,
            cut,
            finish,
            refused: self.refused,
            usage: self.usage,
            cost: self.cost,
            generation: self.generation.take(),
            status: self.status,
            flags,
        }
        .conclude()
    }

    fn failure(&self, kind: FailureKind, message: &str) -> CallFailure {
        self.told(CallFailure::new(kind, message).with_status(self.status))
    }

    /// A failed generation may still be charged: what is known about it goes along.
    fn told(&self, mut failure: CallFailure) -> CallFailure {
        failure.usage = self.usage;
        failure.cost = self.cost;
        failure.generation.clone_from(&self.generation);
        failure
    }
}
