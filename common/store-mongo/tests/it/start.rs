//! What is checked when a store is connected.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use promptmill_ports::{Admission as _, Read as _, Retention as _, StoreError};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::MongoDatabase;

use crate::{TemporaryStore, options, raw};

async fn refused(database: &MongoDatabase) -> String {
    match MongoStore::connect(&options(database)).await {
        Err(StoreError::Conflict(words)) => words,
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn a_unique_index_that_is_missing_and_cannot_be_made_is_refused() {
    let store = TemporaryStore::new().await;
    for (collection, index, keys) in
        [("batches", "key", doc! { "tenant": 1, "idem_key": 1 }), ("settled", "marks", doc! { "marks": 1 })]
    {
        let raw = store.raw().await;
        raw.run_command(doc! { "dropIndexes": collection, "index": index }).await.unwrap();
        // One of its name that forbids nothing.
        let plain = doc! { "key": keys, "name": index };
        raw.run_command(doc! { "createIndexes": collection, "indexes": [plain] }).await.unwrap();
        let words = refused(&store.database).await;
        assert!(words.contains("unique index") && words.contains(collection), "{words}");
        raw.run_command(doc! { "dropIndexes": collection, "index": index }).await.unwrap();
        MongoStore::connect(&options(&store.database)).await.unwrap();
    }
}

#[tokio::test]
async fn between_the_states_of_heads_stands_one_of_no_batch_and_no_step_meets_it() {
    let store = TemporaryStore::new().await;
    MongoStore::connect(&options(&store.database)).await.unwrap();
    let heads = store.raw().await.collection::<Document>("heads");
    let mut found = heads.find(doc! {}).sort(doc! { "state": 1 }).await.unwrap();
    let mut states = Vec::new();
    while found.advance().await.unwrap() {
        states.push(found.current().get_f64("state").unwrap());
    }
    assert_eq!(states, [0.5, 1.5, 2.5]);
    assert_eq!(store.ready(None, 10).await.unwrap(), []);
    assert!(store.has_room().await.unwrap());
    store.drop_stale_uploads(u64::MAX).await.unwrap();
    assert_eq!(store.outlived(u64::MAX, 0, u64::MAX, 10).await.unwrap(), []);
    assert_eq!(store.wake(10, u64::MAX).await.unwrap(), []);
}

#[tokio::test]
async fn records_that_a_unique_index_forbids_are_refused() {
    let store = TemporaryStore::new().await;
    let raw = store.raw().await;
    raw.run_command(doc! { "dropIndexes": "batches", "index": "key" }).await.unwrap();
    let twice = [
        doc! { "_id": 1, "tenant": "a", "idem_key": "k" },
        doc! { "_id": 2, "tenant": "a", "idem_key": "k" },
    ];
    raw.collection::<Document>("batches").insert_many(twice).await.unwrap();
    let words = refused(&store.database).await;
    assert!(words.contains("unique index key"), "{words}");
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused_and_not_changed() {
    let database = MongoDatabase::create();
    let raw = raw(&database).await;
    raw.collection::<Document>("meta").insert_one(doc! { "_id": "schema", "version": 9_i64 }).await.unwrap();
    let words = refused(&database).await;
    assert!(words.contains("schema version 9") && words.contains("newer"), "{words}");
    assert_eq!(raw.list_collection_names().await.unwrap(), ["meta"]);
}

#[tokio::test]
async fn processes_that_start_at_once_agree_on_the_schema() {
    let database = MongoDatabase::create();
    let options = options(&database);
    let connect = || MongoStore::connect(&options);
    let (one, two, three) = tokio::join!(connect(), connect(), connect());
    for store in [one.unwrap(), two.unwrap(), three.unwrap()] {
        assert_eq!(store.changes().await.unwrap(), 0);
    }
    let schema =
        raw(&database).await.collection::<Document>("meta").find_one(doc! { "_id": "schema" }).await.unwrap();
    let schema = schema.unwrap();
    assert_eq!((schema.get_i64("version").unwrap(), schema.contains_key("lock")), (1, false));
}

#[tokio::test]
async fn a_lock_that_a_dead_process_left_is_taken_over() {
    let database = MongoDatabase::create();
    let past = mongodb::bson::DateTime::from_millis(1_000);
    let left = doc! { "_id": "schema", "version": 0_i64, "lock": { "token": "dead", "until": past } };
    raw(&database).await.collection::<Document>("meta").insert_one(left).await.unwrap();
    MongoStore::connect(&options(&database)).await.unwrap();
}

#[tokio::test]
async fn without_a_server_the_store_is_unavailable_and_says_nothing_of_the_password() {
    // Nothing listens on port 1; the driver looks for a primary for as long as an election takes.
    let url = "mongodb://me:s3cret@127.0.0.1:1/?replicaSet=rs0";
    let mut options = MongoOptions::new(url.into(), "promptmill");
    options.command_time = Duration::from_secs(1);
    let error = MongoStore::connect(&options).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)));
    assert!(!format!("{error:?}").contains("s3cret"));
}

#[tokio::test]
async fn whoever_connects_to_read_changes_nothing_and_is_told_what_is_not_there() {
    let database = MongoDatabase::create();
    let refused = async || match MongoStore::connect_to_read(&options(&database)).await {
        Err(StoreError::Conflict(words)) => words,
        other => format!("{other:?}"),
    };
    assert_eq!(refused().await, format!("there is no store in the database {}", database.name()));
    let raw = raw(&database).await;
    assert!(raw.list_collection_names().await.unwrap().is_empty());

    MongoStore::connect(&options(&database)).await.unwrap();
    let before = raw.list_collection_names().await.unwrap().len();
    MongoStore::connect_to_read(&options(&database)).await.unwrap();
    let meta = raw.collection::<Document>("meta");
    for (version, words) in [(0_i64, "; start this promptmill on it once"), (99, "; use a newer promptmill")]
    {
        let change = doc! { "$set": { "version": version } };
        meta.update_one(doc! { "_id": "schema" }, change).await.unwrap();
        let said = refused().await;
        assert!(said.ends_with(words), "{said}");
        let found = meta.find_one(doc! { "_id": "schema" }).await.unwrap().unwrap();
        assert_eq!(found.get_i64("version").unwrap(), version);
    }
    assert_eq!(raw.list_collection_names().await.unwrap().len(), before);
}
