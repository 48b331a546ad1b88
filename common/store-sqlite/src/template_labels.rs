//! `TemplateLabels`: names for versions of a template, one row each.

use async_trait::async_trait;
use promptmill_domain::{TemplateId, TenantId};
use promptmill_ports::{
    MOST_TEMPLATE_LABELS, StoreError, StoreResult, TemplateKey, TemplateLabel, TemplateLabels,
};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::SqliteStore;
use crate::batches::int;
use crate::fault::Fault;
use crate::templates::{TemplateNum, find};

/// What the tables gained for labels of templates.
pub(crate) const STEP: &str = "
    CREATE TABLE template_labels(
        num INTEGER NOT NULL, label TEXT NOT NULL, version INTEGER NOT NULL, changed_ms INTEGER NOT NULL,
        PRIMARY KEY (num, label)) WITHOUT ROWID;
";

/// About what a label costs in a group.
const SMALL: usize = 512;

#[async_trait]
impl TemplateLabels for SqliteStore {
    async fn put_label(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        label: &str,
        version: u32,
        now_ms: u64,
    ) -> StoreResult<TemplateLabel> {
        let (tenant, label) = (tenant.clone(), label.to_owned());
        self.write(SMALL, move |db| {
            let found = find(db, &tenant, &TemplateKey::Id(id))?;
            if !(1..=found.template.latest).contains(&version) {
                return Err(Fault::Store(StoreError::NotFound));
            }
            put(db, found.num, TemplateLabel { label, version, changed_ms: now_ms })
        })
        .await
    }

    async fn remove_label(&self, tenant: &TenantId, id: TemplateId, label: &str) -> StoreResult<bool> {
        let (tenant, label) = (tenant.clone(), label.to_owned());
        self.write(SMALL, move |db| {
            let sql = "DELETE FROM template_labels WHERE label = ?3
                AND num = (SELECT num FROM templates WHERE tenant = ?1 AND id = ?2)";
            let which = params![tenant.as_str(), id.as_bytes(), label];
            Ok(db.prepare_cached(sql)?.execute(which)? == 1)
        })
        .await
    }

    async fn labels(&self, tenant: &TenantId, id: TemplateId) -> StoreResult<Vec<TemplateLabel>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let num = find(db, &tenant, &TemplateKey::Id(id))?.num;
            let sql = "SELECT label, version, changed_ms FROM template_labels WHERE num = ?1 ORDER BY label";
            let mut statement = db.prepare_cached(sql)?;
            let labels = statement.query_map([num.0], |row| {
                Ok(TemplateLabel { label: row.get(0)?, version: row.get(1)?, changed_ms: row.get(2)? })
            })?;
            Ok(labels.collect::<Result<_, _>>()?)
        })
        .await
    }
}

/// Puts a label on a version that is there.
fn put(db: &Connection, num: TemplateNum, wanted: TemplateLabel) -> Result<TemplateLabel, Fault> {
    let sql = "SELECT version, changed_ms FROM template_labels WHERE num = ?1 AND label = ?2";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, u32>(0)?, row.get::<_, u64>(1)?));
    match db.prepare_cached(sql)?.query_row(params![num.0, wanted.label], read).optional()? {
        Some((version, changed_ms)) if version == wanted.version => {
            return Ok(TemplateLabel { changed_ms, ..wanted });
        }
        Some(_) => {}
        None => {
            let sql = "SELECT count(*) FROM template_labels WHERE num = ?1";
            let count: usize = db.prepare_cached(sql)?.query_row([num.0], |row| row.get(0))?;
            if count >= MOST_TEMPLATE_LABELS {
                let words = format!("a template has at most {MOST_TEMPLATE_LABELS} labels");
                return Err(Fault::Store(StoreError::Conflict(words)));
            }
        }
    }
    let sql = "INSERT INTO template_labels(num, label, version, changed_ms) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET version = excluded.version, changed_ms = excluded.changed_ms";
    let values = params![num.0, wanted.label, wanted.version, int(wanted.changed_ms)];
    db.prepare_cached(sql)?.execute(values)?;
    Ok(wanted)
}
