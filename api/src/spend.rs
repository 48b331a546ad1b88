//! What is spent of a limit on money.

use promptmill_domain::{Budget, Money};
use serde::Serialize;
use utoipa::ToSchema;

use crate::time::Time;

/// What is spent of a limit, US dollars.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Spend)]
pub(crate) struct SpendView {
    /// Spent, as far as it is known.
    #[schema(value_type = String)]
    spent: Money,
    /// Held for calls under way, and for those that begin next.
    #[schema(value_type = String)]
    held: Money,
    /// Held by processes that died: nobody knows whether it was spent, and it counts.
    #[schema(value_type = String)]
    unknown: Money,
    /// Each process that died, the oldest first.
    unknown_spend: Vec<UnknownSpendView>,
}

/// What a process that died may have spent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UnknownSpend)]
pub(crate) struct UnknownSpendView {
    /// Its session.
    session: String,
    /// What it held.
    #[schema(value_type = String)]
    amount: Money,
    /// When it was found dead.
    at: Time,
}

impl From<&Budget> for SpendView {
    fn from(budget: &Budget) -> Self {
        let unknown_spend = budget.unknown_spend().map(|unknown| UnknownSpendView {
            session: unknown.session.to_string(),
            amount: unknown.amount,
            at: Time(unknown.at_ms),
        });
        Self {
            spent: budget.spent(),
            held: budget.held(),
            unknown: budget.unknown(),
            unknown_spend: unknown_spend.collect(),
        }
    }
}
