//! Work in several steps, whose client may go away in the middle.
//!
//! Up to its point of no return such work ends with its client: nothing was done. From there on it goes on to its end, so that nobody has
//! to clean up behind a client that was too impatient, and a repeat of the request finds it whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::task::AbortHandle;

use crate::frame::RequestContext;
use crate::problem::{Problem, ProblemId};

const CHECKING: u8 = 0;
const DOING: u8 = 1;
const LEFT: u8 = 2;

/// From where on work goes on without its client.
#[derive(Debug, Clone)]
pub(crate) struct PointOfNoReturn(Arc<AtomicU8>);

impl PointOfNoReturn {
    /// Goes beyond it; may be called again.
    ///
    /// # Errors
    /// When the client left before: nothing must be done.
    pub(crate) fn pass(&self) -> Result<(), Problem> {
        match self.0.compare_exchange(CHECKING, DOING, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) | Err(DOING) => Ok(()),
            // Nobody reads this, and it is not kept as the answer to repeats.
            Err(_) => Err(Problem::new(ProblemId::Unavailable).detail("the client left")),
        }
    }
}

/// The client's side of it.
struct Client {
    point: PointOfNoReturn,
    work: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        let Self { point, work } = self;
        if point.0.compare_exchange(CHECKING, LEFT, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            work.abort();
        }
    }
}

/// Does `work`, which is told its point of no return and goes beyond it before it changes anything.
///
/// # Errors
/// Those of the work; `internal` when it panics.
pub(crate) async fn to_its_end<T, F>(work: impl FnOnce(PointOfNoReturn) -> F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Problem>> + Send + 'static,
{
    let point = PointOfNoReturn(Arc::new(AtomicU8::new(CHECKING)));
    let working = tokio::spawn(RequestContext::current().around(work(point.clone())));
    let _client = Client { point, work: working.abort_handle() };
    working.await.unwrap_or_else(|_| Err(Problem::internal("a handler panicked")))
}

#[cfg(test)]
mod tests;
