//! The one clock: wall time for what is stored and shown. Waits and deadlines use the runtime's monotonic time.

/// Tells wall time.
pub trait Clock: Send + Sync {
    /// Now, in Unix milliseconds.
    fn now_ms(&self) -> u64;
}
