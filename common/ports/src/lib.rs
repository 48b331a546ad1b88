//! The ports: what the roles need of a store and of a hub, cut by transition.
//!
//! The store is the truth, the hub is a hint. Each store method is one atomic step; its documentation says what may be
//! repeated and what a caller does when the result is unknown. The in-memory [`hub`] is the reference model of the hub
//! ports and what one process runs on; [`conformance`] (feature `conformance`) is what every backend must pass.

pub mod body;
pub mod budgets;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
pub mod finding;
pub mod flow;
pub mod hub;
pub mod hub_ports;
pub mod lanes;
pub mod reading;
pub mod records;
pub mod replies;
pub mod schedules;
pub mod store;
pub mod transfer;

pub use body::{CorruptBody, decode_body, decode_outcome, encode_body, encode_outcome};
pub use budgets::{BudgetRecord, Budgets, change_budget};
pub use clock::Clock;
pub use error::{StoreError, StoreResult};
pub use finding::{Finding, Verdict};
pub use hub::MemoryHub;
pub use hub_ports::{
    CallNeed, CallReport, Denied, HubError, LaneReport, Limiter, Permit, PermitEnd, Queue, Signal, Signals,
};
pub use lanes::{LaneRecord, Lanes};
pub use reading::{
    BatchFilter, BatchPage, BlockIds, BlockRow, OutcomePage, PageLimit, Part, Progress, Read, Rows,
    SettledCursor, SettledPage, StoredOutcome, Usage,
};
pub use records::{
    Accounts, ApiKey, Attempted, Claim, Claimed, Claims, Deliveries, Delivery, DeliveryAttempt,
    DeliveryState, Endpoints, Generation, Generations, MOST_TEMPLATE_LABELS, Records, Replay, Role,
    StoredAnswer, StoredTemplate, TemplateKey, TemplateLabel, TemplateLabels, TemplateVersion, Templates,
    Tenant,
};
pub use replies::{Outlived, Replies, ReplyKey};
pub use schedules::{
    MOST_ROW_SET_VERSIONS, Origin, Recurring, RowSet, RowSetVersion, RowSets, Schedules, TickKey, Ticks,
};
pub use store::{
    Accepted, Admission, Assignment, BeatAnswer, Close, Control, Created, Intake, Lease, NewBatch, Outbox,
    PartCommit, Retention, RowBlock, SAFE_FOR, SessionBeat, Sessions, SettleGroup, Settled, Store,
    WholeBatch, Work,
};
pub use transfer::{Beside, Installation, KeptClaim, Transfer};
