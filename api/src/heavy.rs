//! Work that keeps a processor busy for long: compiling templates and rendering them on request.
//!
//! Little of it runs at the same time, so that many such requests wait for each other and not everything else for them.

use tokio::sync::Semaphore;

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
    let working = tokio::task::spawn_blocking(move || {
        // Held to the end of the work also when nobody waits for it any more.
        let _place = place;
        work()
    });
    working.await.map_err(|_| Problem::internal("work on a template panicked"))
}

#[cfg(test)]
mod tests;
