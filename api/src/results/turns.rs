//! Turns among all who read results: few steps run at the same time, and whoever has read one page waits for the next behind the others.
//!
//! A step holds much more for a moment than what it comes to, and every thread that ever took one keeps some of it.

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{JoinError, spawn_blocking};

/// Steps at the same time.
const STEPS: usize = 4;

static TURNS: Semaphore = Semaphore::const_new(STEPS);

/// Waits for a turn, which lasts until it is dropped.
pub(super) async fn turn() -> Option<SemaphorePermit<'static>> {
    // It is never closed.
    TURNS.acquire().await.ok()
}

/// Does `work` in a turn of its own, beside the runtime's threads.
///
/// # Errors
/// When it panics.
pub(super) async fn work<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let turn = turn().await;
    spawn_blocking(move || {
        // Held to its end also when nobody waits for it any more.
        let _turn = turn;
        work()
    })
    .await
}
