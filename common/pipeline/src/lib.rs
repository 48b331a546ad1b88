//! What happens to one item: render, permit, call, judge, then repair or retry, until it settles or has to wait long.
//!
//! Used by the worker, by `promptmill run`, and for immediate generations. It stores nothing: its answer is an [`ItemEnd`].
//! Start at [`Pipeline::run`].

mod attempt;
mod gate;
mod history;
mod lane;
mod pipeline;
mod plan;
mod retry;

pub use gate::Gate;
pub use pipeline::{ItemEnd, ItemInput, Pipeline};
pub use plan::{BatchPlan, PlanError};
pub use retry::RetryPolicy;
