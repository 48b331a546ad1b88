//! Turns among all who read results: few steps run at the same time, and whoever made one waits for the next behind the others.
//!
//! A step holds much more for a moment than what it comes to, and every thread that ever made one keeps some of it.

use promptmill_domain::TenantId;
use tokio::task::{JoinError, spawn_blocking};

use crate::shares::{Share, Shares};

/// Steps at the same time; a tenant has half of them.
const STEPS: usize = 8;

/// The turns of one process.
pub(crate) struct Turns(Shares);

impl Default for Turns {
    fn default() -> Self {
        Self(Shares::new(STEPS))
    }
}

impl Turns {
    /// Waits for a turn, which lasts until it is dropped.
    pub(super) async fn wait(&self, tenant: &TenantId) -> Share {
        self.0.take(tenant, 1).await
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
        let turn = self.wait(tenant).await;
        spawn_blocking(move || {
            // Held to its end also when nobody waits for it any more.
            let _turn = turn;
            work()
        })
        .await
    }
}
