//! Turns among all who read results: few steps run at the same time, and whoever made one waits for the next behind the others.
//!
//! A step holds much more for a moment than what it comes to, and every thread that ever made one keeps some of it.

use promptmill_domain::TenantId;
use tokio::task::JoinError;

use crate::heavy::holding;
use crate::shares::{Share, Shares};

/// Pages read from the store at the same time; a tenant has half of them. Most who wait for outcomes find none in theirs.
const PAGES: usize = 32;

/// Steps of encoding at the same time, of which a tenant has half too. Each keeps a processor busy.
const STEPS: usize = 8;

/// The turns of one process.
pub(crate) struct Turns {
    pages: Shares,
    steps: Shares,
}

impl Default for Turns {
    fn default() -> Self {
        Self { pages: Shares::new(PAGES), steps: Shares::new(STEPS) }
    }
}

impl Turns {
    /// Waits for a turn to read from the store, which lasts until it is dropped.
    pub(super) async fn page(&self, tenant: &TenantId) -> Share {
        self.pages.take(tenant, 1).await
    }

    /// Does `work` in a turn of its own, beside the runtime's threads.
    ///
    /// # Errors
    /// When it panics.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        tenant: &TenantId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        holding(self.steps.take(tenant, 1).await, work).await
    }
}
