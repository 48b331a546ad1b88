//! Which items of a batch are meant, by how they ended.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::outcome::{FailureKind, ItemCode};

/// How an item ended, without why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeName {
    /// A reply was accepted.
    Succeeded,
    /// None was.
    Failed,
    /// Sealed by a cancel.
    Cancelled,
    /// Sealed by the deadline.
    Expired,
}

impl OutcomeName {
    /// Every name.
    pub const ALL: [Self; 4] = [Self::Succeeded, Self::Failed, Self::Cancelled, Self::Expired];

    /// The name in JSON and CSV.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The name of an outcome; `None` for an open item.
    pub const fn of(code: ItemCode) -> Option<Self> {
        match code {
            ItemCode::Open => None,
            ItemCode::Succeeded | ItemCode::Repaired => Some(Self::Succeeded),
            ItemCode::Failed(_) => Some(Self::Failed),
            ItemCode::Cancelled => Some(Self::Cancelled),
            ItemCode::Expired => Some(Self::Expired),
        }
    }
}

/// Items with an outcome among `outcomes` (empty: any), and, where they failed, for one of `reasons` (empty: any). With reasons
/// and no outcomes only failed items are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ItemFilter {
    /// How they ended.
    pub outcomes: BTreeSet<OutcomeName>,
    /// Why they failed.
    pub reasons: BTreeSet<FailureKind>,
}

impl ItemFilter {
    /// Whether an item with this code is meant; an open one never is.
    pub fn matches(&self, code: ItemCode) -> bool {
        let Some(name) = OutcomeName::of(code) else { return false };
        let named = self.outcomes.contains(&name) || (self.outcomes.is_empty() && self.reasons.is_empty());
        match code {
            ItemCode::Failed(kind) if !self.reasons.is_empty() => {
                (self.outcomes.is_empty() || named) && self.reasons.contains(&kind)
            }
            _ => named,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_narrow_the_failed_and_exclude_what_was_not_asked_for() {
        let failed = |kind| ItemCode::Failed(kind);
        let filter = |outcomes: &[OutcomeName], reasons: &[FailureKind]| ItemFilter {
            outcomes: outcomes.iter().copied().collect(),
            reasons: reasons.iter().copied().collect(),
        };
        let any = filter(&[], &[]);
        assert!(any.matches(ItemCode::Repaired) && any.matches(failed(FailureKind::Timeout)));
        assert!(!any.matches(ItemCode::Open));
        let timeouts = filter(&[], &[FailureKind::Timeout]);
        assert!(timeouts.matches(failed(FailureKind::Timeout)));
        assert!(!timeouts.matches(failed(FailureKind::Internal)) && !timeouts.matches(ItemCode::Succeeded));
        let both = filter(&[OutcomeName::Failed, OutcomeName::Expired], &[FailureKind::Timeout]);
        assert!(both.matches(ItemCode::Expired) && !both.matches(failed(FailureKind::Internal)));
        let good = filter(&[OutcomeName::Succeeded], &[FailureKind::Timeout]);
        assert!(good.matches(ItemCode::Succeeded) && !good.matches(failed(FailureKind::Timeout)));
    }
}
