//! Calls of one step that come at about the same time are done together, by one set of commands.
//!
//! A call goes at once when none of its kind is under way and none was a moment ago. One that comes while others are under way goes with the
//! next group, which begins when that one has ended, and a few milliseconds after it began at the earliest, so that groups are large when
//! there is much to do ([`Queue`], which is pure). Each call has its own answer, and a group whose caller goes away is done all the same.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use promptmill_ports::{StoreError, StoreResult};
use tokio::sync::oneshot;

/// From the beginning of a group to that of the next at least, while there are several calls at a time.
const PACE: Duration = Duration::from_millis(8);
/// Calls of one group.
const CALLS: usize = 256;
/// Bytes of a group after which it takes no more: they go in one command, and are held twice meanwhile.
const BYTES: usize = 8 * 1024 * 1024;

/// What waits, and when it goes.
#[derive(Debug)]
struct Queue<T> {
    /// Calls with their bytes, in the order in which they came.
    waiting: Vec<(T, usize)>,
    /// Whether someone takes what waits.
    is_driven: bool,
    /// When the last group began.
    begun: Option<Instant>,
    /// Whether more than one call came at the time of that group.
    is_crowded: bool,
}

/// What whoever takes groups does now.
#[derive(Debug, PartialEq, Eq)]
enum Next<T> {
    /// These are a group.
    Group(Vec<T>),
    /// It looks again then.
    At(Instant),
    /// Nothing waits; the next call sets another one to it.
    Rest,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: Vec::new(), is_driven: false, begun: None, is_crowded: false }
    }
}

impl<T> Queue<T> {
    /// A call comes; answers whether someone must be set to taking groups.
    fn join(&mut self, call: T, bytes: usize) -> bool {
        self.waiting.push((call, bytes));
        !std::mem::replace(&mut self.is_driven, true)
    }

    /// What is done next. To be asked when no group is under way.
    fn next(&mut self, now: Instant) -> Next<T> {
        if self.waiting.is_empty() {
            self.is_driven = false;
            return Next::Rest;
        }
        if let Some(begun) = self.begun
            && self.is_crowded
            && now < begun + PACE
        {
            return Next::At(begun + PACE);
        }
        let mut bytes = 0;
        let fits = self.waiting.iter().take(CALLS).take_while(|(_, more)| {
            bytes += more;
            bytes <= BYTES
        });
        let rest = self.waiting.split_off(fits.count().max(1));
        let group = std::mem::replace(&mut self.waiting, rest);
        self.begun = Some(now);
        self.is_crowded = group.len() > 1;
        Next::Group(group.into_iter().map(|(call, _)| call).collect())
    }

    /// A group has ended.
    fn ended(&mut self) {
        self.is_crowded |= !self.waiting.is_empty();
    }
}

/// A call and who waits for its answer.
type Waiting<C, A> = (C, oneshot::Sender<StoreResult<A>>);

/// The calls of one step.
pub(crate) struct Together<C, A>(Mutex<Queue<Waiting<C, A>>>);

impl<C, A> Default for Together<C, A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C, A> fmt::Debug for Together<C, A> {
    /// Shows nothing of the calls, which hold what tenants sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").finish_non_exhaustive()
    }
}

impl<C, A> Together<C, A> {
    fn queue(&self) -> MutexGuard<'_, Queue<Waiting<C, A>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C, A> Together<C, A>
where
    C: Clone + Send + Sync + 'static,
    A: Send + 'static,
{
    /// Does the call by `run`, with others that come at about this time. `run` answers each of the calls it is given; when all of them fail
    /// for another reason than that the store is away, each is tried alone, since one may be to blame.
    pub(crate) async fn call<F, Fut>(self: &Arc<Self>, call: C, bytes: usize, run: F) -> StoreResult<A>
    where
        F: Fn(Arc<[C]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = StoreResult<Vec<StoreResult<A>>>> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        if self.queue().join((call, tell), bytes) {
            tokio::spawn(Driver { calls: Arc::clone(self), has_ended: false }.run(run));
        }
        told.await.unwrap_or_else(|_| Err(StoreError::unavailable("a group of calls was given up")))
    }
}

/// Whoever takes groups. Dropped before its end (with the runtime, or by a panic), it leaves nobody waiting.
struct Driver<C, A> {
    calls: Arc<Together<C, A>>,
    has_ended: bool,
}

impl<C, A> Drop for Driver<C, A> {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut queue = self.calls.queue();
            queue.is_driven = false;
            queue.waiting.clear();
        }
    }
}

impl<C: Clone, A> Driver<C, A> {
    async fn run<F, Fut>(mut self, run: F)
    where
        F: Fn(Arc<[C]>) -> Fut,
        Fut: Future<Output = StoreResult<Vec<StoreResult<A>>>>,
    {
        // Whoever makes several calls at once has made them all by then.
        tokio::task::yield_now().await;
        loop {
            let next = self.calls.queue().next(Instant::now());
            match next {
                Next::Rest => {
                    self.has_ended = true;
                    return;
                }
                Next::At(at) => tokio::time::sleep_until(at.into()).await,
                Next::Group(group) => {
                    let (calls, tells): (Vec<_>, Vec<_>) = group.into_iter().unzip();
                    let answers = answers(calls.into(), &run).await;
                    for (tell, answer) in tells.into_iter().zip(answers) {
                        // Whoever asked may be gone.
                        let _ = tell.send(answer);
                    }
                    self.calls.queue().ended();
                }
            }
        }
    }
}

async fn answers<C, A, F, Fut>(calls: Arc<[C]>, run: &F) -> Vec<StoreResult<A>>
where
    C: Clone,
    F: Fn(Arc<[C]>) -> Fut,
    Fut: Future<Output = StoreResult<Vec<StoreResult<A>>>>,
{
    let error = match run(Arc::clone(&calls)).await {
        Ok(answers) => return answers,
        Err(error) => error,
    };
    if calls.len() == 1 || matches!(error, StoreError::Unavailable(_)) {
        return calls.iter().map(|_| Err(same(&error))).collect();
    }
    let mut answers = Vec::with_capacity(calls.len());
    for call in calls.iter() {
        let alone = run([call.clone()].into()).await;
        answers.push(alone.and_then(|mut alone| alone.pop().unwrap_or_else(|| Err(same(&error)))));
    }
    answers
}

/// The error once more, for another call of its group.
fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::NotFound => StoreError::NotFound,
        StoreError::Conflict(words) => StoreError::Conflict(words.clone()),
        StoreError::Unavailable(source) => StoreError::unavailable(source.to_string()),
        StoreError::Corrupt(what) => StoreError::Corrupt(what.clone()),
    }
}

#[cfg(test)]
mod tests;
