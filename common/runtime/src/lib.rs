//! From configuration to running parts: providers, store and hub behind their ports, the clock, logs, and shutdown.
//!
//! The roles get an [`Engine`] and know nothing about which store or hub is behind it. Start at [`Engine::embedded`] for one process, and at
//! [`fleet`] for several.

mod clock;
mod close;
pub mod doctor;
mod engine;
mod files;
pub mod fleet;
mod lanes;
mod metrics;
mod monitor;
pub mod places;
mod preflight;
pub mod presence;
mod prices;
mod providers;
mod shutdown;
mod telemetry;

pub use clock::SystemClock;
pub use close::close_batch;
pub use engine::{Engine, EngineError};
pub use files::raise_file_limit;
pub use lanes::LaneKeeper;
pub use metrics::Metrics;
pub use monitor::Monitor;
pub use preflight::{Asking, PreflightError, preflight};
pub use presence::Presence;
pub use promptmill_settings::Settings;
pub use providers::{ProviderError, ProviderSettings, Providers, install_tls};
pub use shutdown::shutdown_signals;
pub use telemetry::{LogFormat, init_telemetry};
