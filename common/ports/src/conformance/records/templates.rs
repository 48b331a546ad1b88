//! Cases about templates and their versions.

use promptmill_domain::{TemplateId, TenantId};

use super::scene::*;
use crate::{Records, StoredTemplate, TemplateKey, TemplateVersion};

/// A template of this name whose versions have these texts, made one millisecond after the other.
async fn made(store: &dyn Records, tenant: &TenantId, name: &str, texts: &[&str]) -> StoredTemplate {
    let mut template = store.add_template(tenant, fresh_template(), name, texts[0], NOW).await.unwrap();
    for (text, after) in texts[1..].iter().zip(1..) {
        let now_ms = NOW + u64::from(after);
        template = store.add_version(tenant, template.id, after, text, now_ms).await.unwrap();
    }
    template
}

async fn by_id(store: &dyn Records, tenant: &TenantId, id: TemplateId) -> StoredTemplate {
    store.template(tenant, &TemplateKey::Id(id)).await.unwrap()
}

/// It is found by id and by name; adding it again answers what is there.
pub async fn a_template_is_kept_with_its_first_version(store: &dyn Records) {
    let (tenant, id) = (fresh_tenant(), fresh_template());
    let made = store.add_template(&tenant, id, "summary", "{\"ä\":1}", NOW).await.unwrap();
    let expected =
        StoredTemplate { id, name: "summary".to_owned(), latest: 1, created_ms: NOW, updated_ms: NOW };
    assert_eq!(made, expected);
    assert_eq!(by_id(store, &tenant, id).await, expected);
    assert_eq!(store.template(&tenant, &TemplateKey::Name("summary".to_owned())).await.unwrap(), expected);
    let version = TemplateVersion { version: 1, source: "{\"ä\":1}".to_owned(), created_ms: NOW };
    assert_eq!(store.version(&tenant, id, None).await.unwrap(), version);
    assert_eq!(store.version(&tenant, id, Some(1)).await.unwrap(), version);
    check_not_found(store.version(&tenant, id, Some(0)).await);
    check_not_found(store.version(&tenant, id, Some(2)).await);

    let added = store.add_version(&tenant, id, 1, "{}", NOW + 1).await.unwrap();
    assert_eq!(store.add_template(&tenant, id, "summary", "{\"ä\":1}", NOW + 2).await.unwrap(), added);
}

/// Names are told apart within a tenant only, and are free again once their template is gone.
pub async fn a_name_is_given_once_per_tenant(store: &dyn Records) {
    let (one, two) = (fresh_tenant(), fresh_tenant());
    let first = made(store, &one, "summary", &["{}"]).await;
    check_conflict(store.add_template(&one, fresh_template(), "summary", "{}", NOW).await);
    check_conflict(store.add_template(&two, first.id, "summary", "{}", NOW).await);
    made(store, &one, "Summary", &["{}"]).await;
    made(store, &two, "summary", &["{}"]).await;
    store.delete_template(&one, first.id, 1).await.unwrap();
    made(store, &one, "summary", &["{}"]).await;
}

/// Of two who want a name at the same moment one gets it.
pub async fn of_two_templates_of_a_name_at_once_one_is_kept(store: &dyn Records) {
    let tenant = fresh_tenant();
    for round in 0..8 {
        let name = format!("name-{round}");
        let (one, two) = tokio::join!(
            store.add_template(&tenant, fresh_template(), &name, "{}", NOW),
            store.add_template(&tenant, fresh_template(), &name, "{}", NOW)
        );
        let (kept, refused) = if one.is_ok() { (one, two) } else { (two, one) };
        check_conflict(refused);
        assert_eq!(store.template(&tenant, &TemplateKey::Name(name)).await.unwrap(), kept.unwrap());
    }
}

/// Adding is a compare-and-set on the newest version; older versions stay as they are.
pub async fn a_version_follows_only_the_newest(store: &dyn Records) {
    let tenant = fresh_tenant();
    let template = made(store, &tenant, "summary", &["one", "two", "three"]).await;
    assert_eq!((template.latest, template.created_ms, template.updated_ms), (3, NOW, NOW + 2));
    for wrong in [0, 2, 4, u32::MAX] {
        check_conflict(store.add_version(&tenant, template.id, wrong, "four", NOW + 9).await);
    }
    check_not_found(store.add_version(&tenant, fresh_template(), 1, "two", NOW).await);
    assert_eq!(by_id(store, &tenant, template.id).await, template);
    for (version, source) in [(1, "one"), (2, "two"), (3, "three")] {
        let stored = store.version(&tenant, template.id, Some(version)).await.unwrap();
        let created_ms = NOW + u64::from(version) - 1;
        assert_eq!(stored, TemplateVersion { version, source: source.to_owned(), created_ms });
    }
    assert_eq!(store.version(&tenant, template.id, None).await.unwrap().version, 3);
}

/// A caller that does not know whether its version was added adds it again, also when another came behind it.
pub async fn a_version_that_is_added_again_is_added_once(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary", &["one"]).await.id;
    let added = store.add_version(&tenant, id, 1, "two", NOW + 1).await.unwrap();
    assert_eq!(store.add_version(&tenant, id, 1, "two", NOW + 5).await.unwrap(), added);
    let newer = store.add_version(&tenant, id, 2, "three", NOW + 6).await.unwrap();
    assert_eq!(store.add_version(&tenant, id, 1, "two", NOW + 7).await.unwrap(), newer);
    assert_eq!(by_id(store, &tenant, id).await, newer);
    assert_eq!(newer.latest, 3);
}

/// The same text again is the same version; an older text is a new one.
pub async fn a_text_that_equals_the_newest_adds_nothing(store: &dyn Records) {
    let tenant = fresh_tenant();
    let template = made(store, &tenant, "summary", &["one", "two"]).await;
    assert_eq!(store.add_version(&tenant, template.id, 2, "two", NOW + 9).await.unwrap(), template);
    let back = store.add_version(&tenant, template.id, 2, "one", NOW + 9).await.unwrap();
    assert_eq!((back.latest, back.updated_ms), (3, NOW + 9));
}

/// Of two who add behind the same version at the same moment one does, the other hears of it.
pub async fn of_two_versions_at_once_one_is_added(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary", &["{}"]).await.id;
    for after in 1..9 {
        let (mine, theirs) = (format!("mine {after}"), format!("theirs {after}"));
        let (one, two) = tokio::join!(
            store.add_version(&tenant, id, after, &mine, NOW),
            store.add_version(&tenant, id, after, &theirs, NOW)
        );
        let (added, text, refused) = if one.is_ok() { (one, mine, two) } else { (two, theirs, one) };
        check_conflict(refused);
        assert_eq!(added.unwrap().latest, after + 1);
        assert_eq!(store.version(&tenant, id, None).await.unwrap().source, text);
    }
}

/// Walking the pages sees each template once.
pub async fn templates_come_page_by_page_in_order_of_their_names(store: &dyn Records) {
    let tenant = fresh_tenant();
    for name in ["d", "a", "c", "b", "B", "a-1"] {
        made(store, &tenant, name, &["{}", "{ }"]).await;
    }
    made(store, &fresh_tenant(), "bb", &["{}"]).await;
    let mut seen = Vec::new();
    loop {
        let after: Option<&String> = seen.last();
        let page = store.templates(&tenant, after.map(String::as_str), 4).await.unwrap();
        assert!(page.len() <= 4 && page.iter().all(|template| template.latest == 2));
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|template| template.name));
    }
    assert_eq!(seen, ["B", "a", "a-1", "b", "c", "d"]);
    assert_eq!(store.templates(&fresh_tenant(), None, 4).await.unwrap(), []);
}

/// Walking the pages sees each version once, and only this template's.
pub async fn versions_come_page_by_page_newest_first(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary", &["1", "2", "3", "4", "5"]).await.id;
    made(store, &tenant, "other", &["1", "2"]).await;
    let mut seen = Vec::new();
    loop {
        let below = seen.last().map(|(version, _)| *version);
        let page = store.versions(&tenant, id, below, 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    let expected: Vec<_> = (1..=5).rev().map(|version| (version, NOW + u64::from(version) - 1)).collect();
    assert_eq!(seen, expected);
    assert_eq!(store.versions(&tenant, id, Some(0), 2).await.unwrap(), []);
    check_not_found(store.versions(&tenant, fresh_template(), None, 2).await);
}

/// Deleting is a compare-and-set too, and leaves nothing of the template.
pub async fn a_template_is_deleted_only_at_its_newest_version(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary", &["one", "two"]).await.id;
    let other = made(store, &tenant, "other", &["one"]).await;
    for wrong in [0, 1, 3] {
        check_conflict(store.delete_template(&tenant, id, wrong).await);
    }
    assert_eq!(by_id(store, &tenant, id).await.latest, 2);
    store.delete_template(&tenant, id, 2).await.unwrap();
    check_not_found(store.delete_template(&tenant, id, 2).await);
    check_not_found(store.template(&tenant, &TemplateKey::Id(id)).await);
    check_not_found(store.template(&tenant, &TemplateKey::Name("summary".to_owned())).await);
    for version in [None, Some(1), Some(2)] {
        check_not_found(store.version(&tenant, id, version).await);
    }
    assert_eq!(store.templates(&tenant, None, 10).await.unwrap(), [other]);
    // A template of the same name begins anew.
    let again = made(store, &tenant, "summary", &["three"]).await;
    assert_eq!(store.versions(&tenant, again.id, None, 10).await.unwrap(), [(1, NOW)]);
}

/// A foreign id is the same as none, for every step.
pub async fn a_foreign_tenant_finds_no_template(store: &dyn Records) {
    let (tenant, foreign) = (fresh_tenant(), fresh_tenant());
    let template = made(store, &tenant, "summary", &["one", "two"]).await;
    check_not_found(store.template(&foreign, &TemplateKey::Id(template.id)).await);
    check_not_found(store.template(&foreign, &TemplateKey::Name("summary".to_owned())).await);
    check_not_found(store.version(&foreign, template.id, None).await);
    check_not_found(store.versions(&foreign, template.id, None, 10).await);
    check_not_found(store.add_version(&foreign, template.id, 2, "three", NOW).await);
    check_not_found(store.add_version(&foreign, template.id, 2, "two", NOW).await);
    check_not_found(store.delete_template(&foreign, template.id, 2).await);
    assert_eq!(store.templates(&foreign, None, 10).await.unwrap(), []);
    assert_eq!(by_id(store, &tenant, template.id).await, template);
}
