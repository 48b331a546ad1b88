//! Cases about labels of templates.

use promptmill_domain::{TemplateId, TenantId};

use super::scene::*;
use crate::{MOST_TEMPLATE_LABELS, Records, TemplateLabel};

/// A template of that name with three versions.
async fn made(store: &dyn Records, tenant: &TenantId, name: &str) -> TemplateId {
    let id = fresh_template();
    store.add_template(tenant, id, name, "one", NOW).await.unwrap();
    store.add_version(tenant, id, 1, "two", NOW).await.unwrap();
    store.add_version(tenant, id, 2, "three", NOW).await.unwrap();
    id
}

fn label(label: &str, version: u32, changed_ms: u64) -> TemplateLabel {
    TemplateLabel { label: label.to_owned(), version, changed_ms }
}

/// Puts as many labels on version 1 as there may be, but for `less` of them.
async fn full_but(store: &dyn Records, tenant: &TenantId, id: TemplateId, less: usize) {
    for n in less..MOST_TEMPLATE_LABELS {
        store.put_label(tenant, id, &format!("label-{n:02}"), 1, NOW).await.unwrap();
    }
}

/// It is on one version at a time, forward and back.
pub async fn a_label_is_put_moved_and_taken_away(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary").await;
    assert_eq!(store.labels(&tenant, id).await.unwrap(), []);
    for (version, now_ms) in [(2, NOW + 1), (3, NOW + 2), (1, NOW + 3)] {
        let put = store.put_label(&tenant, id, "production", version, now_ms).await.unwrap();
        assert_eq!(put, label("production", version, now_ms));
        assert_eq!(store.labels(&tenant, id).await.unwrap(), [put]);
    }
    assert!(store.remove_label(&tenant, id, "production").await.unwrap());
    assert_eq!(store.labels(&tenant, id).await.unwrap(), []);
    assert!(!store.remove_label(&tenant, id, "production").await.unwrap());
    let again = store.put_label(&tenant, id, "production", 3, NOW + 4).await.unwrap();
    assert_eq!(store.labels(&tenant, id).await.unwrap(), [again]);
}

/// Whoever does not know whether a label was put puts it again.
pub async fn a_label_that_is_put_again_stays_as_it_is(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary").await;
    let put = store.put_label(&tenant, id, "production", 2, NOW + 1).await.unwrap();
    assert_eq!(store.put_label(&tenant, id, "production", 2, NOW + 9).await.unwrap(), put);
    assert_eq!(store.labels(&tenant, id).await.unwrap(), [put]);
}

/// Several labels may be on one version. Names are taken as they are.
pub async fn labels_come_by_name_and_are_their_templates_alone(store: &dyn Records) {
    let tenant = fresh_tenant();
    let (id, other) = (made(store, &tenant, "summary").await, made(store, &tenant, "other").await);
    store.put_label(&tenant, other, "b", 3, NOW).await.unwrap();
    for name in ["b.2", "staging", "b", "$b", "b-1"] {
        store.put_label(&tenant, id, name, 1, NOW).await.unwrap();
    }
    let names = async |id| {
        let labels = store.labels(&tenant, id).await.unwrap();
        labels.into_iter().map(|label| label.label).collect::<Vec<_>>()
    };
    assert_eq!(names(id).await, ["$b", "b", "b-1", "b.2", "staging"]);
    assert!(store.remove_label(&tenant, id, "b").await.unwrap());
    assert_eq!(names(id).await, ["$b", "b-1", "b.2", "staging"]);
    assert_eq!(store.labels(&tenant, other).await.unwrap(), [label("b", 3, NOW)]);
    // A version that comes takes no label with it.
    store.add_version(&tenant, other, 3, "four", NOW + 1).await.unwrap();
    assert_eq!(store.labels(&tenant, other).await.unwrap(), [label("b", 3, NOW)]);
}

/// What is refused changes nothing.
pub async fn a_label_needs_its_template_and_its_version(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary").await;
    let put = store.put_label(&tenant, id, "production", 1, NOW).await.unwrap();
    for version in [0, 4, u32::MAX] {
        check_not_found(store.put_label(&tenant, id, "production", version, NOW + 1).await);
        check_not_found(store.put_label(&tenant, id, "staging", version, NOW + 1).await);
    }
    assert_eq!(store.labels(&tenant, id).await.unwrap(), [put]);
    let none = fresh_template();
    check_not_found(store.put_label(&tenant, none, "production", 1, NOW).await);
    check_not_found(store.labels(&tenant, none).await);
    assert!(!store.remove_label(&tenant, none, "production").await.unwrap());
}

/// Those that are there may be moved still.
pub async fn a_template_has_so_many_labels_and_no_more(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary").await;
    full_but(store, &tenant, id, 0).await;
    check_conflict(store.put_label(&tenant, id, "one-more", 1, NOW).await);
    store.put_label(&tenant, id, "label-00", 1, NOW + 1).await.unwrap();
    store.put_label(&tenant, id, "label-00", 2, NOW + 1).await.unwrap();
    let labels = store.labels(&tenant, id).await.unwrap();
    assert_eq!((labels.len(), &labels[0]), (MOST_TEMPLATE_LABELS, &label("label-00", 2, NOW + 1)));
    assert!(store.remove_label(&tenant, id, "label-07").await.unwrap());
    store.put_label(&tenant, id, "one-more", 1, NOW).await.unwrap();
    check_conflict(store.put_label(&tenant, id, "label-07", 1, NOW).await);
    // Another template has its own.
    let other = made(store, &tenant, "other").await;
    store.put_label(&tenant, other, "one-more", 1, NOW).await.unwrap();
}

/// Both are told that it is there, and it is on one of the two versions.
pub async fn of_two_puts_of_a_label_at_once_one_holds(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary").await;
    for round in 0..8 {
        let name = format!("label-{round}");
        let (one, two) = tokio::join!(
            store.put_label(&tenant, id, &name, 1, NOW + 1),
            store.put_label(&tenant, id, &name, 2, NOW + 2)
        );
        let (one, two) = (one.unwrap(), two.unwrap());
        let labels = store.labels(&tenant, id).await.unwrap();
        let there: Vec<_> = labels.into_iter().filter(|label| label.label == name).collect();
        assert!(there == [one] || there == [two], "{there:?}");
    }
}

/// Where there is place for one of two, one is put.
pub async fn labels_that_are_put_at_once_are_no_more_than_there_may_be(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary").await;
    full_but(store, &tenant, id, 1).await;
    for _ in 0..8 {
        let (one, two) = tokio::join!(
            store.put_label(&tenant, id, "one", 1, NOW),
            store.put_label(&tenant, id, "two", 1, NOW)
        );
        let (put, refused) = if one.is_ok() { (one, two) } else { (two, one) };
        check_conflict(refused);
        assert_eq!(store.labels(&tenant, id).await.unwrap().len(), MOST_TEMPLATE_LABELS);
        assert!(store.remove_label(&tenant, id, &put.unwrap().label).await.unwrap());
    }
}

/// Neither the id nor the name brings them back.
pub async fn labels_go_with_their_template(store: &dyn Records) {
    let tenant = fresh_tenant();
    let id = made(store, &tenant, "summary").await;
    store.put_label(&tenant, id, "production", 2, NOW).await.unwrap();
    store.delete_template(&tenant, id, 3).await.unwrap();
    check_not_found(store.labels(&tenant, id).await);
    check_not_found(store.put_label(&tenant, id, "production", 1, NOW).await);
    assert!(!store.remove_label(&tenant, id, "production").await.unwrap());
    let again = made(store, &tenant, "summary").await;
    assert_eq!(store.labels(&tenant, again).await.unwrap(), []);
    store.delete_template(&tenant, again, 3).await.unwrap();
    store.add_template(&tenant, id, "summary", "one", NOW).await.unwrap();
    assert_eq!(store.labels(&tenant, id).await.unwrap(), []);
}

/// A foreign template has none that could be read, moved or taken away.
pub async fn a_foreign_tenant_finds_no_label(store: &dyn Records) {
    let (tenant, foreign) = (fresh_tenant(), fresh_tenant());
    let id = made(store, &tenant, "summary").await;
    let put = store.put_label(&tenant, id, "production", 2, NOW).await.unwrap();
    check_not_found(store.labels(&foreign, id).await);
    check_not_found(store.put_label(&foreign, id, "production", 1, NOW + 1).await);
    check_not_found(store.put_label(&foreign, id, "theirs", 1, NOW + 1).await);
    assert!(!store.remove_label(&foreign, id, "production").await.unwrap());
    assert_eq!(store.labels(&tenant, id).await.unwrap(), [put]);
}
