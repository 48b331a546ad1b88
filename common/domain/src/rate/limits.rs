//! What is said about a lane from outside, and what is worth keeping of what it learned.

use serde::{Deserialize, Serialize};

/// Limits that an operator set. What is not set is learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneLimits {
    /// Calls that may begin in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and replies in a minute.
    pub tokens_per_minute: Option<u32>,
    /// Calls that may run at the same time.
    pub concurrency: Option<u32>,
}

/// What a lane learned and a process that begins anew should know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learned {
    /// Calls a second that were found to be taken; nothing where no limit was met.
    pub per_s: Option<f64>,
    /// Calls that may come at once after a rest.
    pub burst: Option<f64>,
    /// Calls at the same time that were found to be taken; nothing where no limit was met.
    pub concurrency: Option<u32>,
}
