//! Counts of batches so large that they are summed in parts.

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use promptmill_ports::Read as _;

use crate::TemporaryStore;
use crate::scene::{Scene, settle, settling};

#[tokio::test]
async fn a_batch_of_many_chunks_is_counted_whole() {
    let store = TemporaryStore::new().await;
    let scene = Scene::running(&*store, 4, &|| {}).await.unwrap();
    let lease = scene.lease(&*store, 0).await;
    settle(&*store, settling(&lease, "body")).await.unwrap();
    let before = store.progress(&scene.tenant, scene.batch).await.unwrap();
    assert_eq!((before.counts.succeeded, before.counts.waiting, before.open_chunks), (1, 3, 3));
    // As if it had half a million rows, and the same chunks stood far behind the others once more.
    let raw = store.raw().await;
    let rows = doc! { "$set": { "total": 512_000_i64 } };
    raw.collection::<Document>("batches").update_many(doc! {}, rows).await.unwrap();
    let heads = raw.collection::<Document>("heads");
    let mut cursor = heads.find(doc! {}).await.unwrap();
    let mut copies = Vec::new();
    while cursor.advance().await.unwrap() {
        let mut head: Document = cursor.deserialize_current().unwrap();
        let mut id = head.get_binary_generic("_id").unwrap().clone();
        id[18] = 0x07;
        head.insert("_id", Binary { subtype: BinarySubtype::Generic, bytes: id });
        copies.push(head);
    }
    heads.insert_many(copies).await.unwrap();
    let after = store.progress(&scene.tenant, scene.batch).await.unwrap();
    assert_eq!((after.counts.succeeded, after.counts.waiting, after.open_chunks), (2, 6, 6));
    assert_eq!(after.counts.totals.calls, 2 * before.counts.totals.calls);
}
