//! The MongoDB store from outside: the conformance suite, and what only a store of many processes on a server that may fail promises.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod records;
mod records_at_once;
mod records_unanswered;

use std::ops::Deref;

use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::MongoDatabase;

/// A store in a database that goes with it.
pub(crate) struct TemporaryStore {
    store: MongoStore,
    database: MongoDatabase,
}

impl TemporaryStore {
    /// A fresh store.
    pub(crate) async fn new() -> Self {
        let database = MongoDatabase::create();
        let store = connect(&database.uri(), database.name()).await;
        Self { store, database }
    }

    /// Another store over the same database, as another process has it.
    pub(crate) async fn another(&self) -> MongoStore {
        connect(&self.database.uri(), self.database.name()).await
    }
}

impl Deref for TemporaryStore {
    type Target = MongoStore;

    fn deref(&self) -> &MongoStore {
        &self.store
    }
}

/// A store that must connect.
pub(crate) async fn connect(url: &str, database: &str) -> MongoStore {
    MongoStore::connect(&MongoOptions::new(url.into(), database)).await.unwrap()
}
