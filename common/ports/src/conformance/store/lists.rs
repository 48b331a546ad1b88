//! Cases about lists of batches.

use std::collections::BTreeMap;

use promptmill_domain::{BatchEvent, BatchId, PauseReason, TenantId};

use super::scene::*;
use crate::{BatchFilter, NewBatch, PageLimit, Store};

async fn listed(store: &dyn Store, tenant: &TenantId, filter: &BatchFilter) -> Vec<BatchId> {
    let mut seen = Vec::new();
    loop {
        // Pages of two, so that every list is read across their borders.
        let page = store.batches(tenant, filter, seen.last().copied(), PageLimit::items(2)).await.unwrap();
        assert!(page.batches.len() == 2 || !page.more);
        seen.extend(page.batches.into_iter().map(|batch| batch.id));
        if !page.more {
            return seen;
        }
    }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Makes a batch `at` milliseconds after the scene's begin.
async fn make(
    store: &dyn Store,
    tenant: &TenantId,
    at: u64,
    name: Option<&str>,
    pairs: &[(&str, &str)],
) -> BatchId {
    let id = BatchId::at(NOW + at, rand::random());
    let mut new = NewBatch { now_ms: NOW + at, ..new_batch(id, None) };
    new.spec.name = name.map(str::to_owned);
    new.spec.labels = labels(pairs).into_iter().collect::<BTreeMap<_, _>>();
    store.create(tenant, new).await.unwrap();
    id
}

/// Each field of the filter narrows the list, and all that are set must match.
pub async fn a_list_has_the_batches_that_match_every_field(store: &dyn Store) {
    let (tenant, other) = (fresh_tenant(), fresh_tenant());
    let all = [
        make(store, &tenant, 0, Some("daily"), &[("team", "a"), ("env", "test")]).await,
        make(store, &tenant, 10, None, &[("team", "a")]).await,
        make(store, &tenant, 20, Some("daily"), &[("team", "b"), ("env", "test")]).await,
        make(store, &tenant, 30, Some("weekly"), &[]).await,
        make(store, &tenant, 40, Some("daily"), &[("team", "a"), ("env", "live")]).await,
    ];
    make(store, &other, 50, Some("daily"), &[("team", "a"), ("env", "test")]).await;
    let check = async |filter: BatchFilter, wanted: &[usize]| {
        let wanted: Vec<_> = wanted.iter().map(|at| all[*at]).collect();
        assert_eq!(listed(store, &tenant, &filter).await, wanted, "{filter:?}");
    };
    let any = BatchFilter::default();
    let labelled = |pairs| BatchFilter { labels: labels(pairs), ..BatchFilter::default() };
    check(any.clone(), &[4, 3, 2, 1, 0]).await;
    check(BatchFilter { name: Some("daily".into()), ..any.clone() }, &[4, 2, 0]).await;
    check(BatchFilter { name: Some("dail".into()), ..any.clone() }, &[]).await;
    check(labelled(&[("team", "a")]), &[4, 1, 0]).await;
    check(labelled(&[("team", "a"), ("env", "test")]), &[0]).await;
    check(labelled(&[("env", "test"), ("team", "c")]), &[]).await;
    check(labelled(&[("team", "a"), ("team", "b")]), &[]).await;
    check(BatchFilter { name: Some("daily".into()), ..labelled(&[("env", "test")]) }, &[2, 0]).await;
    check(BatchFilter { created_from_ms: Some(NOW + 20), ..any.clone() }, &[4, 3, 2]).await;
    check(BatchFilter { created_before_ms: Some(NOW + 20), ..any.clone() }, &[1, 0]).await;
    let (from, before) = (Some(NOW + 10), Some(NOW + 40));
    let between =
        BatchFilter { created_from_ms: from, created_before_ms: before, ..labelled(&[("team", "a")]) };
    check(between, &[1]).await;
    check(BatchFilter { state: Some("draft".into()), ..any.clone() }, &[4, 3, 2, 1, 0]).await;
    check(BatchFilter { state: Some("no such state".into()), ..any }, &[]).await;
}

/// A list by state follows the batch through its states, and one that is being deleted is on no list.
pub async fn a_list_by_state_is_of_this_moment(store: &dyn Store) {
    let tenant = fresh_tenant();
    let mut new = new_batch(fresh_batch(), None);
    new.spec.labels = labels(&[("k", "v")]).into_iter().collect();
    new.spec.name = Some("named".to_owned());
    let scene = Scene::of(store, tenant.clone(), new).await;
    let check = async |state: &str| {
        for name in ["draft", "queued", "running", "paused", "cancelled"] {
            let filter = BatchFilter {
                state: Some(name.to_owned()),
                name: Some("named".to_owned()),
                labels: labels(&[("k", "v")]),
                ..BatchFilter::default()
            };
            let by_state = BatchFilter { state: Some(name.to_owned()), ..BatchFilter::default() };
            for filter in [filter, by_state] {
                let found = listed(store, &tenant, &filter).await;
                assert_eq!(found.len(), usize::from(name == state), "{name} while {state}");
            }
        }
    };
    check("draft").await;
    scene.queue(&[1], NOW).await;
    check("queued").await;
    scene.admit_all(&[1]).await;
    check("running").await;
    let pause = BatchEvent::Pause(PauseReason::Requested);
    store.steer(&tenant, scene.batch, pause, NOW).await.unwrap();
    check("paused").await;
    scene.end(NOW).await;
    check("cancelled").await;
    store.delete(&tenant, scene.batch).await.unwrap();
    check("gone").await;
}
