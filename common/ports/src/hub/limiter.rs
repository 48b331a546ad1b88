//! Lanes in memory: how many calls run on each, and until when it stands still.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use promptmill_domain::LaneId;
use promptmill_domain::rate::{Ask, LaneLimits, LaneState, Learned, Moment};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pace::{Exchanged, NotNow, Pace, PaceDesk, Told};
use crate::hub_ports::{CallNeed, Denied, HubError, LaneReport, Permit};

#[derive(Debug, Default)]
struct Lane {
    state: Mutex<Places>,
    /// How often calls may begin, where the lane learns.
    pace: Mutex<Option<Arc<Pace>>>,
}

#[derive(Debug, Default)]
struct Places {
    calls: u32,
    limit: Option<u32>,
    paused_until_ms: u64,
    /// Interactive calls, and others.
    waiting: [VecDeque<Waiting>; 2],
}

#[derive(Debug)]
struct Waiting {
    now_ms: u64,
    answer: oneshot::Sender<Result<Place, Denied>>,
}

/// A place among the calls of a lane; goes on to the next who waits when dropped.
#[derive(Debug)]
struct Place(Arc<Lane>);

impl Drop for Place {
    fn drop(&mut self) {
        let unheard = {
            let mut places = lock(&self.0.state);
            places.calls -= 1;
            self.0.let_go(&mut places)
        };
        drop(unheard);
    }
}

impl Lane {
    /// Lets those who wait go on, as far as there are places. Returns the places of those who no longer wait, to be dropped without
    /// the lock.
    fn let_go(self: &Arc<Self>, places: &mut Places) -> Vec<Place> {
        let mut unheard = Vec::new();
        while places.limit.is_none_or(|limit| places.calls < limit)
            && let Some(waiting) = places.next()
        {
            places.calls += 1;
            if let Err(Ok(place)) = waiting.answer.send(Ok(Place(self.clone()))) {
                unheard.push(place);
            }
        }
        unheard
    }

    /// Waits for a place; one that had a place before and made way waits before others. One who waits for an interactive call has somebody make
    /// way who waits for leave.
    async fn place(self: &Arc<Self>, need: CallNeed, now_ms: u64, made_way: bool) -> Result<Place, Denied> {
        let come = {
            let mut places = lock(&self.state);
            if places.paused_until_ms > now_ms {
                return Err(Denied::Paused { until_ms: places.paused_until_ms });
            }
            if places.limit.is_none_or(|limit| places.calls < limit) {
                places.calls += 1;
                return Ok(Place(self.clone()));
            }
            let (answer, come) = oneshot::channel();
            let waiting = Waiting { now_ms, answer };
            let queue = &mut places.waiting[usize::from(!need.is_interactive)];
            if made_way {
                queue.push_front(waiting)
            } else {
                queue.push_back(waiting)
            }
            come
        };
        if need.is_interactive
            && let Some(pace) = lock(&self.pace).clone()
        {
            pace.make_way();
        }
        come.await.unwrap_or_else(|_| Err(HubError("the hub has ended".into()).into()))
    }

    fn set_limit(self: &Arc<Self>, limit: Option<u32>) {
        let unheard = {
            let mut places = lock(&self.state);
            if places.limit == limit {
                return;
            }
            places.limit = limit;
            self.let_go(&mut places)
        };
        drop(unheard);
    }
}

impl Places {
    fn next(&mut self) -> Option<Waiting> {
        let queues = self.waiting.iter_mut();
        queues
            .flat_map(|queue| std::iter::from_fn(|| queue.pop_front()))
            .find(|waiting| !waiting.answer.is_closed())
    }

    /// Those who wait and would begin before that moment.
    fn who_is_early(&mut self, until_ms: u64) -> Vec<Waiting> {
        let mut early = Vec::new();
        for queue in &mut self.waiting {
            let (before, others): (VecDeque<_>, _) =
                queue.drain(..).partition(|waiting| waiting.now_ms < until_ms);
            *queue = others;
            early.extend(before);
        }
        early
    }
}

/// Every lane this process has heard of.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Mutex<HashMap<LaneId, Arc<Lane>>>,
    begun: Instant,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { lanes: Mutex::default(), begun: Instant::now() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves whole values, also when it panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    fn lane(&self, id: &LaneId) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(id) {
            return lane.clone();
        }
        lanes.entry(id.clone()).or_default().clone()
    }

    pub(super) async fn acquire(&self, id: &LaneId, need: CallNeed, now_ms: u64) -> Result<Permit, Denied> {
        let lane = self.lane(id);
        let mut made_way = false;
        loop {
            let place = lane.place(need, now_ms, made_way).await?;
            let Some(pace) = lock(&lane.pace).clone() else {
                return Ok(Permit::new(move |_| drop(place)));
            };
            match pace.acquire(need, now_ms, place).await {
                Ok(permit) => return Ok(permit),
                Err(NotNow::Denied(denied)) => return Err(denied),
                Err(NotNow::MakesWay) => made_way = true,
            }
        }
    }

    pub(super) fn pause(&self, id: &LaneId, until_ms: u64) {
        let lane = self.lane(id);
        let early = {
            let mut places = lock(&lane.state);
            places.paused_until_ms = places.paused_until_ms.max(until_ms);
            let until_ms = places.paused_until_ms;
            places.who_is_early(until_ms)
        };
        for waiting in early {
            // Who no longer waits need not know.
            let _ = waiting.answer.send(Err(Denied::Paused { until_ms }));
        }
        if let Some(pace) = lock(&lane.pace).as_ref() {
            pace.pause(until_ms);
        }
    }

    pub(super) fn set_concurrency(&self, id: &LaneId, limit: Option<u32>) {
        self.lane(id).set_limit(limit);
    }

    pub(super) fn set_rules(&self, id: &LaneId, limits: LaneLimits, learned: &Learned) {
        let lane = self.lane(id);
        let mut pace = lock(&lane.pace);
        if pace.is_none() {
            let state = LaneState::new(self.now(), limits, learned);
            lane.set_limit(state.window());
            let desk = Desk { begun: self.begun, state: Mutex::new(state), lane: Arc::downgrade(&lane) };
            *pace = Some(Pace::new(id.clone(), desk));
        }
    }

    fn now(&self) -> Moment {
        Moment::default().after(self.begun.elapsed())
    }

    pub(super) fn reports(&self) -> Vec<LaneReport> {
        let lanes = lock(&self.lanes);
        let report = |lane: &Arc<Lane>| {
            let mut report = lock(&lane.pace).as_ref()?.report()?;
            report.waiting += lock(&lane.state).waiting.iter().map(VecDeque::len).sum::<usize>();
            Some(report)
        };
        lanes.values().filter_map(report).collect()
    }
}

/// The lane's state, asked by nobody else.
struct Desk {
    begun: Instant,
    state: Mutex<LaneState>,
    lane: Weak<Lane>,
}

#[async_trait]
impl PaceDesk for Desk {
    async fn exchange(&self, told: &Told, ask: &Ask) -> Result<Exchanged, HubError> {
        let now = Moment::default().after(self.begun.elapsed());
        let mut state = lock(&self.state);
        for end in &told.ends {
            state.ended(now, end);
        }
        state.give_back(told.unused, told.tokens_each);
        let grant = state.grant(now, ask);
        if let Some(lane) = self.lane.upgrade() {
            lane.set_limit(state.window().map(|window| window.saturating_add(told.late)));
        }
        Ok(Exchanged::of(&state, now, grant))
    }
}
