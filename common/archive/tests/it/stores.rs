//! Fresh stores of both kinds.

use std::path::PathBuf;

use promptmill_archive::{ArchiveError, ArchiveReader, ArchiveWriter, Scope, Summary, export, import};
use promptmill_ports::Installation;
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};
use promptmill_test_servers::MongoDatabase;
use tempfile::TempDir;

use crate::scene::NOW;

/// A kind of store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Sqlite,
    Mongo,
}

/// Where a store is, which goes with it.
pub(crate) enum Place {
    Folder(TempDir),
    Database(MongoDatabase),
}

impl Place {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => Self::Folder(tempfile::tempdir().unwrap()),
            Kind::Mongo => Self::Database(MongoDatabase::create()),
        }
    }

    pub(crate) async fn open(&self) -> Result<Box<dyn Installation>, promptmill_ports::StoreError> {
        Ok(match self {
            Self::Folder(folder) => Box::new(SqliteStore::open(folder.path(), SqliteOptions::default())?),
            Self::Database(database) => {
                let options = MongoOptions::new(database.uri().into(), database.name());
                Box::new(MongoStore::connect(&options).await?)
            }
        })
    }

    pub(crate) fn folder(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.path().to_owned(),
            Self::Database(_) => panic!("a database has no folder"),
        }
    }
}

/// The archive of a store.
pub(crate) async fn archive_of(store: &dyn Installation) -> (Vec<u8>, Summary) {
    let mut writer = ArchiveWriter::new(Vec::new(), "0.0.0", NOW).unwrap();
    export(store, &Scope::All, &mut writer).await.unwrap();
    let (summary, bytes) = writer.finish().unwrap();
    (bytes, summary)
}

/// Makes what an archive tells.
pub(crate) async fn import_from(store: &dyn Installation, archive: &[u8]) -> Result<Summary, ArchiveError> {
    import(store, &mut ArchiveReader::new(archive)?, NOW + 60_000).await
}
