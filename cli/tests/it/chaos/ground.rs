//! What processes of one engine stand on when they all run inside a test: one SQLite file and the in-memory hub, or a MongoDB database and a
//! Redis, each process with connections of its own.

use std::sync::Arc;

use promptmill_hub_redis::{RedisHub, RedisHubOptions};
use promptmill_ports::{MemoryHub, Records, Store};
use promptmill_runtime::{Engine, Providers};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};
use promptmill_test_servers::{MongoDatabase, RedisServer};

use crate::stand::Kind;

/// Where everything is stored; gone with this value.
pub(crate) enum Ground {
    Embedded { store: Arc<SqliteStore>, hub: Arc<MemoryHub>, _folder: tempfile::TempDir },
    Fleet { mongo: MongoDatabase, redis: RedisServer },
}

/// What one process holds of it.
pub(crate) struct Process {
    pub(crate) store: Arc<dyn Store>,
    records: Arc<dyn Records>,
    hub: Hub,
}

enum Hub {
    Memory(Arc<MemoryHub>),
    Redis(Arc<RedisHub>),
}

impl Ground {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Embedded => {
                let folder = tempfile::tempdir().unwrap();
                let store = Arc::new(SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap());
                Self::Embedded { store, hub: Arc::new(MemoryHub::new()), _folder: folder }
            }
            Kind::Fleet => Self::Fleet { mongo: MongoDatabase::create(), redis: RedisServer::start() },
        }
    }

    /// One more process.
    pub(crate) async fn process(&self) -> Process {
        match self {
            Self::Embedded { store, hub, .. } => {
                Process { store: store.clone(), records: store.clone(), hub: Hub::Memory(hub.clone()) }
            }
            Self::Fleet { mongo, redis } => {
                let options = MongoOptions::new(mongo.uri().into(), mongo.name());
                let store = Arc::new(MongoStore::connect(&options).await.unwrap());
                let hub = RedisHub::connect(&RedisHubOptions::new(redis.url())).await.unwrap();
                Process { store: store.clone(), records: store, hub: Hub::Redis(Arc::new(hub)) }
            }
        }
    }
}

impl Process {
    /// Its engine, with this store in the place of its own.
    pub(crate) fn engine(&self, store: Arc<dyn Store>, providers: Arc<Providers>) -> Engine {
        let records = self.records.clone();
        match &self.hub {
            Hub::Memory(hub) => Engine::over(store, records, hub.clone(), providers),
            Hub::Redis(hub) => Engine::over(store, records, hub.clone(), providers),
        }
    }
}
