//! A provider that needs no network: replies made from the schema and the prompt's words, the same for the same request.
//!
//! `demo:any` (any name) replies at once; `demo:slow` after 200 to 800 ms; `demo:faulty` fails the way real providers do
//! (of 100 calls 6 rate limits, 4 server errors, 3 timeouts or lost connections, 13 replies of broken, wrong or wrapped JSON;
//! of 100 items one is always refused). Names combine: `demo:faulty-slow`. No content depends on a clock.

mod draw;
mod fault;
mod flatten;
mod pattern;
mod scalar;
mod schema;
mod words;

use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::{Money, Tokens};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::chat::{
    ChatProvider, ChatReply, ChatRequest, Delta, DeltaSink, Finish, ModelListing, ResponseFormat,
};
use crate::failure::CallFailure;
use draw::Draw;
use fault::Fault;
use schema::Generator;
use words::Words;

/// What the demo provider charges for each token: a thousandth of a millionth of a dollar.
const PRICE_PER_TOKEN: Money = Money::from_pico(1_000);
const MODELS: [&str; 4] = ["any", "slow", "faulty", "faulty-slow"];

/// The scripted provider.
#[derive(Debug, Clone)]
pub struct Demo {
    name: String,
    credential: String,
}

impl Default for Demo {
    fn default() -> Self {
        Self::new("demo", "default")
    }
}

impl Demo {
    /// A demo provider under these names of our configuration.
    pub fn new(name: impl Into<String>, credential: impl Into<String>) -> Self {
        Self { name: name.into(), credential: credential.into() }
    }
}

#[async_trait]
impl ChatProvider for Demo {
    fn name(&self) -> &str {
        &self.name
    }

    fn credential_name(&self) -> &str {
        &self.credential
    }

    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, CallFailure> {
        let is = |mode: &str| request.model.split('-').any(|word| word == mode);
        let mut draw = draw_of(request);
        let latency = if is("slow") { latency(&mut draw) } else { Duration::ZERO };
        let fault = if is("faulty") { fault::of(request) } else { None };
        if let Some(Fault::Failure(failure)) = fault {
            pause_until(Instant::now() + latency).await;
            return Err(failure);
        }
        let reply = reply(request, fault.as_ref(), draw);
        speak(&reply.content, request.deltas.as_ref(), latency).await;
        Ok(reply)
    }

    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure> {
        let listing = |name: &str| ModelListing {
            id: name.to_owned(),
            prompt_price: Some(PRICE_PER_TOKEN),
            completion_price: Some(PRICE_PER_TOKEN),
            structured_outputs: Some(true),
            ..ModelListing::default()
        };
        Ok(MODELS.map(listing).to_vec())
    }

    fn lists_prices(&self) -> bool {
        true
    }
}

/// Takes `latency` for a reply, and tells it word by word on the way where somebody listens.
async fn speak(content: &str, deltas: Option<&DeltaSink>, latency: Duration) {
    let begin = Instant::now();
    if let Some(deltas) = deltas {
        let words = content.split_inclusive(' ').count().max(1);
        for (word, text) in (0..).zip(content.split_inclusive(' ')) {
            pause_until(begin + latency.mul_f64(f64::from(word) / words as f64)).await;
            deltas.send(Delta::Text(text));
        }
    }
    pause_until(begin + latency).await;
}

/// Waits, without giving up the thread when there is nothing to wait for.
async fn pause_until(at: Instant) {
    if at > Instant::now() {
        tokio::time::sleep_until(at).await;
    }
}

/// From 200 to 800 ms.
fn latency(draw: &mut Draw) -> Duration {
    Duration::from_millis(200 + draw.below(601))
}

/// The attempt is left out: whoever asks the same again is told the same.
fn draw_of(request: &ChatRequest) -> Draw {
    let said = request
        .messages
        .iter()
        .flat_map(|message| [message.role.as_str().as_bytes(), message.content.as_bytes()]);
    Draw::from_parts(request.seed_hint, std::iter::once(request.model.as_bytes()).chain(said))
}

fn reply(request: &ChatRequest, fault: Option<&Fault>, mut draw: Draw) -> ChatReply {
    let words = Words::of(&request.messages);
    let anything = Value::Bool(true);
    let (value, schema) = match &request.format {
        ResponseFormat::Text => (None, &anything),
        ResponseFormat::Json => (Some(json!({ "answer": words.sentence(&mut draw) })), &anything),
        ResponseFormat::Schema(schema) => {
            (Some(Generator::new(&schema.schema, &words, draw.clone()).generate()), &schema.schema)
        }
    };
    let content = match (value, fault) {
        (None, _) => words.sentence(&mut draw),
        (Some(value), Some(fault)) => fault::spoil(fault, &value, schema),
        (Some(value), None) => value.to_string(),
    };
    let prompt_bytes: usize = request.messages.iter().map(|message| message.content.len()).sum();
    let usage = Tokens { prompt: tokens(prompt_bytes), completion: tokens(content.len()) };
    ChatReply {
        content,
        finish: Finish::Stop,
        usage: Some(usage),
        cost: Some(PRICE_PER_TOKEN.times(usage.total())),
        generation: Some(format!("demo-{:016x}", draw.next())),
        status: 200,
        ..ChatReply::default()
    }
}

/// About four bytes a token.
fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4)
}

#[cfg(test)]
mod tests;
