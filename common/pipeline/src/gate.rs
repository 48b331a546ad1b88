//! Whether work may begin.

use async_trait::async_trait;

/// Leave to go on with a batch. It closes when the batch is paused or cancelled, its budget is spent, the session missed its
/// beats, or the process stops.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Whether a call may begin now. Asked before each call.
    fn is_open(&self) -> bool;

    /// Waits until it is closed; may never return.
    async fn closed(&self);

    /// A call of the batch is over and cost this much.
    fn spent(&self, totals: &promptmill_domain::Totals);
}
