//! Money that is set aside for a call before it begins, and settled when it is over.

use std::sync::Arc;

use promptmill_domain::Money;

/// What a call came to that money was set aside for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CameTo {
    /// It did not begin.
    Nothing,
    /// It cost this much.
    Cost(Money),
    /// Nobody knows: it may have cost what was set aside.
    Unknown,
}

/// Whoever set money aside.
pub trait Account: Send + Sync {
    /// The call is over that `aside` was set aside for.
    fn settle(&self, aside: Money, came_to: CameTo);
}

/// Money set aside for one call. Dropped before the call begins it is given back; dropped while the call is under way it counts as spent, since the
/// provider may have answered.
#[must_use]
#[derive(Default)]
pub struct SetAside {
    of: Vec<(Arc<dyn Account>, Money)>,
    begun: bool,
}

impl SetAside {
    /// Money of one account more.
    pub fn and(mut self, account: Arc<dyn Account>, aside: Money) -> Self {
        self.of.push((account, aside));
        self
    }

    /// What is set aside of each account.
    pub fn amount(&self) -> Money {
        self.of.iter().map(|(_, aside)| *aside).max().unwrap_or_default()
    }

    /// The call begins.
    pub(crate) fn begin(&mut self) {
        self.begun = true;
    }

    /// The call is over.
    pub(crate) fn settle(mut self, came_to: CameTo) {
        for (account, aside) in self.of.drain(..) {
            account.settle(aside, came_to);
        }
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let came_to = if self.begun { CameTo::Unknown } else { CameTo::Nothing };
        for (account, aside) in self.of.drain(..) {
            account.settle(aside, came_to);
        }
    }
}
