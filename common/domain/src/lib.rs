//! The pure core: what a batch, a chunk's head, an item and its outcome are, and what may happen to them.
//!
//! Nothing here awaits, reads a clock, rolls a die, logs or touches I/O. Time, ids and jitter are arguments.
//! Start at [`head::Head::apply`]: every promise about an item is a fact about that function.

pub mod batch;
pub mod budget;
pub mod chat;
pub mod chunk;
pub mod endpoint;
pub mod estimate;
pub mod event;
pub mod fairness;
pub mod fallback;
pub mod filter;
pub mod head;
pub mod ids;
pub mod money;
pub mod outcome;
pub mod price;
pub mod rate;
pub mod report;
pub mod schedule;
pub mod verdict;

pub use batch::{
    Batch, BatchEvent, BatchLimits, BatchSpec, BatchState, CacheScope, Counts, PauseReason, RetryOf,
    StoreReplies, TemplateRef, TickRef, Webhook,
};
pub use budget::{Budget, BudgetScope, Period, TenantCosts};
pub use chat::{Message, ModelRef, ModelSettings, Role};
pub use endpoint::{Endpoint, EndpointSecret, EndpointState, Failing, Reached, SealedHeaders, WhyDisabled};
pub use event::{Event, EventKind, Milestone};
pub use fallback::{Chain, Fallback, FallbackModel, FallbackOn, MaxPrice};
pub use filter::{ItemFilter, OutcomeName};
pub use head::{ChunkState, Head, HeadEvent, ParkedItem, Refusal, Release, RowsRef, SettledItem};
pub use ids::{
    BatchId, ChunkId, DeliveryId, EndpointId, EventId, GenerationId, ItemId, KeyId, LaneId, LeaseToken,
    RowSetId, ScheduleId, SessionId, TemplateId, TenantId, UploadId,
};
pub use money::Money;
pub use outcome::{Attempt, Call, Ending, FailureKind, Flag, ItemCode, Outcome, Output, Tokens, Totals};
pub use price::{InvalidPrice, OwnPrice, Price, own_price};
pub use report::{BatchReport, SlowReason, WorkerReport};
pub use schedule::{Schedule, ScheduleState, Tick, TickState};
pub use verdict::{Reason, Verdict};
