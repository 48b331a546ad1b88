//! Logs: one line an event, for people or as JSON, to standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// The form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. `filter` is the syntax of `PROMPTMILL_LOG` (for example `info,promptmill_worker=debug`);
/// a filter that cannot be read falls back to warnings and says so.
pub fn init_telemetry(filter: &str, format: LogFormat) {
    let (filter, wrong) = match EnvFilter::try_new(filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("warn"), Some(error)),
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start in one process (tests) keeps the first logger.
    let _ = match format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().finish().try_init(),
    };
    if let Some(error) = wrong {
        tracing::warn!(error = %error, "the log filter in PROMPTMILL_LOG cannot be read; logging warnings only");
    }
}
