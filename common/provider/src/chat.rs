//! The one shape every provider is called by: what is asked, what comes back, and the trait between.
//!
//! A request borrows its parts by `Arc`, since the rows of a batch share the model, the settings and the schema.

use std::sync::Arc;

use async_trait::async_trait;
use promptmill_domain::rate::RateHints;
use promptmill_domain::{Flag, Message, ModelSettings, Money, Price, Tokens};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::failure::CallFailure;

/// One call to make.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// The name the provider knows the model by.
    pub model: Arc<str>,
    /// The conversation so far, rendered.
    pub messages: Vec<Message>,
    /// Sampling settings and pass-through options.
    pub settings: Arc<ModelSettings>,
    /// What the provider is asked to constrain the reply to.
    pub format: ResponseFormat,
    /// Stable for one item over all of its calls; only the demo provider draws from it.
    pub seed_hint: u64,
    /// An opaque marker of the item, sent as `X-Client-Request-Id` where it is visible ASCII of at most 128 bytes.
    pub item_key: Arc<str>,
    /// Which attempt at the item the call belongs to.
    pub attempt: u32,
    /// Who wants the reply's text as it comes; the call is streamed then where the provider can.
    pub deltas: Option<DeltaSink>,
}

/// A piece of a reply on its way. What was told is a foretaste: only the [`ChatReply`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta<'a> {
    /// A call begins; the text of a call before it is void.
    Begin,
    /// The next piece of text.
    Text(&'a str),
}

/// Takes the pieces of a reply. Called from the task that reads the reply, so it must not block.
#[derive(Clone)]
pub struct DeltaSink(Arc<dyn Fn(Delta<'_>) + Send + Sync>);

impl DeltaSink {
    /// A sink that hands each piece to `take`.
    pub fn new(take: impl Fn(Delta<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Hands a piece on.
    pub fn send(&self, delta: Delta<'_>) {
        (self.0)(delta);
    }
}

impl std::fmt::Debug for DeltaSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeltaSink")
    }
}

/// What the provider is asked to constrain a reply to. A provider may do so badly: the reply is judged all the same.
#[derive(Debug, Clone, Default)]
pub enum ResponseFormat {
    /// Free text.
    #[default]
    Text,
    /// Any JSON value.
    Json,
    /// JSON that a schema accepts.
    Schema(Arc<ResponseSchema>),
}

/// A JSON Schema with the name some providers ask for.
#[derive(Debug, Clone)]
pub struct ResponseSchema {
    /// Any text; what a provider would not take as a name is replaced when it is sent.
    pub name: String,
    /// The schema.
    pub schema: Value,
    /// The same as text, made once: it goes with every call.
    pub(crate) text: Box<RawValue>,
}

impl ResponseSchema {
    /// A schema that is sent as it is.
    pub fn new(name: String, schema: Value) -> Self {
        let text =
            to_raw_value(&schema).expect("a JSON value has string keys and is written without failing");
        Self { name, schema, text }
    }
}

/// Why a reply ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Finish {
    /// The model was done, or came to a stop text.
    #[default]
    Stop,
    /// The output limit or the context was reached: the content is cut.
    Length,
    /// The provider's filter cut the content.
    ContentFilter,
    /// The model called a tool.
    ToolCalls,
    /// A reason we do not know.
    Other(String),
}

impl Finish {
    /// Reads a provider's word; an absent one counts as [`Finish::Stop`], which is how several local servers end.
    pub(crate) fn from_wire(word: Option<&str>) -> Self {
        match word {
            None | Some("" | "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence") => Self::Stop,
            Some("length" | "max_tokens") => Self::Length,
            Some("content_filter") => Self::ContentFilter,
            Some("tool_calls" | "function_call") => Self::ToolCalls,
            Some(other) => Self::Other(other.chars().filter(|c| !c.is_control()).take(64).collect()),
        }
    }
}

/// A complete reply with content; whether the content is any good is for the caller to judge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatReply {
    /// The text, not empty; cut at [`crate::MAX_REPLY_CONTENT_BYTES`], with [`Flag::ReplyCut`] then.
    pub content: String,
    /// Why it ended; at [`Finish::Length`] the content is cut.
    pub finish: Finish,
    /// Tokens, where the provider reported them.
    pub usage: Option<Tokens>,
    /// Cost, where the provider reported it, or else whoever knows the price.
    pub cost: Option<Money>,
    /// Whether the provider did not report the cost.
    pub cost_is_estimate: bool,
    /// The provider's own id of the generation.
    pub generation: Option<String>,
    /// HTTP status.
    pub status: u16,
    /// What the provider told of its limits beside, where it did.
    pub limits: Option<Box<RateHints>>,
    /// What else the reader of the outcome should know.
    pub flags: Vec<Flag>,
}

/// A model a provider offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelListing {
    /// The name to call it by.
    pub id: String,
    /// The most tokens of prompt and reply together.
    pub context_length: Option<u32>,
    /// The most tokens of one reply.
    pub max_completion_tokens: Option<u32>,
    /// Price of one prompt token.
    pub prompt_price: Option<Money>,
    /// Price of one token of the reply.
    pub completion_price: Option<Money>,
    /// Price of a call beside its tokens, where there is one.
    pub request_price: Option<Money>,
    /// Whether some endpoint constrains replies by a schema, where the provider says.
    pub structured_outputs: Option<bool>,
}

impl ModelListing {
    /// The price, where the list tells it.
    pub fn price(&self) -> Option<Price> {
        let request = self.request_price.unwrap_or_default();
        Some(Price { prompt: self.prompt_price?, completion: self.completion_price?, request })
    }
}

/// What a provider tells of a credential that it takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Credential {
    /// What may still be spent with it; `None` where that has no limit, or is not told.
    pub left: Option<Money>,
}

/// A provider with one credential: what a lane is made of.
#[async_trait]
pub trait ChatProvider: Send + Sync {
    /// The provider's name in our configuration, the part of a model reference before the colon.
    fn name(&self) -> &str;

    /// The name, not the secret, of the credential the calls are made with.
    fn credential_name(&self) -> &str;

    /// Where the calls go, a URL without secrets; empty where they go nowhere.
    fn server(&self) -> String {
        String::new()
    }

    /// Makes one call and reads its whole reply; never retries by itself. Dropping the future gives the call up.
    ///
    /// # Errors
    /// A reply that is absent, broken, empty, cut before any content or larger than we read.
    async fn chat(&self, request: &ChatRequest) -> Result<ChatReply, CallFailure>;

    /// Lists the models the provider offers.
    ///
    /// # Errors
    /// As for a call.
    async fn models(&self) -> Result<Vec<ModelListing>, CallFailure>;

    /// Whether its list of models tells prices.
    fn lists_prices(&self) -> bool {
        false
    }

    /// Asks whether the credential is taken, at no cost. The list of models tells, except where it is shown to anyone.
    ///
    /// # Errors
    /// As for a call.
    async fn check_credential(&self) -> Result<Credential, CallFailure> {
        self.models().await.map(|_| Credential::default())
    }
}
