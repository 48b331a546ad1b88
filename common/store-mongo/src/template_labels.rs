//! `TemplateLabels`: names for versions of a template.
//!
//! They stand in the template's document and go with it. Putting one is one update, whose filter says all that must hold then: the version is
//! there, the template is not being deleted, and there is place.

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use promptmill_domain::{TemplateId, TenantId};
use promptmill_ports::{
    MOST_TEMPLATE_LABELS, StoreError, StoreResult, TemplateKey, TemplateLabel, TemplateLabels,
};

use crate::MongoStore;
use crate::codec::{Fields, binary, conflict, int};
use crate::collections::TEMPLATES;
use crate::commands::{Concern, Query, Update, fresh_mark};
use crate::templates::{TRIES, busy, named};

#[async_trait]
impl TemplateLabels for MongoStore {
    async fn put_label(
        &self,
        tenant: &TenantId,
        id: TemplateId,
        label: &str,
        version: u32,
        now_ms: u64,
    ) -> StoreResult<TemplateLabel> {
        let template = named(tenant, &TemplateKey::Id(id));
        let wanted = TemplateLabel { label: label.to_owned(), version, changed_ms: now_ms };
        for _ in 0..TRIES {
            if version > 0
                && self.commands().update(TEMPLATES, vec![put(template.clone(), &wanted)]).await?.n == 1
            {
                return Ok(wanted);
            }
            let query = Query::of(template.clone()).fields(doc! { "latest": 1, "labels": 1 });
            let found = self.commands().find_one(TEMPLATES, query, Concern::Majority).await?;
            let found = found.ok_or(StoreError::NotFound)?;
            if !(1..=Fields(&found).small("latest")?).contains(&version) {
                return Err(StoreError::NotFound);
            }
            let labels = labels_of(&found)?;
            let is_full = labels.len() >= MOST_TEMPLATE_LABELS;
            match labels.into_iter().find(|there| there.label == label) {
                // Perhaps it was put by a first try of this call whose answer was lost.
                Some(there) if there.version == version => return Ok(there),
                None if is_full => {
                    return Err(conflict(format!("a template has at most {MOST_TEMPLATE_LABELS} labels")));
                }
                // Another change came between.
                Some(_) | None => {}
            }
        }
        Err(busy())
    }

    async fn remove_label(&self, tenant: &TenantId, id: TemplateId, label: &str) -> StoreResult<bool> {
        let mark = fresh_mark();
        let mut labelled = named(tenant, &TemplateKey::Id(id));
        labelled.insert("labels.label", label);
        let change =
            doc! { "$pull": { "labels": { "label": label } }, "$set": { "unlabelled": mark.clone() } };
        if self.commands().update(TEMPLATES, vec![Update::this(labelled, change)]).await?.n == 1 {
            return Ok(true);
        }
        // It is not there, perhaps because of a first try of this call whose answer was lost.
        let mine = Query::of(doc! { "_id": binary(*id.as_bytes()), "unlabelled": mark });
        let mine = mine.fields(doc! { "_id": 1 });
        Ok(self.commands().find_one(TEMPLATES, mine, Concern::Majority).await?.is_some())
    }

    async fn labels(&self, tenant: &TenantId, id: TemplateId) -> StoreResult<Vec<TemplateLabel>> {
        let query = Query::of(named(tenant, &TemplateKey::Id(id))).fields(doc! { "labels": 1 });
        let found = self.commands().find_one(TEMPLATES, query, Concern::Majority).await?;
        let mut labels = labels_of(&found.ok_or(StoreError::NotFound)?)?;
        labels.sort_by(|a, b| a.label.cmp(&b.label));
        Ok(labels)
    }
}

/// The change that puts a label, where it is not on that version already and nothing forbids it.
fn put(template: Document, wanted: &TemplateLabel) -> Update {
    let TemplateLabel { label, version, changed_ms } = wanted;
    let version = i64::from(*version);
    let mut filter = template;
    // No version goes but with its template.
    filter.insert("latest", doc! { "$gte": version });
    filter.insert("labels", doc! { "$not": { "$elemMatch": { "label": label, "version": version } } });
    let last = format!("labels.{}", MOST_TEMPLATE_LABELS - 1);
    filter.insert("$or", vec![doc! { "labels.label": label }, doc! { last: { "$exists": false } }]);
    // Taken as it is, also where it begins as a name of a field does.
    let label = doc! { "$literal": label };
    let others = doc! { "$filter": {
        "input": { "$ifNull": ["$labels", []] }, "as": "one", "cond": { "$ne": ["$$one.label", label.clone()] },
    } };
    let put = doc! { "label": label, "version": version, "changed_ms": int(*changed_ms) };
    let change = vec![doc! { "$set": { "labels": { "$concatArrays": [others, [put]] } } }];
    Update { change: Bson::from(change), ..Update::this(filter, Document::new()) }
}

fn labels_of(template: &Document) -> StoreResult<Vec<TemplateLabel>> {
    let read = |label: &Document| {
        let fields = Fields(label);
        Ok(TemplateLabel {
            label: fields.text("label")?.to_owned(),
            version: fields.small("version")?,
            changed_ms: fields.uint("changed_ms")?,
        })
    };
    Fields(template).documents("labels")?.into_iter().map(read).collect()
}
