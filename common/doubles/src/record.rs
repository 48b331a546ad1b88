//! What a ledger says: the same shape in a test's own process and at `GET /_ledger`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One call, in the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// Position among all calls of the double, from 0.
    pub seq: u64,
    /// When its body had arrived, microseconds since the double began (or was reset).
    pub begun_us: u64,
    /// When its reply was handed over completely or given up; `None` while it runs.
    pub ended_us: Option<u64>,
    /// Whether its conversation shows an earlier reply to the model.
    pub repair: bool,
    /// The fault it met.
    pub fault: Option<String>,
    /// Whether its reply left completely.
    pub sent: bool,
}

/// Everything seen of one marker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerRecord {
    /// Calls begun that were no repairs.
    pub calls: u64,
    /// Repair calls begun: an assistant message or more than one user message in the conversation.
    pub repair_calls: u64,
    /// Replies with status 200 that left completely, usable or not.
    pub replies_sent: u64,
    /// Those of `replies_sent` that hold what was asked for.
    pub valid_replies: u64,
    /// Calls whose reply did not leave completely: by a fault, or because the caller was gone.
    pub undelivered: u64,
    /// Calls begun after a valid reply had left completely.
    pub calls_after_valid: u64,
    /// Calls that arrived inside a pause a 429 had asked for.
    pub early_calls: u64,
    /// Tokens reported in complete replies, prompt and completion.
    pub prompt_tokens: u64,
    /// See `prompt_tokens`.
    pub completion_tokens: u64,
    /// Faults met, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<String, u64>,
    /// Every call in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<CallRecord>,
}

/// Sums over all calls, with and without a marker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Calls begun that were no repairs.
    pub calls: u64,
    /// Repair calls begun.
    pub repair_calls: u64,
    /// Those of both that carried no marker.
    pub unmarked_calls: u64,
    /// Replies with status 200 that left completely.
    pub replies_sent: u64,
    /// Those that hold what was asked for.
    pub valid_replies: u64,
    /// Calls whose reply did not leave completely.
    pub undelivered: u64,
    /// Calls of a marker begun after it had its valid reply.
    pub calls_after_valid: u64,
    /// Calls that arrived inside a pause a 429 with Retry-After had asked their credential for.
    pub early_calls: u64,
    /// Requests a real provider would have refused too; `refusals` has the reasons.
    pub refused: u64,
    /// Calls running now.
    pub in_flight: u64,
    /// The most calls that ever ran at once.
    pub max_concurrent: u64,
    /// Tokens reported in complete replies.
    pub prompt_tokens: u64,
    /// See `prompt_tokens`.
    pub completion_tokens: u64,
    /// Cost reported in complete replies, in 10^-12 US dollars.
    pub cost_pico: u64,
    /// Faults met, by name.
    pub faults: BTreeMap<String, u64>,
}

/// A ledger at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Sums over everything.
    pub totals: Totals,
    /// By marker: the text between `[[row:` and `]]`.
    pub markers: BTreeMap<String, MarkerRecord>,
    /// Why requests were refused, the first few; never a word of a prompt.
    pub refusals: Vec<String>,
}
