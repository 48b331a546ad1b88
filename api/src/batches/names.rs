//! How closed lists of words stand in the OpenAPI document.

use promptmill_domain::EventKind;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// A type that stands for one of these words in the document alone.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $all:expr) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some($all)).into()
            }
        }

        impl ToSchema for $name {}
    };
}

/// The states of a batch.
pub(crate) const STATES: [&str; 10] = [
    "draft",
    "submitting",
    "queued",
    "running",
    "paused",
    "cancelling",
    "expiring",
    "completed",
    "cancelled",
    "expired",
];

words!(
    /// Where a batch stands.
    StateNames,
    STATES
);
words!(
    /// Which raw replies are kept.
    RepliesNames,
    ["none", "failed", "all"]
);
words!(
    /// Among whose rows a reply is given again to a request that is the same.
    CacheNames,
    ["batch", "tenant"]
);
words!(
    /// When the next model is asked.
    FallbackNames,
    ["unavailable", "over_rate", "invalid"]
);
words!(
    /// Why a batch is not faster.
    LimitNames,
    [
        "paused",
        "budget",
        "suspect",
        "no_workers",
        "worker_slots",
        "max_concurrency",
        "lane_limit",
        "shared_reply",
        "retry_delay",
        "queued",
    ]
);
words!(
    /// Why a batch stands still.
    PauseNames,
    ["requested", "budget", "tenant_budget", "suspect"]
);
words!(
    /// What happened.
    EventNames,
    EventKind::ALL.map(EventKind::as_str)
);
words!(
    /// Why an endpoint is not told.
    DisabledNames,
    ["requested", "gone", "failing"]
);
words!(
    /// Where a delivery stands.
    DeliveryNames,
    ["pending", "delivered", "given_up"]
);
