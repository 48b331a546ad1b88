//! The operating system's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use promptmill_ports::Clock;

/// Wall time as the operating system tells it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        // A clock before 1970 is a clock that was never set; zero keeps every due time in the past, so work goes on.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
