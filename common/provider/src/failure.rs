//! Why a call gave no usable reply, and what the caller may do about it.

use std::fmt;
use std::time::Duration;

use promptmill_domain::rate::RateHints;
use promptmill_domain::{FailureKind, Money, Tokens};

use crate::chat::ChatReply;
use crate::scrub::clean;

/// A call without a usable reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFailure {
    /// The cause.
    pub kind: FailureKind,
    /// In words, the provider's own where it gave some: one line of at most 500 characters without control characters or
    /// anything that looks like a key. Never a prompt or a reply of ours.
    pub message: String,
    /// The HTTP status on the wire, where there was one; 200 for an error that was told inside a 200.
    pub status: Option<u16>,
    /// How long the provider asked to wait, at most an hour.
    pub retry_after: Option<Duration>,
    /// Whether the cause holds for every call of the lane, so that the whole lane should pause.
    pub lane_wide: bool,
    /// Whether the same call may end better later. The provider's word where it gave one, else the kind's.
    pub transient: bool,
    /// Tokens the failed call was charged for, where the provider reported them.
    pub usage: Option<Tokens>,
    /// Cost of the failed call, where the provider reported it, or else whoever knows the price.
    pub cost: Option<Money>,
    /// Whether the provider did not report the cost.
    pub cost_is_estimate: bool,
    /// The provider's own id of the generation.
    pub generation: Option<String>,
    /// What the provider told of its limits beside, where it did.
    pub limits: Option<Box<RateHints>>,
}

impl CallFailure {
    /// A failure of this kind that concerns this call alone and is as transient as its kind; the message is cleaned.
    pub fn new(kind: FailureKind, message: impl AsRef<str>) -> Self {
        Self {
            kind,
            message: clean(message.as_ref()),
            status: None,
            retry_after: None,
            lane_wide: false,
            transient: kind.is_transient(),
            usage: None,
            cost: None,
            cost_is_estimate: false,
            generation: None,
            limits: None,
        }
    }

    /// The same with the HTTP status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}

/// The result of a call with what the provider told of its limits beside.
pub(crate) fn with_limits(
    result: Result<ChatReply, CallFailure>,
    limits: RateHints,
) -> Result<ChatReply, CallFailure> {
    let limits = (!limits.is_empty()).then(|| Box::new(limits));
    match result {
        Ok(reply) => Ok(ChatReply { limits, ..reply }),
        Err(failure) => Err(CallFailure { limits, ..failure }),
    }
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)
    }
}

impl std::error::Error for CallFailure {}
