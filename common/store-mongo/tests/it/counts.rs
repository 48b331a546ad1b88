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
    // As if it had half a million rows, and the last chunk stood once more at each side of the middle, and there.
    let raw = store.raw().await;
    let rows = doc! { "$set": { "total": 512_000_i64 } };
    raw.collection::<Document>("batches").update_many(doc! {}, rows).await.unwrap();
    let heads = raw.collection::<Document>("heads");
    let last = heads.find_one(doc! { "succeeded": 0_i64 }).await.unwrap().unwrap();
    let copies = [255_999_u32, 256_000, 256_001].map(|first| {
        let mut head = last.clone();
        for name in ["_id", "first"] {
            let mut bytes = last.get_binary_generic(name).unwrap().clone();
            bytes[16..].copy_from_slice(&first.to_be_bytes());
            head.insert(name, Binary { subtype: BinarySubtype::Generic, bytes });
        }
        head
    });
    heads.insert_many(copies).await.unwrap();
    let after = store.progress(&scene.tenant, scene.batch).await.unwrap();
    assert_eq!((after.counts.succeeded, after.counts.waiting, after.open_chunks), (1, 6, 6));
    assert_eq!(after.counts.totals.calls, before.counts.totals.calls);
}
