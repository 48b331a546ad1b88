//! `Templates`: named prompt programs and their versions.

use async_trait::async_trait;
use promptmill_domain::{TemplateId, TenantId};
use promptmill_ports::{StoreError, StoreResult, StoredTemplate, TemplateKey, TemplateVersion, Templates};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::SqliteStore;
use crate::batches::int;
use crate::fault::Fault;

/// About what a record without a text costs in a group.
const SMALL: usize = 512;

#[async_trait]
impl Templates for SqliteStore {
    async fn add_template(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        name: &str,
        source: &str,
        now_ms: u64,
    ) -> StoreResult<StoredTemplate> {
        let (tenant, name, source) = (tenant.clone(), name.to_owned(), source.to_owned());
        self.write(SMALL + source.len(), move |db| add_template(db, &tenant, id, name, &source, now_ms)).await
    }

    async fn add_version(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        after: u32,
        source: &str,
        now_ms: u64,
    ) -> StoreResult<StoredTemplate> {
        let (tenant, source) = (tenant.clone(), source.to_owned());
        self.write(SMALL + source.len(), move |db| add_version(db, &tenant, id, after, &source, now_ms)).await
    }

    async fn template(&self, tenant: &TenantId, key: &TemplateKey) -> StoreResult<StoredTemplate> {
        let (tenant, key) = (tenant.clone(), key.clone());
        self.read(move |db| Ok(find(db, &tenant, &key)?.template)).await
    }

    async fn version(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        version: Option<u32>,
    ) -> StoreResult<TemplateVersion> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let found = find(db, &tenant, &TemplateKey::Id(id))?;
            let version = version.unwrap_or(found.template.latest);
            let sql = "SELECT source, created_ms FROM template_versions WHERE id = ?1";
            let read =
                |row: &Row<'_>| Ok(TemplateVersion { version, source: row.get(0)?, created_ms: row.get(1)? });
            let stored = db.prepare_cached(sql)?.query_row([found.num.key(version)], read).optional()?;
            stored.ok_or(Fault::Store(StoreError::NotFound))
        })
        .await
    }

    async fn templates(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<StoredTemplate>> {
        // No name is empty, so all of them stand behind the empty text.
        let (tenant, after) = (tenant.clone(), after.unwrap_or_default().to_owned());
        self.read(move |db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM templates WHERE tenant = ?1 AND name > ?2 ORDER BY name LIMIT ?3"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let rows = statement.query_map(params![tenant.as_str(), after, limit], Found::read)?;
            rows.map(|found| Ok(found?.template)).collect()
        })
        .await
    }

    async fn versions(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        below: Option<u32>,
        limit: u32,
    ) -> StoreResult<Vec<(u32, u64)>> {
        let tenant = tenant.clone();
        self.read(move |db| {
            let num = find(db, &tenant, &TemplateKey::Id(id))?.num;
            let last = below.map_or(num.key(u32::MAX), |below| num.key(below) - 1);
            let sql = "SELECT id & 0xffffffff, created_ms FROM template_versions WHERE id BETWEEN ?1 AND ?2
                ORDER BY id DESC LIMIT ?3";
            let mut statement = db.prepare_cached(sql)?;
            let range = params![num.key(0), last, limit];
            let rows = statement.query_map(range, |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn delete_template(&self, tenant: &TenantId, id: TemplateId, latest: u32) -> StoreResult<()> {
        let tenant = tenant.clone();
        self.write(SMALL, move |db| {
            let found = find(db, &tenant, &TemplateKey::Id(id))?;
            if found.template.latest != latest {
                return Err(not_newest(latest, found.template.latest));
            }
            let versions = params![found.num.key(0), found.num.key(u32::MAX)];
            db.prepare_cached("DELETE FROM template_versions WHERE id BETWEEN ?1 AND ?2")?
                .execute(versions)?;
            db.prepare_cached("DELETE FROM template_labels WHERE num = ?1")?.execute([found.num.0])?;
            db.prepare_cached("DELETE FROM templates WHERE num = ?1")?.execute([found.num.0])?;
            Ok(())
        })
        .await
    }
}

fn add_template(
    db: &Connection,
    tenant: &TenantId,
    id: TemplateId,
    name: String,
    source: &str,
    now_ms: u64,
) -> Result<StoredTemplate, Fault> {
    match find(db, tenant, &TemplateKey::Id(id)) {
        Ok(found) => return Ok(found.template),
        Err(Fault::Store(StoreError::NotFound)) => {}
        Err(fault) => return Err(fault),
    }
    let sql = "SELECT count(*) FROM templates WHERE tenant = ?1 AND name = ?2";
    if db.prepare_cached(sql)?.query_row(params![tenant.as_str(), name], |row| row.get::<_, i64>(0))? > 0 {
        return Err(Fault::Store(StoreError::Conflict(format!("there is a template {name:?} already"))));
    }
    let sql = "INSERT INTO templates(id, tenant, name, latest, created_ms, updated_ms) VALUES (?1, ?2, ?3, 1, ?4, ?4)
        ON CONFLICT (id) DO NOTHING";
    let values = params![id.as_bytes(), tenant.as_str(), name, int(now_ms)];
    if db.prepare_cached(sql)?.execute(values)? == 0 {
        return Err(Fault::conflict("the template id is taken"));
    }
    let num = TemplateNum(db.last_insert_rowid());
    if num.0 > i64::from(i32::MAX) {
        // The number is the upper half of a signed 64-bit key.
        return Err(Fault::conflict("this store has no more numbers for templates"));
    }
    insert_version(db, num, 1, source, now_ms)?;
    Ok(StoredTemplate { id, name, latest: 1, created_ms: now_ms, updated_ms: now_ms })
}

fn add_version(
    db: &Connection,
    tenant: &TenantId,
    id: TemplateId,
    after: u32,
    source: &str,
    now_ms: u64,
) -> Result<StoredTemplate, Fault> {
    let Found { num, mut template } = find(db, tenant, &TemplateKey::Id(id))?;
    // The newest has the text, or an earlier call of the same step added it before others came.
    if has_text(db, num, template.latest, source)?
        || (after < template.latest && has_text(db, num, after + 1, source)?)
    {
        return Ok(template);
    }
    if after != template.latest {
        return Err(not_newest(after, template.latest));
    }
    let Some(version) = after.checked_add(1) else {
        return Err(Fault::conflict("the template has no more version numbers"));
    };
    insert_version(db, num, version, source, now_ms)?;
    db.prepare_cached("UPDATE templates SET latest = ?2, updated_ms = ?3 WHERE num = ?1")?
        .execute(params![num.0, version, int(now_ms)])?;
    (template.latest, template.updated_ms) = (version, now_ms);
    Ok(template)
}

fn has_text(db: &Connection, num: TemplateNum, version: u32, source: &str) -> Result<bool, Fault> {
    let sql = "SELECT EXISTS (SELECT 1 FROM template_versions WHERE id = ?1 AND source = ?2)";
    Ok(db.prepare_cached(sql)?.query_row(params![num.key(version), source], |row| row.get(0))?)
}

fn insert_version(
    db: &Connection,
    num: TemplateNum,
    version: u32,
    source: &str,
    now_ms: u64,
) -> Result<(), Fault> {
    let sql = "INSERT INTO template_versions(id, created_ms, source) VALUES (?1, ?2, ?3)";
    db.prepare_cached(sql)?.execute(params![num.key(version), int(now_ms), source])?;
    Ok(())
}

fn not_newest(asked: u32, newest: u32) -> Fault {
    Fault::Store(StoreError::Conflict(format!("the newest version is {newest}, not {asked}")))
}

/// A template's number: the upper half of the keys of its versions. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TemplateNum(pub(crate) i64);

impl TemplateNum {
    fn key(self, version: u32) -> i64 {
        (self.0 << 32) | i64::from(version)
    }
}

/// A template with its number.
pub(crate) struct Found {
    pub(crate) num: TemplateNum,
    pub(crate) template: StoredTemplate,
}

const COLUMNS: &str = "num, id, name, latest, created_ms, updated_ms";

impl Found {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let template = StoredTemplate {
            id: TemplateId::from_bytes(row.get(1)?),
            name: row.get(2)?,
            latest: row.get(3)?,
            created_ms: row.get(4)?,
            updated_ms: row.get(5)?,
        };
        Ok(Self { num: TemplateNum(row.get(0)?), template })
    }
}

/// The template of this tenant.
///
/// # Errors
/// `NotFound` when there is none.
pub(crate) fn find(db: &Connection, tenant: &TenantId, key: &TemplateKey) -> Result<Found, Fault> {
    let found = match key {
        TemplateKey::Id(id) => {
            let sql = format!("SELECT {COLUMNS} FROM templates WHERE tenant = ?1 AND id = ?2");
            db.prepare_cached(&sql)?.query_row(params![tenant.as_str(), id.as_bytes()], Found::read)
        }
        TemplateKey::Name(name) => {
            let sql = format!("SELECT {COLUMNS} FROM templates WHERE tenant = ?1 AND name = ?2");
            db.prepare_cached(&sql)?.query_row(params![tenant.as_str(), name], Found::read)
        }
    };
    found.optional()?.ok_or(Fault::Store(StoreError::NotFound))
}
