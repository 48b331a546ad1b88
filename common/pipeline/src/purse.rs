//! What this process may spend of one limit: calls take from what the store granted, and more is asked for ahead of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use promptmill_domain::budget::{BudgetScope, Fenced, Granted, HoldRequest};
use promptmill_domain::{Money, SessionId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::set_aside::{Account, CameTo};

/// So much is asked for ahead: what is spent in this time.
const AHEAD: Duration = Duration::from_millis(500);

/// How often what was spent is told while nobody waits for money.
const TELLS_EVERY: Duration = Duration::from_millis(250);

/// How soon the store is asked again that had nothing, while nothing came back here.
const ASKS_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Where a limit is spent not even a call that costs nothing begins.
const LEAST: Money = Money::from_pico(1);

/// The limit is spent: nothing is under way that could give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Out;

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
    /// Set aside for calls that wait for their lane or are under way, and how many those are.
    aside: Money,
    calls: u32,
    /// What calls wait for, and how many for each amount.
    waiting: BTreeMap<Money, u32>,
    is_out: bool,
    told: Stands,
    told_at: Option<Instant>,
    /// The store had nothing, and nothing came back here since.
    refused_at: Option<Instant>,
    /// What was spent is being told for good; nothing else is asked meanwhile.
    is_closing: bool,
}

impl State {
    fn fits(&self, amount: Money) -> bool {
        self.spent + self.aside + amount.max(LEAST) <= self.ceiling
    }

    fn stands(&self) -> Stands {
        let beyond = self.ceiling.less(self.spent + self.aside);
        Stands { spent: self.spent, aside: self.aside, beyond }
    }

    /// The least that a call waits for, and what all of them do.
    fn wanting(&self) -> (Money, Money) {
        let least = self.waiting.keys().next().copied().unwrap_or_default();
        let all = self.waiting.iter().map(|(amount, calls)| amount.times(u64::from(*calls))).sum();
        (least, all)
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
            calls: 0,
            waiting: BTreeMap::new(),
            is_out: false,
            told: Stands::default(),
            told_at: None,
            refused_at: None,
            is_closing: false,
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

    /// The limit is this from now on, of which `floor` is known to be spent at least, and somebody means to go on.
    pub(crate) fn set_limit(&self, limit: Money, floor: Money) {
        let mut state = self.state();
        (state.limit, state.floor) = (limit, floor.max(state.floor));
        (state.is_out, state.refused_at) = (false, None);
    }

    /// Sets so much aside as soon as it is there; [`Account::settle`] ends that.
    ///
    /// # Errors
    /// The limit is spent.
    pub(crate) async fn take(&self, amount: Money) -> Result<(), Out> {
        let mut waiting = None;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that no word is missed.
            changed.as_mut().enable();
            {
                let mut state = self.state();
                if state.is_out {
                    return Err(Out);
                }
                if state.fits(amount) {
                    state.aside += amount;
                    state.calls += 1;
                    return Ok(());
                }
            }
            waiting.get_or_insert_with(|| Waiting::new(self, amount.max(LEAST)));
            self.asks.notify_one();
            changed.await;
        }
    }

    /// What to ask the store for, where there is anything to ask or to tell. What is given back is not spent from this moment on.
    pub(crate) fn ask(&self, session: SessionId, now: Instant) -> Option<HoldRequest> {
        let mut state = self.state();
        let state = &mut *state;
        let (least, all) = state.wanting();
        let lately =
            |at: Option<Instant>, time| at.is_some_and(|at| now.saturating_duration_since(at) < time);
        let wants = state.ahead(now).max(all);
        let stands = state.stands();
        let is_news = stands != state.told || stands.beyond > wants;
        let asks = least > Money::ZERO && !lately(state.refused_at, ASKS_AGAIN_AFTER);
        let tells = is_news && !lately(state.told_at, TELLS_EVERY);
        if state.is_closing || !(asks || tells) {
            return None;
        }
        // Where somebody waits the answer may be that nothing is left, and then what others were given of it is not spent here as well.
        let keeps = if least > Money::ZERO { Money::ZERO } else { wants };
        state.ceiling = state.ceiling.min(state.spent + state.aside + keeps);
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
        let notify = match answer {
            Ok(Granted { beyond, held_by_others }) => {
                state.ceiling = request.spent + request.reserved + beyond;
                state.told = Stands { spent: request.spent, aside: request.reserved, beyond };
                state.told_at = Some(now);
                let refused = request.least > Money::ZERO && beyond == Money::ZERO;
                state.refused_at = refused.then_some(now);
                // What is held somewhere comes back, or is spent.
                let is_held = held_by_others > Money::ZERO || state.calls > 0;
                state.is_out = refused && !is_held && state.limit == request.limit;
                !refused || state.is_out
            }
            // The session is dead, and its process will know it soon; nothing is spent until then.
            Err(Fenced) => {
                (state.ceiling, state.refused_at) = (Money::ZERO, Some(now));
                false
            }
        };
        drop(state);
        if notify {
            self.changed.notify_waiters();
        }
    }

    /// Whether what was spent is being told for good.
    pub(crate) fn is_closing(&self) -> bool {
        self.state().is_closing
    }

    /// Gives everything back, and answers what was spent in all and is to be told. Nothing more is spent before that is told and more is granted.
    pub(crate) fn close(&self) -> Money {
        let mut state = self.state();
        (state.ceiling, state.is_closing) = (Money::ZERO, true);
        state.spent
    }

    /// It is told that `spent` was spent in all, and the account of this process begins anew.
    pub(crate) fn closed(&self, spent: Money) {
        let mut state = self.state();
        state.spent = state.spent.less(spent);
        (state.told, state.told_at, state.refused_at) = (Stands::default(), None, None);
        (state.ceiling, state.is_closing) = (Money::ZERO, false);
    }

    /// Another session spends from now on: what was told under the one before is told.
    pub(crate) fn begin_anew(&self) {
        let told = self.state().told.spent;
        self.closed(told);
    }

    /// What may have been spent in all: what calls under way may cost is in it.
    pub(crate) fn spent_at_most(&self) -> Money {
        let state = self.state();
        state.spent + state.aside
    }

    /// Whether money is set aside for calls.
    pub(crate) fn has_aside(&self) -> bool {
        self.state().calls > 0
    }
}

impl Account for Purse {
    fn settle(&self, aside: Money, came_to: CameTo) {
        let mut state = self.state();
        state.aside = state.aside.less(aside);
        state.calls = state.calls.saturating_sub(1);
        match came_to {
            CameTo::Nothing => {}
            CameTo::Cost(cost) => state.spent += cost,
            CameTo::Unknown => state.spent += aside,
        }
        let someone_waits = !state.waiting.is_empty();
        state.refused_at = None;
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
        *purse.state().waiting.entry(amount).or_default() += 1;
        Self { purse, amount }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.purse.state();
        if let Some(calls) = state.waiting.get_mut(&self.amount) {
            *calls -= 1;
            if *calls == 0 {
                state.waiting.remove(&self.amount);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use promptmill_domain::BatchId;
    use promptmill_domain::budget::Budget;
    use tokio::task::JoinHandle;

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
    fn exchange(purse: &Purse, budget: &mut Budget) -> bool {
        let now = Instant::now();
        let Some(request) = purse.ask(SESSION, now) else { return false };
        purse.told(&request, budget.hold(&request), now);
        true
    }

    /// A call that takes so much, once it waits for it.
    async fn taking(purse: &Arc<Purse>, amount: u64) -> JoinHandle<Result<(), Out>> {
        let (takes, before) = (purse.clone(), purse.state().wanting().1);
        let taking = tokio::spawn(async move { takes.take(pico(amount)).await });
        while purse.state().wanting().1 == before {
            tokio::task::yield_now().await;
        }
        taking
    }

    fn others(spent: u64, reserved: u64, limit: u64) -> HoldRequest {
        HoldRequest {
            session: OTHER,
            spent: pico(spent),
            reserved: pico(reserved),
            least: Money::ZERO,
            wants: Money::ZERO,
            floor: Money::ZERO,
            limit: pico(limit),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_spent_that_was_not_granted_and_what_is_left_over_goes_back() {
        let (purse, mut budget) = (purse(100), Budget::default());
        assert!(!exchange(&purse, &mut budget));
        let first = taking(&purse, 10).await;
        assert!(exchange(&purse, &mut budget));
        assert_eq!(first.await.unwrap(), Ok(()));
        assert_eq!((budget.spent(), budget.held()), (Money::ZERO, pico(10)));
        purse.settle(pico(10), CameTo::Cost(pico(6)));
        tokio::time::advance(TELLS_EVERY).await;
        assert!(exchange(&purse, &mut budget));
        // At six a quarter of a second twelve are wanted for the next half.
        assert_eq!((budget.spent(), budget.held()), (pico(6), pico(12)));
        assert_eq!(purse.take(pico(12)).await, Ok(()), "what is held ahead is there at once");
        purse.settle(pico(12), CameTo::Nothing);
        tokio::time::advance(TELLS_EVERY).await;
        assert!(exchange(&purse, &mut budget));
        assert_eq!((budget.spent(), budget.held()), (pico(6), Money::ZERO));
        tokio::time::advance(TELLS_EVERY).await;
        assert!(!exchange(&purse, &mut budget), "there is nothing new to tell");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_out_only_when_nothing_is_under_way_that_may_give_back() {
        let (purse, mut budget) = (purse(20), Budget::default());
        budget.hold(&others(0, 15, 20)).unwrap();
        let waits = taking(&purse, 10).await;
        assert!(exchange(&purse, &mut budget) && !waits.is_finished());
        assert!(!exchange(&purse, &mut budget), "it is not asked again at once");
        // The other's call cost less than was set aside, and there is room.
        budget.hold(&others(9, 0, 20)).unwrap();
        tokio::time::advance(ASKS_AGAIN_AFTER).await;
        assert!(exchange(&purse, &mut budget));
        assert_eq!(waits.await.unwrap(), Ok(()));
        // A call that costs nothing is under way all the same.
        let waits = taking(&purse, 5).await;
        assert!(exchange(&purse, &mut budget) && !waits.is_finished());
        purse.settle(pico(10), CameTo::Unknown);
        assert!(exchange(&purse, &mut budget), "what came back may change the answer");
        assert_eq!(waits.await.unwrap(), Err(Out));
        assert_eq!(budget.spent(), pico(19));
        // With a higher limit it goes on.
        purse.set_limit(pico(40), Money::ZERO);
        let waits = taking(&purse, 10).await;
        assert!(exchange(&purse, &mut budget));
        assert_eq!(waits.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dear_call_keeps_no_cheaper_one_from_what_is_left() {
        let (purse, mut budget) = (purse(10), Budget::default());
        let dear = taking(&purse, 50).await;
        let cheap = taking(&purse, 2).await;
        assert!(exchange(&purse, &mut budget));
        assert_eq!(cheap.await.unwrap(), Ok(()));
        purse.settle(pico(2), CameTo::Cost(pico(2)));
        tokio::time::advance(ASKS_AGAIN_AFTER).await;
        assert!(exchange(&purse, &mut budget));
        assert_eq!(dear.await.unwrap(), Err(Out), "it alone is left, and does not fit");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_for_good_is_asked_for_by_nobody_meanwhile() {
        let (purse, mut budget) = (purse(100), Budget::default());
        let first = taking(&purse, 10).await;
        exchange(&purse, &mut budget);
        first.await.unwrap().unwrap();
        purse.settle(pico(10), CameTo::Cost(pico(7)));
        let spent = purse.close();
        let waits = taking(&purse, 5).await;
        assert!(!exchange(&purse, &mut budget) && purse.is_closing());
        // Told twice, because the answer to the first was lost.
        budget.end(SESSION, spent);
        budget.end(SESSION, spent);
        purse.closed(spent);
        assert!(exchange(&purse, &mut budget));
        assert_eq!(waits.await.unwrap(), Ok(()));
        assert_eq!((budget.spent(), budget.held()), (pico(7), pico(5)));
    }
}
