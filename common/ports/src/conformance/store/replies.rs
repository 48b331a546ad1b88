//! Cases about the reply cache.

use bytes::Bytes;
use promptmill_domain::{BatchId, TenantId};

use super::scene::*;
use crate::{Outlived, ReplyKey, Store};

fn key(tenant: &TenantId, batch: Option<BatchId>) -> ReplyKey {
    ReplyKey { tenant: tenant.clone(), batch, digest: rand::random() }
}

fn reply(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn keep(store: &dyn Store, key: &ReplyKey, text: &str, now_ms: u64) {
    store.keep_replies(vec![(key.clone(), reply(text))], now_ms).await.unwrap();
}

async fn read(store: &dyn Store, key: &ReplyKey) -> Option<Bytes> {
    let mut found = store.replies(std::slice::from_ref(key)).await.unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// A reply is given again under its key alone: not to another tenant, not in another batch, and none is made up.
pub async fn a_reply_is_given_again_to_whom_it_was_kept_for(store: &dyn Store) {
    let (scene, other) = (Scene::draft(store).await, Scene::draft(store).await);
    let (of_batch, of_tenant) = (key(&scene.tenant, Some(scene.batch)), key(&scene.tenant, None));
    let (large, missing) = (key(&scene.tenant, None), key(&scene.tenant, Some(scene.batch)));
    let mebibyte = Bytes::from(vec![b'x'; 1 << 20]);
    let all = vec![
        (of_batch.clone(), reply("a")),
        (of_tenant.clone(), reply("")),
        (large.clone(), mebibyte.clone()),
    ];
    store.keep_replies(all, NOW).await.unwrap();
    store.keep_replies(vec![], NOW).await.unwrap();
    let asked = [missing, of_tenant.clone(), of_batch.clone(), large, of_batch.clone()];
    let found = store.replies(&asked).await.unwrap();
    assert_eq!(found, [None, Some(reply("")), Some(reply("a")), Some(mebibyte), Some(reply("a"))]);
    assert_eq!(store.replies(&[]).await.unwrap(), Vec::<Option<Bytes>>::new());

    let foreign = [
        ReplyKey { tenant: other.tenant.clone(), ..of_tenant.clone() },
        ReplyKey { tenant: other.tenant.clone(), ..of_batch.clone() },
        ReplyKey { tenant: other.tenant.clone(), batch: Some(other.batch), ..of_batch.clone() },
        ReplyKey { batch: None, ..of_batch },
        ReplyKey { batch: Some(scene.batch), ..of_tenant },
    ];
    assert_eq!(store.replies(&foreign).await.unwrap(), vec![None; 5]);
}

/// The first reply under a key stays, whoever keeps another one, and counts once among the bytes of its tenant.
pub async fn a_reply_that_is_kept_stays_as_it_is_and_counts_once(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let bytes = async || store.usage(&scene.tenant, NOW).await.unwrap().bytes;
    let before = bytes().await;
    let keys = [key(&scene.tenant, Some(scene.batch)), key(&scene.tenant, None)];
    for key in &keys {
        keep(store, key, "first", NOW).await;
        keep(store, key, "the second", NOW + 1).await;
        assert_eq!(read(store, key).await, Some(reply("first")));
    }
    assert_eq!(bytes().await, before + 10);
    assert_eq!(store.forget_replies(&Outlived::OfTenant(scene.tenant.clone())).await.unwrap(), 2);
    assert_eq!(bytes().await, before);
    // What was forgotten may be kept anew.
    keep(store, &keys[0], "again", NOW + 2).await;
    assert_eq!(read(store, &keys[0]).await, Some(reply("again")));
}

/// A deletion takes the replies of its batch along and no others, and nothing is kept for a batch that is not there.
pub async fn replies_of_a_batch_go_with_it(store: &dyn Store) {
    let (scene, other) = (Scene::draft(store).await, Scene::draft(store).await);
    let of_batch: Vec<_> = (0..1_100).map(|_| key(&scene.tenant, Some(scene.batch))).collect();
    store.keep_replies(of_batch.iter().map(|key| (key.clone(), reply("a"))).collect(), NOW).await.unwrap();
    let others = [key(&scene.tenant, None), key(&other.tenant, Some(other.batch))];
    for key in &others {
        keep(store, key, "stays", NOW).await;
    }
    scene.delete().await;
    assert!(store.replies(&of_batch).await.unwrap().iter().all(Option::is_none));
    let late = key(&scene.tenant, Some(scene.batch));
    keep(store, &late, "late", NOW).await;
    assert_eq!(read(store, &late).await, None);
    for key in &others {
        assert_eq!(read(store, key).await, Some(reply("stays")));
    }
    let foreign = ReplyKey { tenant: scene.tenant.clone(), ..key(&other.tenant, Some(other.batch)) };
    keep(store, &foreign, "foreign", NOW).await;
    assert_eq!(read(store, &foreign).await, None);
    assert_eq!(store.usage(&scene.tenant, NOW).await.unwrap().bytes, 5);
}

/// Replies are forgotten from the oldest on, those of one tenant or of every one.
pub async fn replies_are_forgotten_the_oldest_first(store: &dyn Store) {
    let [first, second] = [fresh_tenant(), fresh_tenant()];
    let keys = [key(&first, None), key(&second, None), key(&first, None)];
    // Earlier than anything that another case keeps.
    for (key, at) in keys.iter().zip(10..) {
        keep(store, key, "kept", at).await;
    }
    let there = async || {
        let found = store.replies(&keys).await.unwrap();
        found.iter().map(Option::is_some).collect::<Vec<_>>()
    };
    assert_eq!(store.forget_replies(&Outlived::Before(10)).await.unwrap(), 0);
    assert_eq!(store.forget_replies(&Outlived::Before(11)).await.unwrap(), 1);
    assert_eq!(there().await, [false, true, true]);
    let of_first = Outlived::OfTenant(first.clone());
    assert_eq!(store.forget_replies(&of_first).await.unwrap(), 1);
    assert_eq!(there().await, [false, true, false]);
    assert_eq!(store.forget_replies(&Outlived::Before(13)).await.unwrap(), 1);
    assert_eq!(store.usage(&second, NOW).await.unwrap().bytes, 0);
    let many: Vec<_> = (0..1_200).map(|_| (key(&first, None), reply("a"))).collect();
    store.keep_replies(many, NOW).await.unwrap();
    let mut forgotten = 0;
    while let more @ 1.. = store.forget_replies(&of_first).await.unwrap() {
        assert!(more <= 1_000);
        forgotten += more;
    }
    assert_eq!(forgotten, 1_200);
}

/// Those of a batch are forgotten without it, whoever else does so at the same time, and are taken off the tenant's bytes once.
pub async fn replies_of_a_batch_are_forgotten_once_by_many_at_once(store: &dyn Store) {
    let scene = Scene::draft(store).await;
    let of_batch = (0..1_500).map(|_| (key(&scene.tenant, Some(scene.batch)), reply("ten bytes."))).collect();
    store.keep_replies(of_batch, NOW).await.unwrap();
    let stays = key(&scene.tenant, None);
    keep(store, &stays, "stays", NOW).await;
    assert_eq!(store.usage(&scene.tenant, NOW).await.unwrap().bytes, 15_005);
    let which = Outlived::OfBatch(scene.tenant.clone(), scene.batch);
    let all = async || while store.forget_replies(&which).await.unwrap() > 0 {};
    futures_util::future::join_all((0..4).map(|_| all())).await;
    assert_eq!(store.usage(&scene.tenant, NOW).await.unwrap().bytes, 5);
    assert_eq!(read(store, &stays).await, Some(reply("stays")));
    let foreign = Outlived::OfBatch(fresh_tenant(), scene.batch);
    keep(store, &key(&scene.tenant, Some(scene.batch)), "kept", NOW).await;
    assert_eq!(store.forget_replies(&foreign).await.unwrap(), 0);
    scene.delete().await;
    assert_eq!(store.forget_replies(&which).await.unwrap(), 0);
}
