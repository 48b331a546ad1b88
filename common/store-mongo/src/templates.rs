//! `Templates`: named prompt programs and their versions.
//!
//! A template is one document that holds the text of its newest version, so adding a version is one compare-and-set of it. What the newest
//! version was is kept in `versions` before; a crash in between leaves a copy of what is still the newest, which the next attempt finds there.
//! Deleting marks the template first, which hides it and frees its name, and removes it last; what a crash leaves in between is removed by
//! whoever meets it, or by the next store that connects.

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use promptmill_domain::{TemplateId, TenantId};
use promptmill_ports::{StoreError, StoreResult, StoredTemplate, TemplateKey, TemplateVersion, Templates};

use crate::MongoStore;
use crate::codec::{Fields, binary, conflict, int};
use crate::collections::TEMPLATES;
use crate::commands::{Commands, Concern, Query, Update, fresh_mark};
use crate::versions::{self, Root};

/// How often a step is begun anew when another one came between.
pub(crate) const TRIES: usize = 8;

#[async_trait]
impl Templates for MongoStore {
    async fn add_template(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        name: &str,
        source: &str,
        now_ms: u64,
    ) -> StoreResult<StoredTemplate> {
        let commands = self.commands();
        let document = doc! {
            "_id": binary(*id.as_bytes()),
            "tenant": tenant.as_str(),
            "name": name,
            "latest": 1_i64,
            "created_ms": int(now_ms),
            "updated_ms": int(now_ms),
            "source": source,
            "root": binary(Root::fresh().0),
            "bytes": int(source.len() as u64),
        };
        for _ in 0..TRIES {
            if commands.insert_one(TEMPLATES, &document).await? {
                self.kept_bytes().add(tenant, source.len());
                return Ok(StoredTemplate {
                    id,
                    name: name.to_owned(),
                    latest: 1,
                    created_ms: now_ms,
                    updated_ms: now_ms,
                });
            }
            let query = Query::of(doc! { "_id": binary(*id.as_bytes()) });
            match commands.find_one(TEMPLATES, query, Concern::Majority).await? {
                Some(there) if Fields(&there).tenant("tenant")? != *tenant => {
                    return Err(conflict("the template id is taken"));
                }
                Some(there) if Fields(&there).has("deleting") => finish_deletion(commands, &there).await?,
                Some(there) => return Ok(Found::read(&there)?.template),
                None => match find(commands, tenant, &TemplateKey::Name(name.to_owned())).await {
                    Ok(_) => return Err(conflict(format!("there is a template {name:?} already"))),
                    // It was deleted after it stood in the way.
                    Err(StoreError::NotFound) => {}
                    Err(error) => return Err(error),
                },
            }
        }
        Err(busy())
    }

    async fn add_version(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        after: u32,
        source: &str,
        now_ms: u64,
    ) -> StoreResult<StoredTemplate> {
        for _ in 0..TRIES {
            let found = find(self.commands(), tenant, &TemplateKey::Id(id)).await?;
            let newest = found.template.latest;
            // The newest has the text, or an earlier call of the same step added it before others came.
            if found.source == source
                || (after < newest && has_text(self.commands(), found.root, after + 1, source).await?)
            {
                return Ok(found.template);
            }
            if after != newest {
                return Err(not_newest(after, newest));
            }
            if let Some(template) = append(self.commands(), found, source, now_ms).await? {
                self.kept_bytes().add(tenant, source.len());
                return Ok(template);
            }
            // Another version came between, or the answer was lost: the next look tells.
        }
        Err(busy())
    }

    async fn template(&self, tenant: &TenantId, key: &TemplateKey) -> StoreResult<StoredTemplate> {
        let query = Query::of(named(tenant, key)).fields(without_text());
        let found = self.commands().find_one(TEMPLATES, query, Concern::Majority).await?;
        template_of(&found.ok_or(StoreError::NotFound)?)
    }

    async fn version(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        version: Option<u32>,
    ) -> StoreResult<TemplateVersion> {
        let found = find(self.commands(), tenant, &TemplateKey::Id(id)).await?;
        match version {
            Some(version) if version > found.template.latest => Err(StoreError::NotFound),
            Some(version) if version < found.template.latest => {
                versions::one(self.commands(), found.root, version).await
            }
            Some(_) | None => Ok(found.newest()),
        }
    }

    async fn templates(
        &self,
        tenant: &TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<StoredTemplate>> {
        // No name is empty, so all of them stand behind the empty text.
        let behind = doc! { "tenant": tenant.as_str(), "name": { "$gt": after.unwrap_or_default() } };
        let query = Query::of(behind).fields(without_text()).sort(doc! { "name": 1 }).limit(limit);
        let found = self.commands().find(TEMPLATES, query, Concern::Majority).await?;
        found.iter().map(template_of).collect()
    }

    async fn versions(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        below: Option<u32>,
        limit: u32,
    ) -> StoreResult<Vec<(u32, u64)>> {
        let query = Query::of(named(tenant, &TemplateKey::Id(id))).fields(without_text());
        let found = self.commands().find_one(TEMPLATES, query, Concern::Majority).await?;
        let found = found.ok_or(StoreError::NotFound)?;
        let template = template_of(&found)?;
        let below = below.unwrap_or(u32::MAX);
        let mut page = Vec::new();
        if template.latest < below && limit > 0 {
            page.push((template.latest, template.updated_ms));
        }
        // A copy of the newest may be kept already.
        let (below, room) = (below.min(template.latest), limit - u32::from(!page.is_empty()));
        page.extend(versions::list(self.commands(), root_of(&found)?, below, room).await?);
        Ok(page)
    }

    async fn delete_template(&self, tenant: &TenantId, id: TemplateId, latest: u32) -> StoreResult<()> {
        let commands = self.commands();
        let mark = fresh_mark();
        let marked = doc! { "_id": binary(*id.as_bytes()), "deleting": mark.clone() };
        for _ in 0..TRIES {
            let query = Query::of(doc! { "_id": binary(*id.as_bytes()), "tenant": tenant.as_str() });
            let found = commands.find_one(TEMPLATES, query.fields(without_text()), Concern::Majority).await?;
            let found = found.ok_or(StoreError::NotFound)?;
            if Fields(&found).has("deleting") {
                // Somebody else's deletion has to be finished; to its caller it is gone already.
                finish_deletion(commands, &found).await?;
                return Err(StoreError::NotFound);
            }
            let stored = template_of(&found)?.latest;
            if stored != latest {
                return Err(not_newest(latest, stored));
            }
            let change = doc! {
                "$set": { "deleting": mark.clone(), "bytes": 0_i64 }, "$unset": { "name": "", "source": "" },
            };
            let newest = unchanged(id, root_of(&found)?, latest);
            let written = commands.update(TEMPLATES, vec![Update::one(newest, change)]).await?;
            let is_ours = written.n == 1
                || commands
                    .find_one(TEMPLATES, Query::of(marked.clone()), Concern::Majority)
                    .await?
                    .is_some();
            if is_ours {
                finish_deletion(commands, &found).await?;
                self.kept_bytes().removed(tenant);
                return Ok(());
            }
        }
        Err(busy())
    }
}

/// Makes `source` the version behind the newest of `found`. `None` when that is not the newest any more, or is what a lost answer told of.
async fn append(
    commands: &Commands,
    found: Found,
    source: &str,
    now_ms: u64,
) -> StoreResult<Option<StoredTemplate>> {
    let Some(version) = found.template.latest.checked_add(1) else {
        return Err(conflict("the template has no more version numbers"));
    };
    versions::keep(commands, found.root, &found.newest()).await?;
    let change = doc! { "$set": {
        "latest": i64::from(version),
        "updated_ms": int(now_ms),
        "source": source,
        "bytes": int(found.bytes + source.len() as u64),
    } };
    let newest = unchanged(found.template.id, found.root, found.template.latest);
    let written = commands.update(TEMPLATES, vec![Update::one(newest, change)]).await?;
    let template = StoredTemplate { latest: version, updated_ms: now_ms, ..found.template };
    Ok((written.n == 1).then_some(template))
}

/// Removes what is left of a template that is marked as being deleted. Repeatable, by anybody.
async fn finish_deletion(commands: &Commands, template: &Document) -> StoreResult<()> {
    let root = root_of(template)?;
    versions::remove(commands, root).await?;
    let marked = doc! {
        "_id": template.get("_id"), "root": binary(root.0), "deleting": { "$exists": true },
    };
    commands.delete(TEMPLATES, marked).await.map(|_| ())
}

/// Finishes deletions that a crash cut short.
pub(crate) async fn finish_deletions(commands: &Commands) -> StoreResult<()> {
    let query = Query::of(doc! { "deleting": { "$exists": true } }).fields(doc! { "root": 1 });
    for template in commands.find(TEMPLATES, query, Concern::Majority).await? {
        finish_deletion(commands, &template).await?;
    }
    Ok(())
}

async fn has_text(commands: &Commands, root: Root, version: u32, source: &str) -> StoreResult<bool> {
    match versions::one(commands, root, version).await {
        Ok(stored) => Ok(stored.source == source),
        // It went with its template since.
        Err(StoreError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

fn not_newest(asked: u32, newest: u32) -> StoreError {
    conflict(format!("the newest version is {newest}, not {asked}"))
}

pub(crate) fn busy() -> StoreError {
    StoreError::unavailable("others change the template all the time")
}

/// A template with all that its document holds.
struct Found {
    template: StoredTemplate,
    root: Root,
    source: String,
    bytes: u64,
}

impl Found {
    fn read(document: &Document) -> StoreResult<Self> {
        let fields = Fields(document);
        Ok(Self {
            template: template_of(document)?,
            root: root_of(document)?,
            source: fields.text("source")?.to_owned(),
            bytes: fields.uint("bytes")?,
        })
    }

    fn newest(&self) -> TemplateVersion {
        let StoredTemplate { latest, updated_ms, .. } = self.template;
        TemplateVersion { version: latest, source: self.source.clone(), created_ms: updated_ms }
    }
}

/// The template of this tenant.
///
/// # Errors
/// `NotFound` when there is none.
async fn find(commands: &Commands, tenant: &TenantId, key: &TemplateKey) -> StoreResult<Found> {
    let query = Query::of(named(tenant, key));
    let found = commands.find_one(TEMPLATES, query, Concern::Majority).await?;
    Found::read(&found.ok_or(StoreError::NotFound)?)
}

/// The tenant's template under that key, unless it is being deleted: then it has no name.
pub(crate) fn named(tenant: &TenantId, key: &TemplateKey) -> Document {
    match key {
        TemplateKey::Id(id) => doc! {
            "_id": binary(*id.as_bytes()), "tenant": tenant.as_str(), "name": { "$exists": true },
        },
        TemplateKey::Name(name) => doc! { "tenant": tenant.as_str(), "name": name },
    }
}

/// The template while `latest` is its newest version and it is not being deleted.
fn unchanged(id: TemplateId, root: Root, latest: u32) -> Document {
    doc! {
        "_id": binary(*id.as_bytes()),
        "root": binary(root.0),
        "latest": i64::from(latest),
        "deleting": { "$exists": false },
    }
}

fn without_text() -> Document {
    doc! { "source": 0 }
}

fn root_of(document: &Document) -> StoreResult<Root> {
    Fields(document).id("root").map(Root)
}

fn template_of(document: &Document) -> StoreResult<StoredTemplate> {
    let fields = Fields(document);
    Ok(StoredTemplate {
        id: TemplateId::from_bytes(fields.id("_id")?),
        name: fields.text("name")?.to_owned(),
        latest: fields.small("latest")?,
        created_ms: fields.uint("created_ms")?,
        updated_ms: fields.uint("updated_ms")?,
    })
}
