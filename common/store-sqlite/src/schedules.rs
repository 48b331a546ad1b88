//! `Schedules` and `Ticks`: what recurs, one row each, with the columns that are looked for beside the record itself.

use async_trait::async_trait;
use promptmill_domain::{Schedule, ScheduleId, TenantId, Tick};
use promptmill_ports::{Schedules, StoreError, StoreResult, TickKey, Ticks};
use rusqlite::{OptionalExtension as _, Row, params};

use crate::SqliteStore;
use crate::batches::{from_json, int, to_json};
use crate::fault::Fault;

/// About what a tick costs in a group.
const TICK: usize = 256;

/// What the tables gained for schedules.
pub(crate) const STEP: &str = "
    CREATE TABLE schedules(
        id BLOB PRIMARY KEY, tenant TEXT NOT NULL, ver INTEGER NOT NULL, look_ms INTEGER, schedule TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX schedules_tenant ON schedules(tenant, id);
    CREATE INDEX schedules_look ON schedules(look_ms) WHERE look_ms IS NOT NULL;

    CREATE TABLE ticks(
        schedule BLOB NOT NULL, at_ms INTEGER NOT NULL, tenant TEXT NOT NULL, ver INTEGER NOT NULL, open INTEGER NOT NULL,
        tick TEXT NOT NULL, PRIMARY KEY (schedule, at_ms)) WITHOUT ROWID;
    CREATE INDEX ticks_open ON ticks(schedule, at_ms) WHERE open = 1;
    CREATE INDEX ticks_over ON ticks(at_ms) WHERE open = 0;

    CREATE TRIGGER schedules_counted AFTER INSERT ON schedules BEGIN
        INSERT INTO stored_bytes(tenant, bytes) SELECT NEW.tenant, 0
            WHERE NOT EXISTS (SELECT 1 FROM stored_bytes WHERE tenant = NEW.tenant);
        UPDATE stored_bytes SET records = records + octet_length(NEW.schedule) WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER schedules_recounted AFTER UPDATE OF schedule ON schedules BEGIN
        UPDATE stored_bytes SET records = records + octet_length(NEW.schedule) - octet_length(OLD.schedule)
            WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER schedules_uncounted AFTER DELETE ON schedules BEGIN
        UPDATE stored_bytes SET records = records - octet_length(OLD.schedule) WHERE tenant = OLD.tenant;
    END;
";

/// The record in the first column.
fn text(row: &Row<'_>) -> rusqlite::Result<String> {
    row.get(0)
}

/// Those of the records that can be read.
fn readable<T: serde::de::DeserializeOwned>(
    found: impl Iterator<Item = rusqlite::Result<String>>,
    what: &'static str,
) -> Result<Vec<T>, Fault> {
    let mut all = Vec::new();
    for text in found {
        match from_json(&text?, what) {
            Ok(record) => all.push(record),
            // The others must not wait for one that is damaged.
            Err(_) => tracing::error!("{what} is damaged and left out"),
        }
    }
    Ok(all)
}

#[async_trait]
impl Schedules for SqliteStore {
    async fn put_schedule(&self, schedule: &Schedule) -> StoreResult<bool> {
        let json = to_json(schedule);
        let (id, tenant, ver) = (schedule.id, schedule.tenant.clone(), schedule.ver);
        let look_ms = schedule.look_ms().map(int);
        self.write(json.len(), move |db| {
            let sql = match ver {
                0 | 1 => {
                    "INSERT INTO schedules(id, tenant, ver, look_ms, schedule) VALUES (?1, ?2, ?3, ?4, ?5)
                        ON CONFLICT DO NOTHING"
                }
                _ => {
                    "UPDATE schedules SET ver = ?3, look_ms = ?4, schedule = ?5
                        WHERE id = ?1 AND tenant = ?2 AND ver = ?3 - 1"
                }
            };
            let values = params![id.as_bytes(), tenant.as_str(), int(ver), look_ms, json];
            Ok(db.prepare_cached(sql)?.execute(values)? == 1)
        })
        .await
    }

    async fn schedule(&self, tenant: &TenantId, id: ScheduleId) -> StoreResult<Schedule> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT schedule FROM schedules WHERE id = ?1 AND tenant = ?2";
            let known = params![id.as_bytes(), tenant.as_str()];
            let found = db.prepare_cached(sql)?.query_row(known, text).optional()?;
            from_json(&found.ok_or(Fault::Store(StoreError::NotFound))?, "a schedule")
        })
        .await
    }

    async fn schedules(
        &self,
        tenant: &TenantId,
        after: Option<ScheduleId>,
        limit: u32,
    ) -> StoreResult<Vec<Schedule>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT schedule FROM schedules WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
            let mut statement = db.prepare_cached(sql)?;
            let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
            let found = statement.query_map(params![tenant.as_str(), after, limit], text)?;
            found.map(|text| from_json(&text?, "a schedule")).collect()
        })
        .await
    }

    async fn schedule_count(&self, tenant: &TenantId) -> StoreResult<u64> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT count(*) FROM schedules WHERE tenant = ?1";
            Ok(db.prepare_cached(sql)?.query_row([tenant.as_str()], |row| row.get(0))?)
        })
        .await
    }

    async fn delete_schedule(&self, tenant: &TenantId, id: ScheduleId) -> StoreResult<bool> {
        let tenant = tenant.clone();
        self.write(TICK, move |db| {
            let sql = "DELETE FROM schedules WHERE id = ?1 AND tenant = ?2";
            let was_there = db.prepare_cached(sql)?.execute(params![id.as_bytes(), tenant.as_str()])? == 1;
            if was_there {
                db.prepare_cached("DELETE FROM ticks WHERE schedule = ?1")?.execute([id.as_bytes()])?;
            }
            Ok(was_there)
        })
        .await
    }

    async fn schedules_due(&self, now_ms: u64, limit: u32) -> StoreResult<Vec<Schedule>> {
        self.read(move |db| {
            let sql = "SELECT schedule FROM schedules WHERE look_ms <= ?1 ORDER BY look_ms LIMIT ?2";
            let mut statement = db.prepare_cached(sql)?;
            readable(statement.query_map(params![int(now_ms), limit], text)?, "a schedule")
        })
        .await
    }
}

#[async_trait]
impl Ticks for SqliteStore {
    async fn add_ticks(&self, ticks: &[Tick]) -> StoreResult<()> {
        let ticks: Vec<_> = ticks.iter().map(|tick| (tick.clone(), to_json(tick))).collect();
        self.write(TICK * ticks.len(), move |db| {
            let sql =
                "INSERT INTO ticks(schedule, at_ms, tenant, ver, open, tick) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT DO NOTHING";
            let mut insert = db.prepare_cached(sql)?;
            for (tick, json) in &ticks {
                let (schedule, tenant) = (tick.schedule.as_bytes(), tick.tenant.as_str());
                let (at, ver) = (int(tick.at_ms), int(tick.ver));
                insert.execute(params![schedule, at, tenant, ver, tick.state.is_open(), json])?;
            }
            Ok(())
        })
        .await
    }

    async fn put_tick(&self, tick: &Tick) -> StoreResult<bool> {
        let (tick, json) = (tick.clone(), to_json(tick));
        self.write(TICK, move |db| {
            let sql = "UPDATE ticks SET ver = ?4, open = ?5, tick = ?6
                WHERE schedule = ?1 AND at_ms = ?2 AND tenant = ?3 AND ver = ?4 - 1";
            let (schedule, tenant) = (tick.schedule.as_bytes(), tick.tenant.as_str());
            let (at, ver) = (int(tick.at_ms), int(tick.ver));
            let values = params![schedule, at, tenant, ver, tick.state.is_open(), json];
            Ok(db.prepare_cached(sql)?.execute(values)? == 1)
        })
        .await
    }

    async fn tick(&self, tenant: &TenantId, schedule: ScheduleId, at_ms: u64) -> StoreResult<Tick> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT tick FROM ticks WHERE schedule = ?1 AND at_ms = ?2 AND tenant = ?3";
            let known = params![schedule.as_bytes(), int(at_ms), tenant.as_str()];
            let found = db.prepare_cached(sql)?.query_row(known, text).optional()?;
            from_json(&found.ok_or(Fault::Store(StoreError::NotFound))?, "a tick")
        })
        .await
    }

    async fn ticks(
        &self,
        tenant: &TenantId,
        schedule: ScheduleId,
        before_ms: Option<u64>,
        limit: u32,
    ) -> StoreResult<Vec<Tick>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let sql = "SELECT tick FROM ticks WHERE schedule = ?1 AND at_ms < ?2 AND tenant = ?3
                ORDER BY at_ms DESC LIMIT ?4";
            let mut statement = db.prepare_cached(sql)?;
            let before = before_ms.map_or(i64::MAX, int);
            let found =
                statement.query_map(params![schedule.as_bytes(), before, tenant.as_str(), limit], text)?;
            found.map(|text| from_json(&text?, "a tick")).collect()
        })
        .await
    }

    async fn open_ticks(&self, after: Option<TickKey>, limit: u32) -> StoreResult<Vec<Tick>> {
        self.read(move |db| {
            let sql = "SELECT tick FROM ticks WHERE open = 1 AND (schedule, at_ms) > (?1, ?2)
                ORDER BY schedule, at_ms LIMIT ?3";
            let (schedule, at_ms) =
                after.map_or((Vec::new(), 0), |(schedule, at_ms)| (schedule.as_bytes().to_vec(), int(at_ms)));
            let mut statement = db.prepare_cached(sql)?;
            readable(statement.query_map(params![schedule, at_ms, limit], text)?, "a tick")
        })
        .await
    }

    async fn forget_ticks(&self, before_ms: u64, limit: u32) -> StoreResult<u32> {
        self.write(TICK, move |db| {
            let sql = "DELETE FROM ticks WHERE (schedule, at_ms) IN
                (SELECT schedule, at_ms FROM ticks WHERE open = 0 AND at_ms < ?1 ORDER BY at_ms LIMIT ?2)";
            let removed = db.prepare_cached(sql)?.execute(params![int(before_ms), limit])?;
            Ok(u32::try_from(removed).unwrap_or(u32::MAX))
        })
        .await
    }
}
