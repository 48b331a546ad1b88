//! Whether work may begin.

use async_trait::async_trait;
use promptmill_domain::{FailureKind, ModelRef, Price, Tokens, Totals};

use crate::set_aside::SetAside;

/// Leave to go on with a batch. It closes when the batch is paused or cancelled, its budget is spent, the session missed its
/// beats, or the process stops.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Whether a call may begin now. Asked before each call.
    fn is_open(&self) -> bool;

    /// Waits until it is closed; may never return.
    async fn closed(&self);

    /// The provider takes no call under this credential, whatever the row: the batch should stand still until somebody mended that. Answers
    /// whether it does; where it does not, the item fails.
    fn refused(&self, kind: FailureKind, message: &str) -> bool;

    /// What a model costs, where that is known.
    fn price(&self, _model: &ModelRef) -> Option<Price> {
        None
    }

    /// Whether money is a matter: without a limit nothing is set aside.
    fn has_limit(&self) -> bool {
        false
    }

    /// Sets aside what a call of a model and of about so many tokens may cost, as soon as there is money for it; never returns where a limit is
    /// spent, and then the gate closes.
    async fn set_aside(&self, _model: &ModelRef, _about: Tokens) -> SetAside {
        SetAside::default()
    }

    /// Whether what was set aside is as much as would be now: before the first calls are over nobody may know what they cost.
    fn covers(&self, _aside: &SetAside, _model: &ModelRef, _about: Tokens) -> bool {
        true
    }

    /// A call of the model is over and took this much, or the cache gave a reply instead.
    fn spent(&self, model: &ModelRef, totals: &Totals);
}
