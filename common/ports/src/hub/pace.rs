//! The calls of one process that wait for leave of a lane that learns.
//!
//! Leave comes in blocks from the lane's state, wherever that is kept ([`PaceDesk`]), and is good for a moment only; what calls came to
//! goes back the same way. One task a lane speaks with the desk, so that many calls cost few words.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::LaneId;
use promptmill_domain::rate::{Ask, CallEnd, Ended, Grant, LaneState, LaneView, Learned, Moment, RateHints};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::hub_ports::{CallNeed, Denied, HubError, LaneReport, Permit, PermitEnd};

/// How long leave may be used since it was asked for, and since it came at least.
const BLOCK_LIVES: Duration = Duration::from_millis(200);
const BLOCK_LIVES_AT_LEAST: Duration = Duration::from_millis(50);

/// The most leave that is asked for at once, and the part of a second whose worth it is.
const LARGEST_BLOCK: f64 = 20.0;
const BLOCK_SECS: f64 = 0.1;

/// How long it is taken for true that calls need no leave.
const FREE_FOR: Duration = Duration::from_secs(1);

/// How long what calls came to is gathered: where it is as usual, and where the provider told of its limits.
const GATHERS: Duration = Duration::from_millis(100);
const GATHERS_NEWS: Duration = Duration::from_millis(10);

/// How often a lane in use is told of anyway.
const BEAT: Duration = Duration::from_millis(500);

/// How often it is looked at while it is not in use here: others may use it.
const IDLE_BEAT: Duration = Duration::from_secs(1);

/// How soon the desk is asked again that was away.
const AWAY: Duration = Duration::from_millis(200);

/// A call is late that takes longer than this, and than several times what calls take on average.
const LATE: Duration = Duration::from_secs(10);
const LATENCIES: u32 = 8;
/// The same where nothing is known of how long they take.
const LATE_IF_UNKNOWN: Duration = Duration::from_secs(60);

/// What is remembered of calls that ended while the desk was away.
const MOST_ENDS: usize = 10_000;

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

/// The calls of one process on one lane.
pub struct Pace {
    lane: LaneId,
    state: Mutex<State>,
    /// Wakes the keeper, which holds it without the rest.
    kick: Arc<Notify>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    /// Interactive calls, and others.
    waiting: [VecDeque<Waiting>; 2],
    /// Leave that may be used until then, by its numbers.
    stock: VecDeque<u64>,
    stock_until: Option<Instant>,
    tokens_each: u32,
    free_until: Option<Instant>,
    /// When asking may bring leave.
    again_at: Option<Instant>,
    known: Option<(Instant, Exchanged)>,
    ends: Vec<Ended>,
    unused: u32,
    /// Calls under way, by when they began and the how-many-th of this process they are.
    running: BTreeMap<(Instant, u64), Running>,
    calls: u64,
    late: u32,
    told_at: Option<Instant>,
    /// Something is to be told now, or after a moment.
    is_urgent: bool,
    is_news: bool,
}

/// A call under way.
#[derive(Debug, Clone, Copy)]
struct Running {
    nth: u64,
    at: Moment,
    /// Calls that ran when it began, it among them.
    among: u32,
    is_late: bool,
}

struct Waiting {
    now_ms: u64,
    tokens: u32,
    answer: oneshot::Sender<Result<Begun, Denied>>,
}

/// Leave that was given to a call.
#[derive(Debug, Clone, Copy)]
struct Begun {
    /// Zero where none was needed.
    nth: u64,
    at: Moment,
    among: u32,
    call: (Instant, u64),
    tokens: u32,
}

impl State {
    fn may_begin(&self, now: Instant) -> bool {
        self.free_until.is_some_and(|until| now < until)
            || (!self.stock.is_empty() && self.stock_until.is_some_and(|until| now < until))
    }

    fn begin(&mut self, now: Instant) -> Option<Begun> {
        if !self.may_begin(now) {
            return None;
        }
        let (at, known) = self.known.as_ref()?;
        let at = known.now.after(now.saturating_duration_since(*at));
        let nth = self.stock.pop_front().unwrap_or(0);
        self.calls += 1;
        let among = self.running().saturating_add(1);
        self.running.insert((now, self.calls), Running { nth, at, among, is_late: false });
        Some(Begun {
            nth,
            at,
            among,
            call: (now, self.calls),
            tokens: if nth == 0 { 0 } else { self.tokens_each },
        })
    }

    fn running(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    /// The call is over, or was never made.
    fn leaves(&mut self, begun: &Begun) {
        if self.running.remove(&begun.call).is_some_and(|running| running.is_late) {
            self.late -= 1;
        }
    }

    /// Tells of calls that became late.
    fn look_for_late(&mut self, now: Instant) {
        let latency = self.known.as_ref().and_then(|(_, known)| known.view.latency);
        let late = latency.map_or(LATE_IF_UNKNOWN, |latency| LATE.max(latency * LATENCIES));
        let running = self.running();
        let (mut found, ends) = (0, &mut self.ends);
        for ((since, _), call) in &mut self.running {
            let took = now.saturating_duration_since(*since);
            if took < late {
                break;
            }
            if !std::mem::replace(&mut call.is_late, true) {
                found += 1;
                let (hints, end) = (RateHints::default(), CallEnd::Late);
                ends.push(Ended {
                    nth: call.nth,
                    begun: call.at,
                    took,
                    among: call.among,
                    running,
                    end,
                    hints,
                    tokens_more: 0,
                });
            }
        }
        self.late += found;
    }

    fn forget_the_gone(&mut self) {
        for queue in &mut self.waiting {
            queue.retain(|waiting| !waiting.answer.is_closed());
        }
    }

    fn waits(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// When the keeper should speak next.
    fn due(&self, now: Instant) -> Instant {
        let told_at = self.told_at.unwrap_or(now);
        let is_idle = self.running.is_empty() && self.waits() == 0;
        let mut due = match self.known {
            Some(_) => told_at + if is_idle { IDLE_BEAT } else { BEAT },
            None => now,
        };
        let mut by = |at: Instant| due = due.min(at);
        if self.is_urgent {
            by(now);
        }
        if self.is_news {
            by(told_at + GATHERS_NEWS);
        }
        if !self.ends.is_empty() || self.unused > 0 {
            by(told_at + GATHERS);
        }
        if self.waits() > 0 && !self.may_begin(now) {
            by(self.again_at.unwrap_or(now));
        }
        if let Some(until) = self.stock_until.filter(|_| !self.stock.is_empty()) {
            by(until);
        }
        due
    }

    /// What is to be said now.
    fn speak(&mut self, now: Instant) -> (Told, Ask) {
        self.forget_the_gone();
        self.look_for_late(now);
        if self.stock_until.is_some_and(|until| until <= now) {
            self.drop_stock();
        }
        self.told_at = Some(now);
        (self.is_urgent, self.is_news) = (false, false);
        let told = Told {
            ends: std::mem::take(&mut self.ends),
            unused: std::mem::take(&mut self.unused),
            tokens_each: self.tokens_each,
            running: self.running(),
            late: self.late,
        };
        (told, self.ask(now))
    }

    fn drop_stock(&mut self) {
        self.unused = self.unused.saturating_add(u32::try_from(self.stock.len()).unwrap_or(u32::MAX));
        self.stock.clear();
    }

    fn ask(&self, now: Instant) -> Ask {
        let waiting = if self.may_begin(now) { 0 } else { self.waits() };
        if waiting == 0 {
            return Ask::default();
        }
        let per_s = self.known.as_ref().and_then(|(_, known)| known.view.allowed_per_s);
        let block =
            per_s.map_or(LARGEST_BLOCK, |rate| (rate * BLOCK_SECS).clamp(1.0, LARGEST_BLOCK)) as usize;
        let interactive = self.waiting[0].len().min(block);
        let others = self.waiting[1].len().min(block - interactive);
        let first = self.waiting.iter().flatten().take(block);
        let tokens: u64 = first.map(|waiting| u64::from(waiting.tokens)).sum();
        let tokens_each = tokens / (interactive + others).max(1) as u64;
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Ask {
            interactive: number(interactive),
            others: number(others),
            tokens_each: u32::try_from(tokens_each).unwrap_or(u32::MAX),
        }
    }
}

impl Pace {
    /// The calls of this process on `lane`, whose state is at `desk`. To be made within a runtime: the keeper is a task of it, which ends
    /// with this value.
    pub fn new(lane: LaneId, desk: impl PaceDesk) -> Arc<Self> {
        let kick = Arc::new(Notify::new());
        let pace =
            Arc::new(Self { lane, state: Mutex::default(), kick: kick.clone(), keeper: Mutex::default() });
        let keeper = tokio::spawn(keep(Arc::downgrade(&pace), kick, desk));
        *pace.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        pace
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section here leaves whole values, also when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for leave. `place` is what the call holds beside it, and is given back with it.
    ///
    /// # Errors
    /// When the lane is paused meanwhile, or the desk is away.
    pub async fn acquire(
        self: &Arc<Self>,
        need: CallNeed,
        now_ms: u64,
        place: impl Send + Sync + 'static,
    ) -> Result<Permit, Denied> {
        let come = {
            let mut state = self.lock();
            if state.waits() == 0
                && let Some(begun) = state.begin(Instant::now())
            {
                drop(state);
                return Ok(self.permit(begun, place));
            }
            let (answer, come) = oneshot::channel();
            let waiting = Waiting { now_ms, tokens: need.tokens, answer };
            state.waiting[usize::from(!need.is_interactive)].push_back(waiting);
            if need.is_interactive {
                // What is kept for it may be there already.
                state.again_at = None;
            }
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

    /// Nobody begins before `until_ms`; those who wait learn of it.
    pub fn pause(&self, until_ms: u64) {
        let mut early = Vec::new();
        {
            let mut state = self.lock();
            for queue in &mut state.waiting {
                let (before, others): (VecDeque<_>, _) =
                    queue.drain(..).partition(|waiting| waiting.now_ms < until_ms);
                *queue = others;
                early.extend(before);
            }
        }
        for waiting in early {
            // Who no longer waits need not know.
            let _ = waiting.answer.send(Err(Denied::Paused { until_ms }));
        }
    }

    /// How the lane stands, if it was used.
    pub fn report(&self) -> Option<LaneReport> {
        let state = self.lock();
        let (at, known) = state.known?;
        let mut view = known.view;
        view.stands_still = view.stands_still.saturating_sub(at.elapsed());
        Some(LaneReport { lane: self.lane.clone(), view, learned: known.learned, waiting: state.waits() })
    }

    fn ended(&self, begun: Begun, end: PermitEnd) {
        let mut state = self.lock();
        let running = state.running();
        state.leaves(&begun);
        let (end, hints, tokens) = match end {
            PermitEnd::Unused => {
                if begun.nth > 0 {
                    // Who waits takes it at once, or it is given back when its time is over.
                    state.stock.push_front(begun.nth);
                }
                let_go(&mut state);
                self.kick.notify_one();
                return;
            }
            PermitEnd::GivenUp => (CallEnd::Unknown, RateHints::default(), None),
            PermitEnd::Ended(report) => (report.end, report.hints, report.tokens),
        };
        let reserved = i64::from(begun.tokens);
        let tokens_more = match (end, tokens) {
            (_, Some(tokens)) => i64::try_from(tokens).unwrap_or(i64::MAX).saturating_sub(reserved),
            // A call that was refused took none.
            (CallEnd::TooOften { .. } | CallEnd::TooMany { .. }, None) => -reserved,
            // What nobody told of may have been taken all the same.
            (CallEnd::Taken | CallEnd::Away | CallEnd::Late | CallEnd::Unknown, None) => 0,
        };
        let is_quiet = state.ends.is_empty();
        if state.ends.len() < MOST_ENDS {
            let took = begun.call.0.elapsed();
            state.ends.push(Ended {
                nth: begun.nth,
                begun: begun.at,
                took,
                among: begun.among,
                running,
                end,
                hints,
                tokens_more,
            });
        }
        state.is_urgent |= !matches!(end, CallEnd::Taken | CallEnd::Unknown);
        let becomes_news = !state.is_news && !hints.is_empty();
        state.is_news |= becomes_news;
        if is_quiet || state.is_urgent || becomes_news {
            drop(state);
            self.kick.notify_one();
        }
    }

    fn apply(&self, asked_at: Instant, tokens_each: u32, exchanged: Exchanged) {
        let mut state = self.lock();
        let now = Instant::now();
        if exchanged.grant.calls > 0 {
            state.drop_stock();
            let first = exchanged.grant.first;
            state.stock = (first..first + u64::from(exchanged.grant.calls)).collect();
            // However long the answer took, who waits must come to use it.
            state.stock_until = Some((asked_at + BLOCK_LIVES).max(now + BLOCK_LIVES_AT_LEAST));
            state.tokens_each = tokens_each;
        }
        state.free_until = exchanged.is_free.then(|| asked_at + FREE_FOR);
        state.again_at = exchanged.grant.again_at.map(|at| now + at.since(exchanged.now));
        state.known = Some((now, exchanged));
        let_go(&mut state);
    }

    fn is_away(&self, error: &HubError, told: Told) {
        let text = error.0.to_string();
        let waiting: Vec<Waiting> = {
            let mut state = self.lock();
            state.unused = state.unused.saturating_add(told.unused);
            let mut ends = told.ends;
            ends.append(&mut state.ends);
            ends.truncate(MOST_ENDS);
            state.ends = ends;
            state.free_until = None;
            state.waiting.iter_mut().flat_map(|queue| queue.drain(..)).collect()
        };
        for waiting in waiting {
            let _ = waiting.answer.send(Err(HubError(text.clone().into()).into()));
        }
    }
}

/// One who waits. Leave that comes just when it gives up is given back.
struct Turn<'a> {
    pace: &'a Arc<Pace>,
    come: oneshot::Receiver<Result<Begun, Denied>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.come.close();
        if let Ok(Ok(begun)) = self.come.try_recv() {
            self.pace.ended(begun, PermitEnd::Unused);
        }
    }
}

/// Lets those who wait begin, as far as there is leave.
fn let_go(state: &mut State) {
    let now = Instant::now();
    while state.may_begin(now) {
        let mut queues = state.waiting.iter_mut();
        let Some(waiting) = queues.find_map(VecDeque::pop_front) else { return };
        if waiting.answer.is_closed() {
            continue;
        }
        let Some(begun) = state.begin(now) else { return };
        if waiting.answer.send(Ok(begun)).is_err() {
            state.leaves(&begun);
            if begun.nth > 0 {
                state.stock.push_front(begun.nth);
            }
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
            Ok(exchanged) => pace.apply(now, ask.tokens_each, exchanged),
            Err(error) => {
                pace.is_away(&error, told);
                drop(pace);
                tokio::time::sleep(AWAY).await;
            }
        }
    }
}
