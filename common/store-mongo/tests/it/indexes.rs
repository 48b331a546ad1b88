//! That every query has its index: a server that refuses to read whole collections serves all of them.

use mongodb::bson::{Document, doc};
use promptmill_domain::{BatchId, TenantId};
use promptmill_ports::{
    Accounts as _, Admission as _, BatchFilter, Deliveries as _, Generations as _, Outbox as _, PageLimit,
    Read as _, Retention as _, Rows as _, Sessions as _, StoreError, TemplateKey, Templates as _,
};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::MongoServer;

use crate::life::live;
use crate::records_steps::check_every_step;
use crate::scene::{NOW, Scene};

#[tokio::test]
async fn no_step_reads_a_whole_collection() {
    let server = MongoServer::start();
    let store = MongoStore::connect(&MongoOptions::new(server.uri().into(), "promptmill")).await.unwrap();
    server.command("admin", doc! { "setParameter": 1, "notablescan": true });
    let client = mongodb::Client::with_uri_str(server.uri()).await.unwrap();
    let heads = client.database("promptmill").collection::<Document>("heads");
    assert!(heads.find_one(doc! { "kills": 7 }).await.is_err(), "the server reads whole collections");
    live(&store, &|| {}).await;

    let scene = Scene::running(&store, 3, &|| {}).await.unwrap();
    let (tenant, batch) = (&scene.tenant, scene.batch);
    let any = BatchFilter::default();
    let labels = ["a", "b"].map(|key| (key.to_owned(), "v".to_owned())).to_vec();
    let before = Some(BatchId::from_bytes([255; 16]));
    for filter in [
        any.clone(),
        BatchFilter { name: Some("n".to_owned()), ..any.clone() },
        BatchFilter { state: Some("running".to_owned()), ..any.clone() },
        BatchFilter { labels, created_from_ms: Some(1), ..any },
    ] {
        store.batches(tenant, &filter, before, PageLimit::items(10)).await.unwrap();
    }
    store.batch(tenant, batch).await.unwrap();
    store.rows(tenant, batch, 1).await.unwrap();
    assert_eq!(store.block_ids(tenant, batch, None, 10).await.unwrap().len(), 1);
    assert_eq!(store.open_batches().await.unwrap().len(), 1);
    assert_eq!(store.waiting(batch, 10).await.unwrap(), []);
    assert_eq!(store.ready(Some(scene.chunk(0)), 10).await.unwrap().len(), 2);
    scene.lease(&store, 0).await;
    assert_eq!(store.wake(10, NOW).await.unwrap(), []);
    assert_eq!(store.sessions().await.unwrap().len(), 1);
    assert_eq!(store.pending(10).await.unwrap(), []);
    assert_eq!(store.drop_stale_uploads(u64::MAX).await.unwrap(), 0);
    assert_eq!(store.outlived(NOW, 1, NOW, 10).await.unwrap(), []);
    assert!(store.has_room().await.unwrap());
}

#[tokio::test]
async fn no_step_of_the_records_reads_a_whole_collection() {
    let server = MongoServer::start();
    let connect = || async {
        MongoStore::connect(&MongoOptions::new(server.uri().into(), "promptmill")).await.unwrap()
    };
    drop(connect().await);
    server.command("admin", doc! { "setParameter": 1, "notablescan": true });
    // What is left half deleted is looked for, too.
    let store = connect().await;
    check_every_step(&store, || {}).await;

    let tenant = TenantId::default_tenant();
    assert_eq!(store.tenants().await.unwrap().len(), 1);
    assert_eq!(store.keys(&tenant).await.unwrap(), []);
    let name = TemplateKey::Name("summary".to_owned());
    assert!(matches!(store.template(&tenant, &name).await, Err(StoreError::NotFound)));
    assert_eq!(store.templates(&tenant, Some("a"), 10).await.unwrap(), []);
    assert_eq!(store.orphaned(&[], 10).await.unwrap(), []);
    assert_eq!(store.next_due().await.unwrap(), None);
    assert_eq!(store.usage(&tenant, NOW).await.unwrap().record_bytes, 0);
}
