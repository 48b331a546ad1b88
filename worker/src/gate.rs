//! Whether this process may begin anything.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// No call begins when the last beat that succeeded was sent longer ago than this. A scheduler declares a session dead after six
/// seconds, so a process that was stopped and continued stops itself first.
pub(crate) const BEAT_TRUSTED_FOR: Duration = Duration::from_secs(4);

/// Open while the process lives and is not stopping.
#[derive(Debug)]
pub(crate) struct SessionGate {
    stopping: CancellationToken,
    last_beat: Mutex<Instant>,
}

impl SessionGate {
    pub(crate) fn new(stopping: CancellationToken) -> Self {
        Self { stopping, last_beat: Mutex::new(Instant::now()) }
    }

    /// A beat that was sent at `sent` was stored.
    pub(crate) fn beat_stored(&self, sent: Instant) {
        *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner) = sent;
    }

    pub(crate) fn is_open(&self) -> bool {
        let last = *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner);
        !self.stopping.is_cancelled() && last.elapsed() <= BEAT_TRUSTED_FOR
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }
}
