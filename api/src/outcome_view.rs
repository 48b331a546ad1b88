//! An outcome with its whole history as JSON: what one item and one immediate generation show.

use promptmill_domain::{
    Attempt, Call, Ending, FailureKind, Flag, Money, Outcome, OutcomeName, Output, Tokens,
};
use promptmill_rowio::OutcomeRecord;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::time::Time;

/// How the names of outcomes and of reasons stand in the document: the closed lists they are.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident, $all:expr) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let names = $all.map(|name| name.as_str());
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
            }
        }

        impl ToSchema for $name {}
    };
}

names!(
    /// How an item ended.
    OutcomeNames,
    OutcomeName::ALL
);
names!(
    /// Why an item failed.
    ReasonNames,
    FailureKind::ALL
);

/// Tokens of one call or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct TokensView {
    /// Tokens of the prompt.
    pub(crate) prompt: u64,
    /// Tokens of the reply, reasoning included.
    pub(crate) completion: u64,
}

impl From<Tokens> for TokensView {
    fn from(tokens: Tokens) -> Self {
        Self { prompt: tokens.prompt, completion: tokens.completion }
    }
}

/// One call of a provider.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CallView {
    /// When it began.
    started_at: Time,
    /// How long it took.
    duration_ms: u32,
    /// Why its reply was not accepted, where it was not.
    #[schema(value_type = Option<ReasonNames>, inline)]
    failure: Option<FailureKind>,
    /// HTTP status, where there was one.
    status: Option<u16>,
    /// What was wrong, in words.
    problems: Vec<String>,
    /// The raw reply, where the batch keeps it (`store_replies`).
    reply: Option<String>,
    /// Tokens, as the provider reported them.
    tokens: TokensView,
    /// Cost in US dollars: as the provider reported it, or else as the tokens and the price of the model make it, where that is known.
    #[schema(value_type = Option<String>)]
    cost: Option<Money>,
    /// Whether the provider did not report the cost.
    cost_is_estimate: bool,
    /// The provider's own id of the reply.
    generation: Option<String>,
    /// The model, where it is not the batch's first.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Whether nobody was called: the cache had the reply.
    cached: bool,
}

impl From<Call> for CallView {
    fn from(call: Call) -> Self {
        Self {
            started_at: Time(call.started_ms),
            duration_ms: call.duration_ms,
            failure: call.failure,
            status: call.status,
            problems: call.problems,
            reply: call.reply,
            tokens: call.tokens.into(),
            cost: call.cost,
            cost_is_estimate: call.cost_is_estimate,
            generation: call.generation,
            model: call.model.map(|model| model.to_string()),
            cached: call.is_cached,
        }
    }
}

/// One attempt: a first call and the repairs that followed it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptView {
    /// The calls in order.
    calls: Vec<CallView>,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        Self { calls: attempt.calls.into_iter().map(CallView::from).collect() }
    }
}

/// What an outcome tells, ready for a view to take over member by member.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What was delivered: JSON as it was judged, or text as a JSON string.
    pub(crate) output: Option<Box<RawValue>>,
    /// Why it failed.
    pub(crate) reason: Option<FailureKind>,
    /// The same in words.
    pub(crate) message: Option<String>,
    /// Every attempt that is kept.
    pub(crate) attempts: Vec<AttemptView>,
    /// Tokens of all calls.
    pub(crate) tokens: TokensView,
    /// Cost of all calls that told one.
    pub(crate) cost: Option<Money>,
    /// What else is to be known.
    pub(crate) flags: Vec<&'static str>,
}

impl From<Outcome> for Told {
    fn from(outcome: Outcome) -> Self {
        let record = OutcomeRecord::settled(0, &outcome);
        let (tokens, cost) = (record.tokens.into(), record.cost);
        let (output, reason, message) = match outcome.ending {
            Ending::Succeeded { output, repaired: _ } => (Some(raw(output)), None, None),
            Ending::Failed { kind, message } => (None, Some(kind), Some(message)),
        };
        Self {
            output,
            reason,
            message,
            attempts: outcome.attempts.into_iter().map(AttemptView::from).collect(),
            tokens,
            cost,
            flags: outcome.flags.into_iter().map(Flag::as_str).collect(),
        }
    }
}

fn raw(output: Output) -> Box<RawValue> {
    match output {
        Output::Json(json) => json,
        Output::Text(text) => serde_json::value::to_raw_value(&text).expect("every text is a JSON string"),
    }
}
