//! The SQLite store from outside: the conformance suite, and what only a store in a file promises.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod file;
mod migration;
mod records;
mod suite;

use std::ops::Deref;
use std::path::Path;

use promptmill_store_sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

/// A store in a folder that goes with it.
pub(crate) struct TemporaryStore {
    store: SqliteStore,
    folder: TempDir,
}

impl TemporaryStore {
    /// A fresh store.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        Self { store, folder }
    }

    /// Closes the store and opens it again.
    pub(crate) fn reopen(self) -> Self {
        let Self { store, folder } = self;
        drop(store);
        let store = open(folder.path());
        Self { store, folder }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Deref for TemporaryStore {
    type Target = SqliteStore;

    fn deref(&self) -> &SqliteStore {
        &self.store
    }
}

/// Opens a store that must open.
pub(crate) fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(folder, SqliteOptions::default()).unwrap()
}
