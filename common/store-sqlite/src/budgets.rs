//! `Budgets`: accounts of money, one row each.

use async_trait::async_trait;
use promptmill_domain::budget::{Budget, BudgetScope};
use promptmill_ports::{BudgetRecord, Budgets, StoreResult};
use rusqlite::{OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::{from_json, int, to_json};
use crate::fault::Fault;

/// What the tables gained for accounts of money.
pub(crate) const STEP: &str = "
    CREATE TABLE budgets(
        scope TEXT PRIMARY KEY, ver INTEGER NOT NULL, is_open INTEGER NOT NULL, at_ms INTEGER NOT NULL, budget TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX budgets_open ON budgets(scope) WHERE is_open;
    CREATE INDEX budgets_at ON budgets(at_ms) WHERE NOT is_open;
";

/// Accounts that are removed in one step.
const PER_STEP: u32 = 1_000;

#[async_trait]
impl Budgets for SqliteStore {
    async fn budget(&self, scope: &BudgetScope) -> StoreResult<BudgetRecord> {
        let scope = scope.to_string();
        self.read(move |db| {
            let mut statement = db.prepare_cached("SELECT ver, budget FROM budgets WHERE scope = ?1")?;
            let found = statement.query_row([scope], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
            let Some((ver, budget)) = found.optional()? else { return Ok(BudgetRecord::default()) };
            Ok(BudgetRecord { ver, budget: from_json(&budget, "an account of money")? })
        })
        .await
    }

    async fn put_budget(
        &self,
        scope: &BudgetScope,
        ver: u64,
        budget: &Budget,
        now_ms: u64,
    ) -> StoreResult<bool> {
        let (scope, is_open, budget) = (scope.to_string(), budget.is_open(), to_json(budget));
        self.write(budget.len(), move |db| {
            let sql = match ver {
                0 => {
                    "INSERT INTO budgets(scope, ver, is_open, at_ms, budget) VALUES (?1, ?2 + 1, ?3, ?4, ?5) ON CONFLICT DO NOTHING"
                }
                _ => {
                    "UPDATE budgets SET ver = ?2 + 1, is_open = ?3, at_ms = ?4, budget = ?5 WHERE scope = ?1 AND ver = ?2"
                }
            };
            let mut statement = db.prepare_cached(sql)?;
            Ok(statement.execute(params![scope, int(ver), is_open, int(now_ms), budget])? == 1)
        })
        .await
    }

    async fn open_budgets(&self, after: Option<&BudgetScope>, limit: u32) -> StoreResult<Vec<BudgetScope>> {
        let after = after.map_or_else(String::new, ToString::to_string);
        self.read(move |db| {
            let sql = "SELECT scope FROM budgets WHERE is_open AND scope > ?1 ORDER BY scope LIMIT ?2";
            let mut statement = db.prepare_cached(sql)?;
            let keys: Vec<String> =
                statement.query_map(params![after, limit], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let unread = || Fault::corrupt("the key of an account of money");
            keys.iter().map(|key| BudgetScope::from_key(key).ok_or_else(unread)).collect()
        })
        .await
    }

    async fn forget_budgets(&self, before_ms: u64) -> StoreResult<u32> {
        self.write(0, move |db| {
            let sql = "DELETE FROM budgets WHERE scope IN
                (SELECT scope FROM budgets WHERE NOT is_open AND at_ms < ?1 LIMIT ?2)";
            let removed = db.prepare_cached(sql)?.execute(params![int(before_ms), PER_STEP])?;
            Ok(u32::try_from(removed).unwrap_or(u32::MAX))
        })
        .await
    }
}
