//! Work that keeps a processor busy for long: compiling templates and rendering them on request.
//!
//! Little of it runs at the same time, so that many such requests wait for each other and not everything else for them.

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

use crate::problem::Problem;

/// Works at the same time.
const AT_ONCE: usize = 4;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

/// Runs `work` beside the runtime's threads, when there is a place.
///
/// # Errors
/// `internal` when it panics.
pub(crate) async fn heavy<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let place = PLACES.acquire().await.map_err(Problem::internal)?;
    holding(place, work).await.map_err(|_| Problem::internal("work on a template panicked"))
}

/// Runs `work` beside the runtime's threads. What is `held` for it is held to its end, also when nobody waits for it any more.
///
/// # Errors
/// When it panics.
pub(crate) async fn holding<T: Send + 'static>(
    held: impl Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    spawn_blocking(move || {
        let _held = held;
        work()
    })
    .await
}

#[cfg(test)]
mod tests;
