//! Doubles of the three providers' HTTP APIs, which make faults on purpose and keep a ledger of what they saw.
//!
//! Written from the providers' documentation and never from our own client, so that a test against them checks the
//! client. [`Doubles`] runs inside a test or, as the program `promptmill-doubles`, beside the processes that a test
//! kills. [`FaultProxy`] breaks any TCP connection on demand. Start at [`Config`], [`FaultPlan`] and [`Snapshot`].

mod config;
mod dialect;
mod dice;
mod fault;
mod ledger;
mod pattern;
mod plan;
mod proxy;
mod record;
mod reply;
mod request;
mod schema;
mod server;
mod socket;
mod wire;

pub use config::{Config, Latency, Provider};
pub use fault::{Fault, RetryAfter};
pub use ledger::Ledger;
pub use plan::{FaultPlan, Preset, Script, Step, Weighted};
pub use proxy::{FaultProxy, Toxic};
pub use record::{CallRecord, MarkerRecord, Snapshot, Totals};
pub use server::Doubles;
