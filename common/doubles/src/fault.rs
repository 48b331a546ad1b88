//! The faults a double can make, and what each means for whoever called.

use serde::{Deserialize, Serialize};

use crate::config::Provider;
use crate::request::{Asked, Format};

/// What a refusal says about when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    /// Nothing.
    Absent,
    /// Whole seconds.
    Seconds(u32),
    /// An HTTP date that lies more than this many, and at most one more, seconds ahead (dates have whole seconds).
    Date(u32),
}

/// One way a call goes wrong.
///
/// A fault that the provider or the kind of request cannot show is replaced by its nearest relative, or left out;
/// the ledger records what was really done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// 429.
    RateLimited(RetryAfter),
    /// 503; on Ollama the text of a full queue.
    Overloaded(RetryAfter),
    /// 408.
    RequestTimeout,
    /// 500.
    ServerError,
    /// 502.
    BadGateway,
    /// 504.
    GatewayTimeout,
    /// 524, an edge network's timeout.
    EdgeTimeout,
    /// 529, the provider behind the router is overloaded.
    ProviderOverloaded,
    /// 200 whose body is an error object without choices.
    ErrorReply,
    /// 200 whose choice carries partial text and an error object.
    ErrorChoice,
    /// 200 whose choice says `finish_reason: "error"` and nothing more.
    ErrorFinish,
    /// The body ends early: a declared length that is not reached, or a stream in good order without its last part.
    Cut,
    /// The connection is reset in the middle of the body.
    ResetMidBody,
    /// The stream ends with an error event or line after some text; from a compatible server with an empty chunk instead, as several do.
    ErrorMidStream,
    /// The stream ends after some text with an event that holds an error and nothing else.
    ErrorEvent,
    /// A good stream without its closing `[DONE]`.
    NoDone,
    /// A complete reply with the text `""`.
    EmptyContent,
    /// A complete reply with `null` for text.
    NullContent,
    /// A complete reply without a choice.
    NoChoices,
    /// Text cut at the output limit, and said so.
    Truncated,
    /// 200 that claims JSON and is not.
    NotJson,
    /// 200 with a web page.
    Html,
    /// 200 with plain words and `text/plain`.
    WrongContentType,
    /// The connection is reset before any byte of the reply.
    ResetBeforeReply,
    /// A good reply after a long wait.
    SlowFirstByte,
    /// No byte until [`crate::Config::hang`] has passed, then a reset.
    Hang,
    /// A good reply in uneven pieces that split lines and characters.
    Dribble,
    /// JSON that breaks the schema until the conversation shows the model its reply and a further user message.
    InvalidReply,
    /// JSON that breaks the schema whatever the conversation says.
    StubbornReply,
    /// Good JSON inside a Markdown fence.
    Fenced,
    /// Good JSON between two sentences.
    InProse,
    /// Half a surrogate pair, escaped, in the outer JSON.
    SurrogateInReply,
    /// Half a surrogate pair, escaped, in the JSON the model wrote.
    SurrogateInContent,
    /// A complete reply the provider's content filter stopped.
    Filtered,
    /// 400, the request is malformed.
    BadRequest,
    /// 400, the prompt is longer than the model accepts.
    ContextTooLong,
    /// 401.
    Unauthorized,
    /// 402.
    PaymentRequired,
    /// 403 by moderation (OpenRouter), else by rights.
    Moderated,
    /// 404, nothing serves the model.
    UnknownModel,
    /// 400 on OpenRouter, which knows no model of this name; 404 elsewhere.
    UnknownModelId,
    /// 413.
    TooLarge,
    /// A good reply in pieces, each [`crate::Config::drip`] after the one before.
    Drip,
    /// 200 with 100 MB of a JSON text that does not end, half of the time without a declared length.
    Huge,
    /// 200 with a good reply that says to be gzip and is 100 MB of blanks, packed.
    GzipBomb,
    /// A good reply under an id that every such reply has.
    SameId,
    /// A reply whose count of tokens is `NaN`, which no JSON parser takes.
    NotANumber,
}

impl Fault {
    /// The name in ledgers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RateLimited(RetryAfter::Absent) => "rate_limited",
            Self::RateLimited(RetryAfter::Seconds(_)) => "rate_limited_seconds",
            Self::RateLimited(RetryAfter::Date(_)) => "rate_limited_date",
            Self::Overloaded(_) => "overloaded",
            Self::RequestTimeout => "request_timeout",
            Self::ServerError => "server_error",
            Self::BadGateway => "bad_gateway",
            Self::GatewayTimeout => "gateway_timeout",
            Self::EdgeTimeout => "edge_timeout",
            Self::ProviderOverloaded => "provider_overloaded",
            Self::ErrorReply => "error_reply",
            Self::ErrorChoice => "error_choice",
            Self::ErrorFinish => "error_finish",
            Self::Cut => "cut",
            Self::ResetMidBody => "reset_mid_body",
            Self::ErrorMidStream => "error_mid_stream",
            Self::ErrorEvent => "error_event",
            Self::NoDone => "no_done",
            Self::EmptyContent => "empty_content",
            Self::NullContent => "null_content",
            Self::NoChoices => "no_choices",
            Self::Truncated => "truncated",
            Self::NotJson => "not_json",
            Self::Html => "html",
            Self::WrongContentType => "wrong_content_type",
            Self::ResetBeforeReply => "reset_before_reply",
            Self::SlowFirstByte => "slow_first_byte",
            Self::Hang => "hang",
            Self::Dribble => "dribble",
            Self::InvalidReply => "invalid_reply",
            Self::StubbornReply => "stubborn_reply",
            Self::Fenced => "fenced",
            Self::InProse => "in_prose",
            Self::SurrogateInReply => "surrogate_in_reply",
            Self::SurrogateInContent => "surrogate_in_content",
            Self::Filtered => "filtered",
            Self::BadRequest => "bad_request",
            Self::ContextTooLong => "context_too_long",
            Self::Unauthorized => "unauthorized",
            Self::PaymentRequired => "payment_required",
            Self::Moderated => "moderated",
            Self::UnknownModel => "unknown_model",
            Self::UnknownModelId => "unknown_model_id",
            Self::TooLarge => "too_large",
            Self::Drip => "drip",
            Self::Huge => "huge",
            Self::GzipBomb => "gzip_bomb",
            Self::SameId => "same_id",
            Self::NotANumber => "not_a_number",
        }
    }

    /// Whether the caller still receives a reply it can use.
    pub const fn leaves_valid_reply(self) -> bool {
        matches!(
            self,
            Self::SlowFirstByte
                | Self::Dribble
                | Self::NoDone
                | Self::Fenced
                | Self::InProse
                | Self::SurrogateInReply
                | Self::SurrogateInContent
                | Self::Drip
                | Self::SameId
        )
    }

    /// Whether the same request, made again, would be answered the same way for ever.
    pub const fn is_permanent(self) -> bool {
        matches!(
            self,
            Self::Filtered
                | Self::StubbornReply
                | Self::BadRequest
                | Self::ContextTooLong
                | Self::Unauthorized
                | Self::PaymentRequired
                | Self::Moderated
                | Self::UnknownModel
                | Self::UnknownModelId
                | Self::TooLarge
        )
    }

    /// The HTTP status, where it is not 200.
    pub(crate) const fn status(self, provider: Provider) -> Option<u16> {
        Some(match self {
            Self::RateLimited(_) => 429,
            Self::Overloaded(_) => 503,
            Self::RequestTimeout => 408,
            Self::ServerError => 500,
            Self::BadGateway => 502,
            Self::GatewayTimeout => 504,
            Self::EdgeTimeout => 524,
            Self::ProviderOverloaded => 529,
            Self::BadRequest | Self::ContextTooLong => 400,
            Self::Unauthorized => 401,
            Self::PaymentRequired => 402,
            Self::Moderated => 403,
            Self::UnknownModel => 404,
            Self::UnknownModelId => match provider {
                Provider::OpenRouter => 400,
                Provider::Ollama | Provider::OpenAi => 404,
            },
            Self::TooLarge => 413,
            _ => return None,
        })
    }

    /// What this fault looks like for the request `asked`; `None` where it would not show.
    pub(crate) fn fit(self, asked: &Asked) -> Option<Self> {
        let ollama = asked.provider == Provider::Ollama;
        let openrouter = asked.provider == Provider::OpenRouter;
        let wants_json = !matches!(asked.format, Format::Text);
        match self {
            // Ollama's lines have neither events nor a closing mark.
            Self::NoDone if ollama || !asked.stream => None,
            Self::ErrorEvent if ollama || !asked.stream => Self::ErrorMidStream.fit(asked),
            Self::InvalidReply if asked.mended => None,
            Self::InvalidReply | Self::StubbornReply if !asked.can_be_violated() => None,
            Self::Fenced | Self::InProse if !wants_json => None,
            Self::SurrogateInContent if !wants_json => Some(Self::SurrogateInReply),
            Self::ErrorReply | Self::ErrorChoice | Self::ErrorFinish if ollama && asked.stream => {
                Some(Self::ErrorMidStream)
            }
            Self::ErrorReply | Self::ErrorChoice | Self::ErrorFinish | Self::ErrorMidStream
                if ollama && !asked.stream =>
            {
                Some(Self::ServerError)
            }
            Self::ErrorReply | Self::ErrorChoice | Self::ErrorFinish if asked.stream => {
                Some(Self::ErrorMidStream)
            }
            Self::ErrorChoice | Self::ErrorFinish if !openrouter => Some(Self::ErrorReply),
            Self::ErrorMidStream if !asked.stream => {
                Some(if openrouter { Self::ErrorChoice } else { Self::ErrorReply })
            }
            Self::NullContent | Self::NoChoices if ollama || asked.stream => Some(Self::EmptyContent),
            // Ollama's replies have no id.
            Self::Filtered | Self::SameId if ollama => None,
            // A compatible server streams its counts only on demand.
            Self::NotANumber if asked.stream && !ollama && !openrouter && !asked.include_usage => {
                Some(Self::NotJson)
            }
            other => Some(other),
        }
    }
}
