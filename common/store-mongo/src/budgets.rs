//! `Budgets`: accounts of money, one document each.

use async_trait::async_trait;
use mongodb::bson::doc;
use promptmill_domain::budget::{Budget, BudgetScope};
use promptmill_ports::{BudgetRecord, Budgets, StoreResult};

use crate::MongoStore;
use crate::codec::{Fields, corrupt, from_json, int, to_json};
use crate::collections::BUDGETS;
use crate::commands::{Concern, Query, Update};

/// Accounts that are removed in one step.
const PER_STEP: u32 = 1_000;

#[async_trait]
impl Budgets for MongoStore {
    async fn budget(&self, scope: &BudgetScope) -> StoreResult<BudgetRecord> {
        let query = Query::of(doc! { "_id": scope.to_string() });
        let Some(found) = self.commands().find_one(BUDGETS, query, Concern::Majority).await? else {
            return Ok(BudgetRecord::default());
        };
        let fields = Fields(&found);
        let budget = from_json(fields.text("budget")?, "an account of money")?;
        Ok(BudgetRecord { ver: fields.uint("ver")?, budget })
    }

    async fn put_budget(
        &self,
        scope: &BudgetScope,
        ver: u64,
        budget: &Budget,
        now_ms: u64,
    ) -> StoreResult<bool> {
        let content = doc! {
            "ver": int(ver) + 1, "is_open": budget.is_open(), "at_ms": int(now_ms), "budget": to_json(budget),
        };
        if ver == 0 {
            let mut document = doc! { "_id": scope.to_string() };
            document.extend(content);
            return self.commands().insert_one(BUDGETS, &document).await;
        }
        let filter = doc! { "_id": scope.to_string(), "ver": int(ver) };
        let update = Update::this(filter, doc! { "$set": content });
        Ok(self.commands().update(BUDGETS, vec![update]).await?.n == 1)
    }

    async fn open_budgets(&self, after: Option<&BudgetScope>, limit: u32) -> StoreResult<Vec<BudgetScope>> {
        let after = after.map_or_else(String::new, ToString::to_string);
        let query = Query::of(doc! { "is_open": true, "_id": { "$gt": after } });
        let query = query.fields(doc! { "_id": 1 }).sort(doc! { "_id": 1 }).limit(limit);
        let found = self.commands().find(BUDGETS, query, Concern::Majority).await?;
        let read = |document| {
            let key = Fields(document).text("_id")?;
            BudgetScope::from_key(key).ok_or_else(|| corrupt("the key of an account of money"))
        };
        found.iter().map(read).collect()
    }

    async fn forget_budgets(&self, before_ms: u64) -> StoreResult<u32> {
        let outlived = doc! { "is_open": false, "at_ms": { "$lt": int(before_ms) } };
        let query = Query::of(outlived.clone()).fields(doc! { "_id": 1 }).limit(PER_STEP);
        let found = self.commands().find(BUDGETS, query, Concern::Majority).await?;
        if found.is_empty() {
            return Ok(0);
        }
        let ids: Vec<_> = found.iter().filter_map(|document| document.get("_id").cloned()).collect();
        let mut filter = doc! { "_id": { "$in": ids } };
        filter.extend(outlived);
        let removed = self.commands().delete(BUDGETS, filter).await?;
        Ok(u32::try_from(removed).unwrap_or(u32::MAX))
    }
}
