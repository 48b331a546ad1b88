//! One lane as this hub uses it: its calls, the places it was given for them, and who waits for one.
//!
//! Places are given by Redis in bulk and used again without asking while they last, so a call costs no command. What a lane may do is
//! taken for true no longer than [`HOLDS_FOR`]; its keeper (`lanes`) asks again before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use promptmill_domain::LaneId;
use promptmill_ports::hub::pace::Pace;
use promptmill_ports::{CallNeed, Denied, HubError, Permit};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How long an answer of Redis lets calls begin, from the moment at which it was asked for. Redis keeps the places of a hub that is
/// silent for twice as long, so a process that stood still asks before it calls again.
pub(crate) const HOLDS_FOR: Duration = Duration::from_secs(3);

/// How often Redis hears of a lane in use: several times while its word holds.
const BEAT: Duration = Duration::from_secs(1);
/// The same, while this hub has places it does not use and others want more than they have.
const BEAT_OF_THE_IDLE: Duration = Duration::from_millis(50);

/// One lane of this hub.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    state: Mutex<State>,
    /// Wakes the keeper.
    kick: Notify,
    /// How often calls may begin, where the lane learns.
    pace: Mutex<Option<Arc<Pace>>>,
}

#[derive(Debug, Default)]
struct State {
    calls: u32,
    /// The most that were in use or waited for since Redis was told.
    peak: u32,
    /// Interactive calls, and others.
    waiting: [VecDeque<Waiting>; 2],
    /// How many calls may run; none for as many as there are.
    places: Option<u32>,
    /// What Redis was told last: the places wanted, and those that count as used.
    told_wanted: u32,
    told_held: u32,
    told_at: Option<Instant>,
    /// There is something to tell or to ask now.
    is_urgent: bool,
    /// Others had fewer places than they want.
    others_want: bool,
    holds_until: Option<Instant>,
    paused_until_ms: u64,
    limit: Limit,
}

/// How many calls of a lane may run in the whole fleet, and when that was said (0: never).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) calls: Option<u32>,
    pub(crate) set_at: u64,
}

#[derive(Debug)]
struct Waiting {
    now_ms: u64,
    answer: oneshot::Sender<Result<Permit, Denied>>,
}

/// What Redis is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) calls: u32,
    pub(crate) wanted: u32,
    pub(crate) paused_until_ms: u64,
    pub(crate) limit: Limit,
}

/// What Redis answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leave {
    pub(crate) places: Option<u32>,
    pub(crate) paused_until_ms: u64,
    pub(crate) limit: Limit,
    /// Others have fewer places than they want.
    pub(crate) others_want: bool,
}

impl State {
    fn may_call(&self) -> bool {
        self.holds_until.is_some_and(|until| Instant::now() < until)
            && self.places.is_none_or(|places| self.calls < places)
    }

    fn in_use(&self) -> u32 {
        self.calls.saturating_add(u32::try_from(self.waits()).unwrap_or(u32::MAX))
    }

    fn waits(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    fn is_active(&self) -> bool {
        self.in_use() > 0 || self.told_held > 0
    }

    /// Whether there are places that nobody here uses and others want.
    fn hoards(&self) -> bool {
        self.others_want && self.waits() == 0 && self.calls < self.told_held
    }

    /// When Redis must hear of the lane again; never, while it is not in use.
    fn next_beat(&self) -> Option<Instant> {
        let beat = if self.hoards() { BEAT_OF_THE_IDLE } else { BEAT };
        self.is_active().then(|| self.told_at.map_or_else(Instant::now, |at| at + beat))
    }

    /// Whether asking Redis may bring a place: it gave all that was wanted, or its word no longer holds.
    fn is_worth_asking(&self) -> bool {
        self.holds_until.is_none_or(|until| until <= Instant::now())
            || self.places.is_some_and(|places| places >= self.told_wanted)
    }
}

impl Lane {
    pub(crate) fn new(id: LaneId) -> Self {
        Self { id, state: Mutex::default(), kick: Notify::new(), pace: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section below leaves whole values, also when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, state: &mut State) {
        state.is_urgent = true;
        self.kick.notify_one();
    }

    /// For the keeper: waits until it should speak to Redis, or look again.
    pub(crate) async fn wait_for_reason(&self) -> bool {
        let next_beat = self.lock().next_beat();
        let was_kicked = match next_beat {
            Some(at) => tokio::time::timeout_at(at, self.kick.notified()).await.is_ok(),
            None => {
                self.kick.notified().await;
                true
            }
        };
        !was_kicked || self.lock().is_urgent
    }

    /// Waits for a place; one that had a place before and made way waits before others. What it holds is given back when the permit, or this
    /// future, is dropped. One who waits for an interactive call has somebody make way who waits for leave.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        need: CallNeed,
        now_ms: u64,
        made_way: bool,
    ) -> Result<Permit, Denied> {
        let answer = {
            let mut state = self.lock();
            if state.paused_until_ms > now_ms {
                return Err(Denied::Paused { until_ms: state.paused_until_ms });
            }
            if state.waits() == 0 && state.may_call() {
                return Ok(self.begin_call(&mut state));
            }
            // The keeper sleeps while nothing is in use, and then no beat will ask.
            let keeper_sleeps = !state.is_active();
            let (answer, receiver) = oneshot::channel();
            let waiting = Waiting { now_ms, answer };
            let queue = &mut state.waiting[usize::from(!need.is_interactive)];
            if made_way {
                queue.push_front(waiting)
            } else {
                queue.push_back(waiting)
            }
            state.peak = state.peak.max(state.in_use());
            if keeper_sleeps || state.is_worth_asking() {
                self.ask(&mut state);
            }
            receiver
        };
        if need.is_interactive
            && let Some(pace) = self.pace()
        {
            pace.make_way();
        }
        answer.await.unwrap_or_else(|_| Err(HubError("the hub has ended".into()).into()))
    }

    /// Nobody calls before `until_ms`; a pause that is known and later stays.
    pub(crate) fn pause(&self, until_ms: u64) {
        Self::pause_locked(&mut self.lock(), until_ms);
        if let Some(pace) = self.pace() {
            pace.pause(until_ms);
        }
    }

    /// How often calls may begin, where the lane learns.
    pub(crate) fn pace(&self) -> Option<Arc<Pace>> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the lane one that learns, unless it is.
    pub(crate) fn set_pace(self: &Arc<Self>, make: impl FnOnce(&Arc<Self>) -> Arc<Pace>) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.get_or_insert_with(|| make(self));
    }

    fn pause_locked(state: &mut State, until_ms: u64) {
        state.paused_until_ms = state.paused_until_ms.max(until_ms);
        let until_ms = state.paused_until_ms;
        for queue in &mut state.waiting {
            let (paused, others): (VecDeque<_>, _) =
                queue.drain(..).partition(|waiting| waiting.now_ms < until_ms);
            *queue = others;
            for waiting in paused {
                // Who no longer waits need not know.
                let _ = waiting.answer.send(Err(Denied::Paused { until_ms }));
            }
        }
    }

    /// Calls that wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waits()
    }

    pub(crate) fn known_limit(&self) -> Limit {
        self.lock().limit
    }

    /// This hub set the limit.
    pub(crate) fn limit_was_set(&self, limit: Limit) {
        let mut state = self.lock();
        if limit.set_at > state.limit.set_at {
            state.limit = limit;
        }
        state.holds_until = None;
        self.ask(&mut state);
    }

    /// What Redis said may be wrong by now.
    pub(crate) fn doubt(&self) {
        let mut state = self.lock();
        state.holds_until = None;
        if state.in_use() > 0 {
            self.ask(&mut state);
        }
    }

    /// There may be free places.
    pub(crate) fn ask_if_waiting(&self) {
        let mut state = self.lock();
        if state.waits() > 0 {
            self.ask(&mut state);
        }
    }

    /// Others want places.
    pub(crate) fn ask_if_holding(&self) {
        let mut state = self.lock();
        if state.told_held > 0 {
            self.ask(&mut state);
        }
    }

    /// A report of what is in use alone; nothing, where Redis knows of no place.
    pub(crate) fn last_report(&self) -> Option<Report> {
        let is_known = self.lock().told_held > 0;
        is_known.then(|| {
            let report = self.report();
            Report { wanted: report.calls, ..report }
        })
    }

    pub(crate) fn report(&self) -> Report {
        let mut state = self.lock();
        for queue in &mut state.waiting {
            queue.retain(|waiting| !waiting.answer.is_closed());
        }
        let in_use = state.in_use();
        let wanted = state.peak.max(in_use);
        state.peak = in_use;
        state.told_at = Some(Instant::now());
        state.is_urgent = false;
        Report { calls: state.calls, wanted, paused_until_ms: state.paused_until_ms, limit: state.limit }
    }

    /// Takes an answer that was asked for at `asked_at` with `report`.
    pub(crate) fn apply(self: &Arc<Self>, asked_at: Instant, report: &Report, leave: &Leave) {
        let mut state = self.lock();
        Self::pause_locked(&mut state, leave.paused_until_ms);
        if leave.limit.set_at < state.limit.set_at {
            // It was given before the limit was changed.
            self.ask(&mut state);
            return;
        }
        state.limit = leave.limit;
        state.others_want = leave.others_want;
        state.places = leave.places;
        state.told_wanted = report.wanted;
        state.told_held = leave.places.unwrap_or(0).max(report.calls);
        state.holds_until = Some(asked_at + HOLDS_FOR);
        let unheard = self.let_go(&mut state);
        if state.waits() > 0 && state.is_worth_asking() {
            self.ask(&mut state);
        }
        let paused_until_ms = state.paused_until_ms;
        let too_many = state.places.map_or(0, |places| state.calls.saturating_sub(places));
        drop(state);
        // Each gives its place to the next who waits.
        drop(unheard);
        // Its signal may have been lost.
        if let Some(pace) = self.pace() {
            pace.pause(paused_until_ms);
            // Other hubs can make more of these places than calls that only wait for leave.
            for _ in 0..too_many {
                if !pace.make_way() {
                    break;
                }
            }
        }
    }

    /// Redis did not answer: who waits is told so.
    pub(crate) fn is_away(&self, error: &HubError) {
        let waiting: Vec<_> = self.lock().waiting.iter_mut().flat_map(|queue| queue.drain(..)).collect();
        let text = error.0.to_string();
        for waiting in waiting {
            let _ = waiting.answer.send(Err(HubError(text.clone().into()).into()));
        }
    }

    /// Lets those who wait begin, as far as there are places. Returns the permits of those who no longer wait, to be dropped without the
    /// lock.
    fn let_go(self: &Arc<Self>, state: &mut State) -> Vec<Permit> {
        let mut unheard = Vec::new();
        while state.may_call()
            && let Some(waiting) = state.waiting.iter_mut().find_map(VecDeque::pop_front)
        {
            if waiting.answer.is_closed() {
                continue;
            }
            let permit = self.begin_call(state);
            if let Err(Ok(permit)) = waiting.answer.send(Ok(permit)) {
                unheard.push(permit);
            }
        }
        unheard
    }

    fn begin_call(self: &Arc<Self>, state: &mut State) -> Permit {
        state.calls += 1;
        state.peak = state.peak.max(state.in_use());
        let lane = self.clone();
        Permit::new(move |_| lane.end_call())
    }

    fn end_call(self: &Arc<Self>) {
        let unheard = {
            let mut state = self.lock();
            state.calls -= 1;
            let hoarded = state.hoards();
            let belongs_to_others = state.places.is_some_and(|places| state.calls >= places);
            let unheard = self.let_go(&mut state);
            if belongs_to_others || (state.waits() > 0 && state.is_worth_asking()) {
                self.ask(&mut state);
            } else if state.hoards() && !hoarded {
                // The next beat is another.
                self.kick.notify_one();
            }
            unheard
        };
        drop(unheard);
    }
}

#[cfg(test)]
mod tests;
