//! The final result of an item and the history that led to it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::chat::ModelRef;
use crate::money::Money;

/// Why an item failed, by its cause and not by what stood on the wire.
///
/// The discriminant is stored (it is part of the item's state byte), so a variant keeps its number for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FailureKind {
    /// The template could not be rendered with the row.
    RenderFailed = 0,
    /// The reply was still invalid after every repair.
    InvalidOutput = 1,
    /// A rule rejected the reply for good.
    RejectedOutput = 2,
    /// The model or its provider declined to answer (moderation, content filter, refusal).
    ContentRefused = 3,
    /// The prompt is longer than the model accepts.
    ContextTooLong = 4,
    /// The provider refused the request as malformed or unsupported.
    RequestRefused = 5,
    /// The provider refused the credential or its rights.
    CredentialRefused = 6,
    /// The account has no credit left.
    PaymentRequired = 7,
    /// The provider does not have the model.
    ModelUnavailable = 8,
    /// The provider said to slow down.
    RateLimited = 9,
    /// The provider had no capacity.
    ProviderOverloaded = 10,
    /// The provider failed on its side.
    ProviderError = 11,
    /// No complete reply within a deadline, ours or the provider's.
    Timeout = 12,
    /// No connection, or it broke before a reply began.
    ConnectionFailed = 13,
    /// The reply began and broke off, or was not what the protocol says.
    MalformedReply = 14,
    /// The reply was complete and empty.
    EmptyReply = 15,
    /// The reply was cut at the output limit.
    TruncatedReply = 16,
    /// The reply was larger than we read.
    ReplyTooLarge = 17,
    /// Working on this item alone killed its worker, repeatedly.
    WorkerKiller = 18,
    /// Our own fault.
    Internal = 19,
}

impl FailureKind {
    /// Every kind, in the order of the stored numbers.
    pub const ALL: [Self; 20] = [
        Self::RenderFailed,
        Self::InvalidOutput,
        Self::RejectedOutput,
        Self::ContentRefused,
        Self::ContextTooLong,
        Self::RequestRefused,
        Self::CredentialRefused,
        Self::PaymentRequired,
        Self::ModelUnavailable,
        Self::RateLimited,
        Self::ProviderOverloaded,
        Self::ProviderError,
        Self::Timeout,
        Self::ConnectionFailed,
        Self::MalformedReply,
        Self::EmptyReply,
        Self::TruncatedReply,
        Self::ReplyTooLarge,
        Self::WorkerKiller,
        Self::Internal,
    ];

    /// The name used in JSON, CSV, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RenderFailed => "render_failed",
            Self::InvalidOutput => "invalid_output",
            Self::RejectedOutput => "rejected_output",
            Self::ContentRefused => "content_refused",
            Self::ContextTooLong => "context_too_long",
            Self::RequestRefused => "request_refused",
            Self::CredentialRefused => "credential_refused",
            Self::PaymentRequired => "payment_required",
            Self::ModelUnavailable => "model_unavailable",
            Self::RateLimited => "rate_limited",
            Self::ProviderOverloaded => "provider_overloaded",
            Self::ProviderError => "provider_error",
            Self::Timeout => "timeout",
            Self::ConnectionFailed => "connection_failed",
            Self::MalformedReply => "malformed_reply",
            Self::EmptyReply => "empty_reply",
            Self::TruncatedReply => "truncated_reply",
            Self::ReplyTooLarge => "reply_too_large",
            Self::WorkerKiller => "worker_killer",
            Self::Internal => "internal",
        }
    }

    /// Whether a further attempt at the same item may end better.
    pub const fn is_transient(self) -> bool {
        match self {
            Self::RateLimited
            | Self::ProviderOverloaded
            | Self::ProviderError
            | Self::Timeout
            | Self::ConnectionFailed
            | Self::MalformedReply
            | Self::EmptyReply
            | Self::TruncatedReply => true,
            Self::RenderFailed
            | Self::InvalidOutput
            | Self::RejectedOutput
            | Self::ContentRefused
            | Self::ContextTooLong
            | Self::RequestRefused
            | Self::CredentialRefused
            | Self::PaymentRequired
            | Self::ModelUnavailable
            | Self::ReplyTooLarge
            | Self::WorkerKiller
            | Self::Internal => false,
        }
    }

    /// Whether the cause lies outside the row, so that other rows of the batch must be expected to fail alike.
    pub const fn dooms_batch(self) -> bool {
        matches!(
            self,
            Self::RequestRefused | Self::CredentialRefused | Self::PaymentRequired | Self::ModelUnavailable
        )
    }
}

/// Where an item stands: the one byte per item in its chunk's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ItemCode {
    /// No outcome yet.
    Open,
    /// Succeeded without a repair.
    Succeeded,
    /// Succeeded after at least one repair.
    Repaired,
    /// Failed.
    Failed(FailureKind),
    /// Sealed by a cancel.
    Cancelled,
    /// Sealed by the deadline.
    Expired,
}

impl ItemCode {
    const FAILED: u8 = 64;

    /// The stored byte.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Succeeded => 1,
            Self::Repaired => 2,
            Self::Failed(kind) => Self::FAILED + kind as u8,
            Self::Cancelled => 240,
            Self::Expired => 241,
        }
    }

    /// The code of a stored byte; `None` for a byte no release has written.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Open),
            1 => Some(Self::Succeeded),
            2 => Some(Self::Repaired),
            240 => Some(Self::Cancelled),
            241 => Some(Self::Expired),
            _ => {
                FailureKind::ALL.get(usize::from(byte.checked_sub(Self::FAILED)?)).copied().map(Self::Failed)
            }
        }
    }

    /// The name of the outcome; `open` where there is none yet.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Succeeded | Self::Repaired => "succeeded",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Tokens of one call or of several; a provider that reports nothing counts as zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the reply, reasoning included.
    pub completion: u64,
}

impl Tokens {
    /// Both added up.
    pub const fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

impl std::ops::AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.completion = self.completion.saturating_add(other.completion);
    }
}

/// One provider call of an attempt, as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// When the call began, Unix milliseconds.
    pub started_ms: u64,
    /// How long it took.
    pub duration_ms: u32,
    /// `None` when a complete reply came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<FailureKind>,
    /// HTTP status, where there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<u16>,
    /// What was wrong: the provider's words on a failed call, the reasons on an invalid reply.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub problems: Vec<String>,
    /// The raw reply, where the batch keeps it ([`StoreReplies`](crate::StoreReplies)); cut at 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply: Option<String>,
    /// Tokens as the provider reported them.
    #[serde(default)]
    pub tokens: Tokens,
    /// Cost as the provider reported it, or else as its tokens and the price of the model make it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cost: Option<Money>,
    /// Whether the cost was not reported.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub cost_is_estimate: bool,
    /// The provider's own id of the generation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub generation: Option<String>,
    /// The model, where it is not the batch's first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<ModelRef>,
    /// Whether nobody was called: the cache had the reply.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub is_cached: bool,
}

/// One attempt at an item: a first call and the repairs that followed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The calls in order.
    pub calls: Vec<Call>,
}

/// Something the reader of an outcome should know although the item succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// The JSON stood inside other text or had syntax slips, and was mended without a call.
    Mended,
    /// Half surrogates in the reply were replaced by U+FFFD.
    SurrogatesReplaced,
    /// The reply was longer than is kept (1 MiB of text), and its end is missing.
    ReplyCut,
    /// The history was shortened to stay within its size limit.
    HistoryCut,
    /// The provider did not report tokens.
    UsageUnknown,
    /// The provider did not report the cost of a call; it is the one of its tokens.
    CostEstimated,
    /// Another model than the batch's first answered.
    Fallback,
    /// The reply came from the cache and not from a call.
    Cached,
}

impl Flag {
    /// The name used in JSON and CSV.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mended => "mended",
            Self::SurrogatesReplaced => "surrogates_replaced",
            Self::ReplyCut => "reply_cut",
            Self::HistoryCut => "history_cut",
            Self::UsageUnknown => "usage_unknown",
            Self::CostEstimated => "cost_estimated",
            Self::Fallback => "fallback",
            Self::Cached => "cached",
        }
    }
}

/// What a template asked for and a judged reply delivered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// JSON, byte for byte as judged.
    Json(Box<RawValue>),
    /// Text.
    Text(String),
}

impl PartialEq for Output {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Json(a), Self::Json(b)) => a.get() == b.get(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Json(_), Self::Text(_)) | (Self::Text(_), Self::Json(_)) => false,
        }
    }
}

/// How an item that was worked on ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// A reply was accepted.
    Succeeded {
        /// What it delivered.
        output: Output,
        /// Whether it took a repair.
        repaired: bool,
    },
    /// No reply was accepted.
    Failed {
        /// Why.
        kind: FailureKind,
        /// The same in words; the provider's own where it gave some.
        message: String,
    },
}

/// The one final result of an item that was worked on, with its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The client's own id of the row.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub custom_id: Option<String>,
    /// How it ended.
    pub ending: Ending,
    /// Every attempt, in order, but for those that were cut.
    pub attempts: Vec<Attempt>,
    /// Calls of attempts that were cut to keep the history within its limit.
    #[serde(skip_serializing_if = "Totals::is_zero", default)]
    pub cut: Totals,
    /// What else the reader should know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub flags: Vec<Flag>,
}

impl Outcome {
    /// The model that answered, where it is not the batch's first: that of the last call.
    pub fn fallback_model(&self) -> Option<&ModelRef> {
        self.attempts.last()?.calls.last()?.model.as_ref()
    }
}

impl Outcome {
    /// The item's state byte for this outcome.
    pub fn code(&self) -> ItemCode {
        match &self.ending {
            Ending::Succeeded { repaired: false, .. } => ItemCode::Succeeded,
            Ending::Succeeded { repaired: true, .. } => ItemCode::Repaired,
            Ending::Failed { kind, .. } => ItemCode::Failed(*kind),
        }
    }

    /// Calls, tokens and cost over the whole history.
    pub fn totals(&self) -> Totals {
        let mut totals = self.cut;
        totals += Totals::of(&self.attempts);
        totals
    }
}

/// Sums over calls, of an item, a chunk or a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Provider calls.
    pub calls: u64,
    /// Their tokens.
    pub tokens: Tokens,
    /// Their cost as far as it is known.
    pub cost: Money,
    /// Replies that the cache gave instead of a call.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub cached: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Totals {
    /// The sums over these attempts.
    pub fn of<'a>(attempts: impl IntoIterator<Item = &'a Attempt>) -> Self {
        let mut totals = Self::default();
        for call in attempts.into_iter().flat_map(|attempt| &attempt.calls) {
            totals += Self::of_call(call);
        }
        totals
    }

    /// Those of one call.
    pub fn of_call(call: &Call) -> Self {
        let (calls, cached) = if call.is_cached { (0, 1) } else { (1, 0) };
        Self { calls, tokens: call.tokens, cost: call.cost.unwrap_or_default(), cached }
    }

    /// What a call cost on average.
    pub fn cost_per_call(&self) -> Money {
        Money::from_pico(self.cost.pico().checked_div(self.calls).unwrap_or(0))
    }

    /// Whether nothing was called, and the cache gave nothing.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.tokens += other.tokens;
        self.cost += other.cost;
        self.cached = self.cached.saturating_add(other.cached);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_its_byte_and_no_two_share_one() {
        let mut codes = vec![
            ItemCode::Open,
            ItemCode::Succeeded,
            ItemCode::Repaired,
            ItemCode::Cancelled,
            ItemCode::Expired,
        ];
        codes.extend(FailureKind::ALL.map(ItemCode::Failed));
        for code in &codes {
            assert_eq!(ItemCode::from_byte(code.byte()), Some(*code));
        }
        let known = (0..=255).filter_map(ItemCode::from_byte).count();
        assert_eq!(known, codes.len());
    }

    #[test]
    fn a_kind_has_one_name_everywhere() {
        for kind in FailureKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.as_str()));
        }
        for flag in [
            Flag::Mended,
            Flag::SurrogatesReplaced,
            Flag::ReplyCut,
            Flag::HistoryCut,
            Flag::UsageUnknown,
            Flag::CostEstimated,
            Flag::Fallback,
        ] {
            assert_eq!(serde_json::to_string(&flag).unwrap(), format!("\"{}\"", flag.as_str()));
        }
    }
}
