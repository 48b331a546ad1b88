//! The MongoDB store from outside, on real servers: the conformance suite, and what only a store in a fleet's database promises.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod bundles;
mod counts;
mod indexes;
mod large;
mod life;
mod proxy;
mod records;
mod records_at_once;
mod records_steps;
mod records_unanswered;
mod scene;
mod small;
mod start;
mod strays;
mod suite;
mod unknown;

use std::ops::Deref;

use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::MongoDatabase;

/// A store in a database that goes with it, on the server that tests share.
pub(crate) struct TemporaryStore {
    store: MongoStore,
    database: MongoDatabase,
}

impl TemporaryStore {
    /// A fresh store.
    pub(crate) async fn new() -> Self {
        let database = MongoDatabase::create();
        let store = MongoStore::connect(&options(&database)).await.unwrap();
        Self { store, database }
    }

    /// The same store as another process has it.
    pub(crate) async fn other(&self) -> MongoStore {
        MongoStore::connect(&options(&self.database)).await.unwrap()
    }

    /// The driver's own view of the database.
    pub(crate) async fn raw(&self) -> mongodb::Database {
        raw(&self.database).await
    }
}

impl Deref for TemporaryStore {
    type Target = MongoStore;

    fn deref(&self) -> &MongoStore {
        &self.store
    }
}

/// How a store in this database is reached.
pub(crate) fn options(database: &MongoDatabase) -> MongoOptions {
    MongoOptions::new(database.uri().into(), database.name())
}

/// The driver's own view of a database.
pub(crate) async fn raw(database: &MongoDatabase) -> mongodb::Database {
    mongodb::Client::with_uri_str(database.uri()).await.unwrap().database(database.name())
}
