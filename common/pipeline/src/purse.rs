//! What this process may spend of one limit: calls take from what the store granted, and more is asked for ahead of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use promptmill_domain::budget::{BudgetScope, Fenced, Granted, HoldRequest};
use promptmill_domain::{Money, SessionId};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::set_aside::{Account, CameTo};

/// So much is asked for ahead: what is spent in this time.
const AHEAD: Duration = Duration::from_millis(500);

/// How often what was spent is told while nobody waits for money.
const TELLS_EVERY: Duration = Duration::from_millis(250);

/// How soon somebody who waits for money looks again without being told.
const LOOKS_AGAIN: Duration = Duration::from_millis(100);

/// Where a limit is spent not even a call that costs nothing begins.
const LEAST: Money = Money::from_pico(1);

/// What a process holds of one limit.
pub(crate) struct Purse {
    scope: BudgetScope,
    state: Mutex<State>,
    /// Told when there may be money again, or it is certain that there will be none.
    changed: Notify,
    /// Told when there is something to ask for.
    asks: Arc<Notify>,
}

/// What stands in the store of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stands {
    spent: Money,
    aside: Money,
    beyond: Money,
}

struct State {
    limit: Money,
    /// What was spent at least before there was a limit, by whomever.
    floor: Money,
    /// What may be spent and set aside without asking again.
    ceiling: Money,
    spent: Money,
    /// Set aside for calls under way.
    aside: Money,
    /// What calls wait for, all together, and the most that one of them does.
    waiting: Money,
    largest: Money,
    /// The limit is spent: nothing is under way anywhere that could give back.
    is_out: bool,
    told: Stands,
    told_at: Option<Instant>,
}

impl State {
    fn fits(&self, amount: Money) -> bool {
        !self.is_out && self.spent + self.aside + amount.max(LEAST) <= self.ceiling
    }

    fn stands(&self) -> Stands {
        let beyond = self.ceiling.less(self.spent + self.aside);
        Stands { spent: self.spent, aside: self.aside, beyond }
    }

    /// What is spent in a while at the speed of late.
    fn ahead(&self, now: Instant) -> Money {
        let Some(told_at) = self.told_at else { return Money::ZERO };
        let lately = self.spent.less(self.told.spent);
        let since = now.saturating_duration_since(told_at).max(TELLS_EVERY);
        Money::from_pico((lately.pico() as f64 * AHEAD.div_duration_f64(since)) as u64)
    }
}

impl Purse {
    pub(crate) fn new(scope: BudgetScope, limit: Money, floor: Money, asks: Arc<Notify>) -> Self {
        let state = State {
            limit,
            floor,
            ceiling: Money::ZERO,
            spent: Money::ZERO,
            aside: Money::ZERO,
            waiting: Money::ZERO,
            largest: Money::ZERO,
            is_out: false,
            told: Stands::default(),
            told_at: None,
        };
        Self { scope, state: Mutex::new(state), changed: Notify::new(), asks }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers only: a panic in between leaves them usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn scope(&self) -> &BudgetScope {
        &self.scope
    }

    /// The limit is this from now on, and somebody means to go on.
    pub(crate) fn set_limit(&self, limit: Money) {
        let mut state = self.state();
        (state.limit, state.is_out) = (limit, false);
    }

    /// Whether the limit is spent.
    pub(crate) fn is_out(&self) -> bool {
        self.state().is_out
    }

    /// Sets so much aside, if it is there; [`Account::settle`] ends that.
    pub(crate) fn set_aside(&self, amount: Money) -> bool {
        let mut state = self.state();
        let fits = state.fits(amount);
        if fits {
            state.aside += amount;
        }
        fits
    }

    /// Waits until so much may be there, or it is certain that it will not be.
    pub(crate) async fn funds(&self, amount: Money) {
        if self.state().fits(amount) {
            return;
        }
        let _waiting = Waiting::new(self, amount.max(LEAST));
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that no word is missed.
            changed.as_mut().enable();
            {
                let mut state = self.state();
                if state.is_out || state.fits(amount) {
                    return;
                }
                state.largest = state.largest.max(amount.max(LEAST));
            }
            self.asks.notify_one();
            let _ = timeout(LOOKS_AGAIN, changed).await;
        }
    }

    /// What to ask the store for, where there is anything to ask or to tell. What is given back is not spent from this moment on.
    pub(crate) fn ask(&self, session: SessionId, now: Instant) -> Option<HoldRequest> {
        let mut state = self.state();
        let state = &mut *state;
        let least = if state.waiting > Money::ZERO { state.largest } else { Money::ZERO };
        let wants = state.ahead(now).max(state.waiting);
        let told_lately = state.told_at.is_some_and(|at| now.saturating_duration_since(at) < TELLS_EVERY);
        let stands = state.stands();
        let is_news = stands != state.told || stands.beyond > wants;
        if least == Money::ZERO && (told_lately || !is_news) {
            return None;
        }
        state.ceiling = state.ceiling.min(state.spent + state.aside + wants);
        state.largest = Money::ZERO;
        Some(HoldRequest {
            session,
            spent: state.spent,
            reserved: state.aside,
            least,
            wants,
            floor: state.floor,
            limit: state.limit,
        })
    }

    /// What the store said to that at `now`.
    pub(crate) fn told(&self, request: &HoldRequest, answer: Result<Granted, Fenced>, now: Instant) {
        let mut state = self.state();
        match answer {
            Ok(Granted { beyond, held_by_others }) => {
                state.ceiling = request.spent + request.reserved + beyond;
                state.told = Stands { spent: request.spent, aside: request.reserved, beyond };
                state.told_at = Some(now);
                // What is held somewhere comes back, or is spent.
                let is_held = held_by_others + request.reserved + state.aside > Money::ZERO;
                let refused = request.least > Money::ZERO && beyond == Money::ZERO;
                state.is_out = refused && !is_held && state.limit == request.limit;
            }
            // The session is dead, and its process will know it soon; nothing is spent until then.
            Err(Fenced) => state.ceiling = Money::ZERO,
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Another session spends from now on: what was told under the one before is told.
    pub(crate) fn begin_anew(&self) {
        let told = self.state().told.spent;
        self.close();
        self.closed(told);
    }

    /// Whether money is set aside for calls.
    pub(crate) fn has_aside(&self) -> bool {
        self.state().aside > Money::ZERO
    }

    /// Gives everything back, and answers what was spent in all, to be told. Nothing more is spent before more is granted.
    pub(crate) fn close(&self) -> Money {
        let mut state = self.state();
        state.ceiling = Money::ZERO;
        state.spent
    }

    /// It is told that `spent` was spent in all, and the account of this process begins anew.
    pub(crate) fn closed(&self, spent: Money) {
        let mut state = self.state();
        state.spent = state.spent.less(spent);
        (state.told, state.told_at) = (Stands::default(), None);
    }
}

impl Account for Purse {
    fn settle(&self, aside: Money, came_to: CameTo) {
        let mut state = self.state();
        state.aside = state.aside.less(aside);
        match came_to {
            CameTo::Nothing => {}
            CameTo::Cost(cost) => state.spent += cost,
            CameTo::Unknown => state.spent += aside,
        }
        let someone_waits = state.waiting > Money::ZERO;
        drop(state);
        if someone_waits {
            self.changed.notify_waiters();
        }
    }
}

/// A call that waits for so much.
struct Waiting<'a> {
    purse: &'a Purse,
    amount: Money,
}

impl<'a> Waiting<'a> {
    fn new(purse: &'a Purse, amount: Money) -> Self {
        purse.state().waiting += amount;
        Self { purse, amount }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.purse.state();
        state.waiting = state.waiting.less(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use promptmill_domain::budget::Budget;
    use promptmill_domain::{BatchId, BudgetScope};

    use super::*;

    const SESSION: SessionId = SessionId::from_bytes([1; 16]);
    const OTHER: SessionId = SessionId::from_bytes([2; 16]);

    fn pico(amount: u64) -> Money {
        Money::from_pico(amount)
    }

    fn purse(limit: u64) -> Arc<Purse> {
        let scope = BudgetScope::Batch(BatchId::from_bytes([1; 16]));
        Arc::new(Purse::new(scope, pico(limit), Money::ZERO, Arc::default()))
    }

    /// Asks and tells once, where there is something to ask.
    fn exchange(purse: &Purse, session: SessionId, budget: &mut Budget) -> bool {
        let now = Instant::now();
        let Some(request) = purse.ask(session, now) else { return false };
        let answer = budget.hold(&request);
        purse.told(&request, answer, now);
        true
    }

    async fn asked_for(purse: &Arc<Purse>, amount: u64) -> tokio::task::JoinHandle<()> {
        let waits = purse.clone();
        let waiting = tokio::spawn(async move { waits.funds(pico(amount)).await });
        while purse.state().waiting == Money::ZERO {
            tokio::task::yield_now().await;
        }
        waiting
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_spent_that_was_not_granted_and_what_is_left_over_goes_back() {
        let (purse, mut budget) = (purse(100), Budget::default());
        assert!(!purse.set_aside(pico(10)) && !exchange(&purse, SESSION, &mut budget));
        let waiting = asked_for(&purse, 10).await;
        assert!(exchange(&purse, SESSION, &mut budget));
        waiting.await.unwrap();
        assert!(purse.set_aside(pico(10)) && !purse.set_aside(pico(1)));
        purse.settle(pico(10), CameTo::Cost(pico(6)));
        tokio::time::advance(TELLS_EVERY).await;
        assert!(exchange(&purse, SESSION, &mut budget));
        // At six a quarter of a second twelve are wanted for the next half.
        assert_eq!((budget.spent(), budget.held()), (pico(6), pico(12)));
        tokio::time::advance(TELLS_EVERY).await;
        assert!(exchange(&purse, SESSION, &mut budget));
        assert_eq!((budget.spent(), budget.held()), (pico(6), Money::ZERO));
        tokio::time::advance(TELLS_EVERY).await;
        assert!(!exchange(&purse, SESSION, &mut budget), "there is nothing new to tell");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_out_only_when_nothing_is_under_way_that_may_give_back() {
        let (purse, mut budget) = (purse(20), Budget::default());
        let other = HoldRequest {
            session: OTHER,
            spent: Money::ZERO,
            reserved: pico(15),
            least: Money::ZERO,
            wants: Money::ZERO,
            floor: Money::ZERO,
            limit: pico(20),
        };
        budget.hold(&other).unwrap();
        let waiting = asked_for(&purse, 10).await;
        assert!(exchange(&purse, SESSION, &mut budget) && !purse.is_out());
        // It cost less than was set aside, and there is room.
        budget.hold(&HoldRequest { spent: pico(9), reserved: Money::ZERO, ..other }).unwrap();
        while purse.state().largest == Money::ZERO {
            tokio::time::advance(LOOKS_AGAIN).await;
            tokio::task::yield_now().await;
        }
        assert!(exchange(&purse, SESSION, &mut budget));
        waiting.await.unwrap();
        assert!(purse.set_aside(pico(10)));
        purse.settle(pico(10), CameTo::Unknown);
        let waiting = asked_for(&purse, 10).await;
        assert!(exchange(&purse, SESSION, &mut budget) && purse.is_out());
        waiting.await.unwrap();
        assert_eq!(budget.spent(), pico(19));
        // With a higher limit it goes on.
        purse.set_limit(pico(40));
        let waiting = asked_for(&purse, 10).await;
        assert!(exchange(&purse, SESSION, &mut budget));
        waiting.await.unwrap();
        assert!(purse.set_aside(pico(10)));
    }
}
