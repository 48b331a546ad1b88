//! What judging a reply says.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong with a reply, in words a model can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// JSON Pointer (RFC 6901) into the reply; empty for the reply as a whole.
    pub pointer: String,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
}

impl Reason {
    /// A reason about the place `pointer`.
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }

    /// A reason about the reply as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        Self::at("", message)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.pointer, self.message)
        }
    }
}

/// The judgement of one reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The reply is what was asked for.
    Accept,
    /// The model may do better when told these reasons.
    Repair(Vec<Reason>),
    /// Final: asking again would not help.
    Reject(Vec<Reason>),
}
