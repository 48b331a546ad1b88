//! The calls of one process that wait for leave of a lane that learns.
//!
//! Leave comes in blocks from the lane's state, wherever that is kept ([`PaceDesk`]), and is good for a moment only; what calls came to
//! goes back the same way. One task a lane speaks with the desk, so that many calls cost few words.

mod line;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::LaneId;
use promptmill_domain::rate::{Ask, Ended, Grant, LaneState, LaneView, Learned, Moment};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::line::{Begun, Line, Waiting};
use crate::hub_ports::{CallNeed, Denied, HubError, LaneReport, Permit, PermitEnd};

/// How soon the desk is asked again that was away.
const AWAY: Duration = Duration::from_millis(200);

/// Where a lane's state is.
#[async_trait]
pub trait PaceDesk: Send + Sync + 'static {
    /// Tells how this process uses the lane, and asks for leave.
    ///
    /// # Errors
    /// When the desk cannot be reached; what was told counts as not told.
    async fn exchange(&self, told: &Told, ask: &Ask) -> Result<Exchanged, HubError>;
}

/// What a process tells of its calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Those that ended.
    pub ends: Vec<Ended>,
    /// Leave that was not used.
    pub unused: u32,
    /// The tokens that were reserved with each of them.
    pub tokens_each: u32,
    /// Calls under way.
    pub running: u32,
    /// Those of them of which nothing was heard for much longer than calls take: others may take their places.
    pub late: u32,
}

impl Told {
    /// Whether there is nothing to tell.
    pub fn is_nothing(&self) -> bool {
        self.ends.is_empty() && self.unused == 0 && self.running == 0
    }
}

/// What the desk answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exchanged {
    /// The lane's time.
    pub now: Moment,
    /// Leave.
    pub grant: Grant,
    /// Calls need no leave.
    pub is_free: bool,
    /// How the lane stands.
    pub view: LaneView,
    /// What it learned.
    pub learned: Learned,
}

impl Exchanged {
    /// What a state says at that moment beside the leave it gave.
    pub fn of(state: &LaneState, now: Moment, grant: Grant) -> Self {
        Self { now, grant, is_free: state.is_free(now), view: state.view(now), learned: state.learned() }
    }
}

/// Why a call may not begin.
#[derive(Debug)]
pub enum NotNow {
    /// It is denied.
    Denied(Denied),
    /// It makes way for one that is more urgent ([`Pace::make_way`]): it lets go of its place, and waits for another one.
    MakesWay,
}

impl From<Denied> for NotNow {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<HubError> for NotNow {
    fn from(error: HubError) -> Self {
        Self::Denied(error.into())
    }
}

/// The calls of one process on one lane.
pub struct Pace {
    lane: LaneId,
    line: Mutex<Line>,
    /// Wakes the keeper, which holds it without the rest.
    kick: Arc<Notify>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Pace {
    /// The calls of this process on `lane`, whose state is at `desk`. To be made within a runtime: the keeper is a task of it, which ends
    /// with this value.
    pub fn new(lane: LaneId, desk: impl PaceDesk) -> Arc<Self> {
        let kick = Arc::new(Notify::new());
        let pace =
            Arc::new(Self { lane, line: Mutex::default(), kick: kick.clone(), keeper: Mutex::default() });
        let keeper = tokio::spawn(keep(Arc::downgrade(&pace), kick, desk));
        *pace.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        pace
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        // Every critical section here leaves whole values, also when it panics.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for leave. `place` is what the call holds beside it, and is given back with it.
    ///
    /// # Errors
    /// When the lane is paused meanwhile, the desk is away, or the call is to make way.
    pub async fn acquire(
        self: &Arc<Self>,
        need: CallNeed,
        now_ms: u64,
        place: impl Send + Sync + 'static,
    ) -> Result<Permit, NotNow> {
        let come = {
            let mut line = self.lock();
            if line.waits() == 0
                && let Some(begun) = line.begin(Instant::now())
            {
                drop(line);
                return Ok(self.permit(begun, place));
            }
            let (answer, come) = oneshot::channel();
            line.join(need.is_interactive, Waiting { now_ms, tokens: need.tokens, answer });
            self.kick.notify_one();
            come
        };
        let mut turn = Turn { pace: self, come };
        let begun =
            (&mut turn.come).await.unwrap_or_else(|_| Err(HubError("the hub has ended".into()).into()))?;
        Ok(self.permit(begun, place))
    }

    fn permit(self: &Arc<Self>, begun: Begun, place: impl Send + Sync + 'static) -> Permit {
        let pace = self.clone();
        Permit::new(move |end| {
            pace.ended(begun, end);
            drop(place);
        })
    }

    /// One that waits, and is not interactive, lets go of its place, where there is one: somebody else can make more of it.
    pub fn make_way(&self) -> bool {
        let last = self.lock().last();
        last.is_some_and(|last| last.answer.send(Err(NotNow::MakesWay)).is_ok())
    }

    /// Nobody begins before `until_ms`; those who wait learn of it.
    pub fn pause(&self, until_ms: u64) {
        let early = self.lock().who_is_early(until_ms);
        for waiting in early {
            // Who no longer waits need not know.
            let _ = waiting.answer.send(Err(Denied::Paused { until_ms }.into()));
        }
    }

    /// How the lane stands, if it was used.
    pub fn report(&self) -> Option<LaneReport> {
        let line = self.lock();
        let (at, known) = line.known()?;
        let mut view = known.view;
        view.stands_still = view.stands_still.saturating_sub(at.elapsed());
        Some(LaneReport { lane: self.lane.clone(), view, learned: known.learned, waiting: line.waits() })
    }

    fn ended(&self, begun: Begun, end: PermitEnd) {
        if self.lock().end(&begun, end) {
            self.kick.notify_one();
        }
    }

    fn is_away(&self, error: &HubError, told: Told) {
        let text = error.0.to_string();
        let waiting = self.lock().is_away(told);
        for waiting in waiting {
            let _ = waiting.answer.send(Err(HubError(text.clone().into()).into()));
        }
    }
}

/// One who waits. Leave that comes just when it gives up is given back.
struct Turn<'a> {
    pace: &'a Arc<Pace>,
    come: oneshot::Receiver<Result<Begun, NotNow>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.come.close();
        if let Ok(Ok(begun)) = self.come.try_recv() {
            self.pace.ended(begun, PermitEnd::Unused);
        }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keeper.take() {
            keeper.abort();
        }
    }
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("lane", &self.lane).finish_non_exhaustive()
    }
}

async fn keep(pace: Weak<Pace>, kick: Arc<Notify>, desk: impl PaceDesk) {
    loop {
        let now = Instant::now();
        let Some(due) = pace.upgrade().map(|pace| pace.lock().due(now)) else { return };
        if due > now {
            let _ = tokio::time::timeout_at(due, kick.notified()).await;
            continue;
        }
        let Some(pace) = pace.upgrade() else { return };
        let (told, ask) = pace.lock().speak(now);
        match desk.exchange(&told, &ask).await {
            Ok(exchanged) => pace.lock().apply(now, ask.tokens_each, exchanged),
            Err(error) => {
                pace.is_away(&error, told);
                drop(pace);
                tokio::time::sleep(AWAY).await;
            }
        }
    }
}
