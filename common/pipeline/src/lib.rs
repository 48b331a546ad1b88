//! What happens to one item: render, permit, call, judge, then repair or retry, until it settles or has to wait long.
//!
//! Used by the worker, by `promptmill run`, and for immediate generations. It stores nothing: its answer is an [`ItemEnd`].
//! Start at [`Pipeline::run`].

mod attempt;
mod cache;
mod gate;
mod history;
mod lane;
mod leave;
mod limit;
mod pipeline;
mod places;
mod plan;
mod purse;
mod retry;
mod set_aside;
mod standing;
mod treasury;

pub use cache::ReplyCache;
pub use gate::Gate;
pub use pipeline::{ItemContent, ItemEnd, ItemInput, Pipeline};
pub use places::Concurrency;
pub use plan::{BatchPlan, CompiledTemplate, PlanError};
pub use retry::RetryPolicy;
pub use set_aside::{Account, CameTo, SetAside};
pub use standing::{Stage, Standing};
pub use treasury::{OwnLimit, Purses, Treasury};
