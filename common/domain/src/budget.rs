//! Money that several processes spend of one limit: each holds a part of it before it spends, so that all of them together stay within.
//!
//! A process tells absolute values: what it spent in all under its session, and what calls under way may still cost. Whatever is told
//! twice is counted once. What a session held that died may have been spent, and nobody knows: it stays counted as unknown spend.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::ids::{BatchId, SessionId, TenantId};
use crate::money::Money;

/// Sessions that are kept by themselves after they died; of older ones the sum is.
const KEPT_DEATHS: usize = 256;

/// A length of time that a tenant has a limit for, by UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A day.
    Day,
    /// A month.
    Month,
}

impl Period {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Day, Self::Month];

    /// The name in JSON and words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// Which one a moment (Unix milliseconds) lies in: `2026-11-28`, `2026-11`.
    pub fn of(self, at_ms: u64) -> String {
        let moment = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let date = moment.unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).date();
        match self {
            Self::Day => date.to_string(),
            Self::Month => format!("{:04}-{:02}", date.year(), date.month()),
        }
    }
}

/// What tenants may spend in a day and in a month; of one that is not named, what all others may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantCosts(HashMap<(Option<TenantId>, Period), Money>);

impl TenantCosts {
    /// Sets a limit of a tenant, or of every one that has none of its own.
    pub fn set(&mut self, tenant: Option<TenantId>, period: Period, most: Money) {
        self.0.insert((tenant, period), most);
    }

    /// The limit of a tenant.
    pub fn of(&self, tenant: &TenantId, period: Period) -> Option<Money> {
        let of_all = || self.0.get(&(None, period));
        self.0.get(&(Some(tenant.clone()), period)).or_else(of_all).copied()
    }

    /// Whether nobody has a limit.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a limit is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BudgetScope {
    /// A batch.
    Batch(BatchId),
    /// A tenant, in the period of that name.
    Tenant {
        /// Whose.
        tenant: TenantId,
        /// A day or a month.
        period: Period,
        /// Which one ([`Period::of`]).
        name: String,
    },
}

impl BudgetScope {
    /// A tenant's, of the period that `at_ms` lies in.
    pub fn of_tenant(tenant: TenantId, period: Period, at_ms: u64) -> Self {
        Self::Tenant { tenant, period, name: period.of(at_ms) }
    }

    /// The scope of that key.
    pub fn from_key(key: &str) -> Option<Self> {
        let (kind, rest) = key.split_once('/')?;
        if kind == "batch" {
            return rest.parse().ok().map(Self::Batch);
        }
        let (tenant, name) = rest.rsplit_once('/')?;
        let period = Period::ALL.into_iter().find(|period| period.as_str() == kind)?;
        Some(Self::Tenant { tenant: tenant.parse().ok()?, period, name: name.to_owned() })
    }
}

/// The key of a store: `batch/batch_...`, `day/acme/2026-11-28`, `month/acme/2026-11`.
impl fmt::Display for BudgetScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(batch) => write!(f, "batch/{batch}"),
            Self::Tenant { tenant, period, name } => write!(f, "{}/{tenant}/{name}", period.as_str()),
        }
    }
}

/// What a session spends of a budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Spent in all.
    pub spent: Money,
    /// What it may still spend without asking again.
    pub held: Money,
}

/// Money of which nobody knows whether it was spent: what a session held when it died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownSpend {
    /// The session.
    pub session: SessionId,
    /// What it held.
    pub amount: Money,
    /// When it was found dead, Unix milliseconds.
    pub at_ms: u64,
}

/// What a session asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldRequest {
    /// Who.
    pub session: SessionId,
    /// What it spent in all under this session.
    pub spent: Money,
    /// What its calls under way may cost: held whatever the limit says, because they were begun within an earlier one.
    pub reserved: Money,
    /// What it needs beyond at least to begin one more call; with less room it is given nothing, so that nobody sits on what is too little.
    pub least: Money,
    /// What it would like beyond.
    pub wants: Money,
    /// What is known to have been spent at least, by whomever: before there was a limit nobody told.
    pub floor: Money,
    /// The limit.
    pub limit: Money,
}

/// What a session is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// What it may spend beyond what its calls under way may cost.
    pub beyond: Money,
    /// What others hold, and so may give back.
    pub held_by_others: Money,
}

/// The session was found dead: what it held is counted as unknown, and it is given nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced;

/// One limit's account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Spent by sessions that ended, and before anyone told.
    settled: Money,
    /// Those that may spend.
    open: BTreeMap<SessionId, Hold>,
    /// Those that died.
    died: Vec<UnknownSpend>,
    /// What the ones held that died before those.
    died_before: Money,
}

impl Budget {
    /// Spent, as far as it is known.
    pub fn spent(&self) -> Money {
        self.settled + self.open.values().map(|hold| hold.spent).sum()
    }

    /// Held by sessions that live.
    pub fn held(&self) -> Money {
        self.open.values().map(|hold| hold.held).sum()
    }

    /// Held by sessions that died.
    pub fn unknown(&self) -> Money {
        self.died_before + self.died.iter().map(|died| died.amount).sum()
    }

    /// What each session that died may have spent, the oldest first.
    pub fn unknown_spend(&self) -> impl Iterator<Item = &UnknownSpend> {
        self.died.iter().filter(|died| died.amount > Money::ZERO)
    }

    /// Those that may spend.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.open.keys().copied()
    }

    /// Whether anyone may spend.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Takes down what a session spent and gives it what there is room for.
    ///
    /// # Errors
    /// [`Fenced`] when it was found dead.
    pub fn hold(&mut self, request: &HoldRequest) -> Result<Granted, Fenced> {
        if self.died.iter().any(|died| died.session == request.session) {
            return Err(Fenced);
        }
        let hold = self.open.entry(request.session).or_default();
        hold.spent = hold.spent.max(request.spent);
        hold.held = request.reserved;
        self.settled += request.floor.less(self.spent() + self.held() + self.unknown());
        let room = request.limit.less(self.spent() + self.held() + self.unknown());
        let fits = room > Money::ZERO && room >= request.least;
        let beyond = if fits { room.min(request.wants.max(request.least)) } else { Money::ZERO };
        let hold = self.open.entry(request.session).or_default();
        hold.held += beyond;
        let held_by_others = self.held().less(request.reserved + beyond);
        Ok(Granted { beyond, held_by_others })
    }

    /// A session spends nothing more, and spent this in all.
    pub fn end(&mut self, session: SessionId, spent: Money) {
        if let Some(hold) = self.open.remove(&session) {
            self.settled += hold.spent.max(spent);
        }
    }

    /// A session was found dead at `at_ms`. Answers whether that is new.
    pub fn bury(&mut self, session: SessionId, at_ms: u64) -> bool {
        let Some(hold) = self.open.remove(&session) else { return false };
        self.settled += hold.spent;
        self.died.push(UnknownSpend { session, amount: hold.held, at_ms });
        if self.died.len() > KEPT_DEATHS {
            let oldest = self.died.remove(0);
            self.died_before += oldest.amount;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: Money = Money::from_pico(100);

    fn session(n: u8) -> SessionId {
        SessionId::from_bytes([n; 16])
    }

    fn pico(amount: u64) -> Money {
        Money::from_pico(amount)
    }

    fn ask(n: u8, spent: u64, reserved: u64, least: u64, wants: u64) -> HoldRequest {
        HoldRequest {
            session: session(n),
            spent: pico(spent),
            reserved: pico(reserved),
            least: pico(least),
            wants: pico(wants),
            floor: Money::ZERO,
            limit: LIMIT,
        }
    }

    #[test]
    fn each_holds_what_there_is_room_for_and_what_it_gives_back_is_the_others() {
        let mut budget = Budget::default();
        let granted = |beyond, others| Ok(Granted { beyond: pico(beyond), held_by_others: pico(others) });
        assert_eq!(budget.hold(&ask(1, 0, 0, 5, 60)), granted(60, 0));
        assert_eq!(budget.hold(&ask(2, 0, 0, 5, 60)), granted(40, 60));
        // Nothing is left, and what would be too little to begin a call is given to nobody.
        assert_eq!(budget.hold(&ask(3, 0, 0, 5, 60)), granted(0, 100));
        assert_eq!(budget.hold(&ask(1, 50, 10, 0, 0)), granted(0, 40));
        assert_eq!(budget.hold(&ask(2, 38, 0, 3, 3)), granted(0, 10));
        assert_eq!((budget.spent(), budget.held()), (pico(88), pico(10)));
    }

    #[test]
    fn what_is_told_twice_is_counted_once() {
        let mut budget = Budget::default();
        let first = budget.hold(&ask(1, 30, 10, 0, 20));
        let kept = budget.clone();
        assert_eq!(budget.hold(&ask(1, 30, 10, 0, 20)), first);
        assert_eq!(budget, kept);
        budget.end(session(1), pico(45));
        budget.end(session(1), pico(45));
        assert_eq!((budget.spent(), budget.held(), budget.is_open()), (pico(45), Money::ZERO, false));
    }

    #[test]
    fn what_the_dead_held_is_unknown_and_counts() {
        let mut budget = Budget::default();
        budget.hold(&ask(1, 30, 10, 5, 20)).unwrap();
        assert!(budget.bury(session(1), 7) && !budget.bury(session(1), 8));
        assert_eq!((budget.spent(), budget.unknown()), (pico(30), pico(30)));
        let listed: Vec<_> = budget.unknown_spend().cloned().collect();
        assert_eq!(listed, [UnknownSpend { session: session(1), amount: pico(30), at_ms: 7 }]);
        assert_eq!(budget.hold(&ask(1, 60, 0, 0, 10)), Err(Fenced));
        assert_eq!(budget.hold(&ask(2, 0, 0, 5, 60)).unwrap().beyond, pico(40));
    }

    #[test]
    fn what_was_spent_before_anyone_told_counts_once() {
        let mut budget = Budget::default();
        let request = HoldRequest { floor: pico(90), ..ask(1, 0, 0, 5, 60) };
        assert_eq!(budget.hold(&request).unwrap().beyond, pico(10));
        assert_eq!(budget.hold(&HoldRequest { spent: pico(4), ..request }).unwrap().beyond, pico(6));
        assert_eq!(budget.spent(), pico(94));
    }

    #[test]
    fn a_lower_limit_takes_nothing_from_calls_under_way() {
        let mut budget = Budget::default();
        budget.hold(&ask(1, 0, 0, 5, 60)).unwrap();
        let request = HoldRequest { limit: pico(10), ..ask(1, 20, 30, 1, 10) };
        assert_eq!(budget.hold(&request).unwrap().beyond, Money::ZERO);
        assert_eq!((budget.spent(), budget.held()), (pico(20), pico(30)));
    }

    #[test]
    fn a_tenant_that_is_named_has_its_own_limit_and_all_others_have_one() {
        let [acme, other] = ["acme", "other"].map(|name| name.parse::<TenantId>().unwrap());
        let mut costs = TenantCosts::default();
        costs.set(Some(acme.clone()), Period::Day, pico(1));
        costs.set(None, Period::Day, pico(2));
        assert_eq!(
            (costs.of(&acme, Period::Day), costs.of(&other, Period::Day)),
            (Some(pico(1)), Some(pico(2)))
        );
        assert_eq!(costs.of(&acme, Period::Month), None);
    }

    #[test]
    fn a_scope_has_a_key_that_names_it() {
        let at_ms = 1_795_827_600_000;
        for (scope, key) in [
            (
                BudgetScope::Batch(BatchId::from_bytes([1; 16])),
                "batch/batch_01010101010101010101010101010101",
            ),
            (BudgetScope::of_tenant("acme".parse().unwrap(), Period::Day, at_ms), "day/acme/2026-11-28"),
            (BudgetScope::of_tenant("acme".parse().unwrap(), Period::Month, at_ms), "month/acme/2026-11"),
        ] {
            assert_eq!(scope.to_string(), key);
            assert_eq!(BudgetScope::from_key(key), Some(scope));
        }
        for strange in ["", "batch", "batch/x", "year/acme/2026", "day/acme"] {
            assert_eq!(BudgetScope::from_key(strange), None, "{strange}");
        }
    }

    proptest! {
        /// Sessions that spend no more than they hold stay within the limit together, whatever they do and whoever dies.
        #[test]
        fn together_they_stay_within_the_limit(
            steps in prop::collection::vec((0u8..4, 0u64..40, 0u64..30, 0u64..50, any::<bool>()), 1..60)
        ) {
            let mut budget = Budget::default();
            let (mut spent, mut held) = ([0u64; 4], [0u64; 4]);
            for (n, spends, least, wants, dies) in steps {
                let at = usize::from(n);
                let spends = spends.min(held[at]);
                spent[at] += spends;
                held[at] -= spends;
                // Half of what is left is given back.
                let reserved = held[at] / 2;
                if let Ok(granted) = budget.hold(&ask(n, spent[at], reserved, least, wants)) {
                    held[at] = reserved + granted.beyond.pico();
                    prop_assert!(granted.beyond == Money::ZERO || granted.beyond >= pico(least));
                }
                if dies {
                    budget.bury(session(n), 1);
                    held[at] = 0;
                }
                prop_assert!(budget.spent() + budget.held() + budget.unknown() <= LIMIT);
                prop_assert_eq!(budget.spent(), pico(spent.iter().sum()));
            }
        }
    }
}
