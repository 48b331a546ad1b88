//! The MongoDB and the Redis of one fleet.

use bson::{Document, doc};
use promptmill_test_servers::{MongoDatabase, MongoReplicaSet, MongoServer, RedisSentinel, RedisServer};

use crate::chaos::scene::wait_until;
use crate::support::Desk;

/// The name of the database on a server that nobody else uses.
const DATABASE: &str = "promptmill";

/// Where the store is.
pub(crate) enum Mongo {
    /// A database on the server that all tests share.
    Shared(MongoDatabase),
    /// A server of one's own, for fail points.
    Own(MongoServer),
    /// Three members, for elections.
    Set(MongoReplicaSet),
}

/// What the processes of a fleet share.
pub(crate) struct Servers {
    pub(crate) mongo: Mongo,
    pub(crate) redis: RedisServer,
    /// A second Redis that repeats the first, and who makes it the first one's follower.
    pub(crate) watch: Option<(RedisServer, RedisSentinel)>,
}

impl Servers {
    /// The usual ones.
    pub(crate) fn start() -> Self {
        Self::with(Mongo::Shared(MongoDatabase::create()))
    }

    /// With a MongoDB server of its own.
    pub(crate) fn own() -> Self {
        Self::with(Mongo::Own(MongoServer::start()))
    }

    /// With a replica set of three.
    pub(crate) fn set() -> Self {
        Self::with(Mongo::Set(MongoReplicaSet::start()))
    }

    fn with(mongo: Mongo) -> Self {
        Self { mongo, redis: RedisServer::start(), watch: None }
    }

    /// The usual ones, and a replica of Redis that Sentinel puts in its place when it is gone.
    pub(crate) fn watched() -> Self {
        let mut servers = Self::start();
        let replica = RedisServer::start();
        replica.command(&["REPLICAOF", "127.0.0.1", &servers.redis.port().to_string()]);
        let sentinel = RedisSentinel::start(&servers.redis);
        wait_until("the sentinel to know the replica", || sentinel.has_replica(&replica));
        servers.watch = Some((replica, sentinel));
        servers
    }

    /// Sets the environment of every process of the fleet.
    pub(crate) fn point_at(&self, desk: &mut Desk) {
        let (uri, database) = match &self.mongo {
            Mongo::Shared(shared) => (shared.uri(), shared.name()),
            Mongo::Own(server) => (server.uri(), DATABASE),
            Mongo::Set(set) => (set.uri(), DATABASE),
        };
        desk.set("PROMPTMILL_MONGO_URL", &uri);
        desk.set("PROMPTMILL_MONGO_DATABASE", database);
        let redis = match &self.watch {
            None => self.redis.url(),
            Some((_, sentinel)) => format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port()),
        };
        desk.set("PROMPTMILL_REDIS_URL", &redis);
        // 32 bytes in base64, as every process of a fleet must have them.
        desk.set("PROMPTMILL_MASTER_KEY", &format!("test:{}=", "A".repeat(43)));
    }

    /// Whether a text stands in any document of the database, or in anything that Redis holds.
    pub(crate) fn contain(&self, text: &str) -> bool {
        let stored = self.documents();
        let in_mongo = stored.iter().any(|(_, document)| holds(&document.to_vec().unwrap(), text));
        let keys = self.redis.command(&["KEYS", "*"]);
        in_mongo || keys.lines().any(|key| holds(self.redis.command(&["DUMP", key]).as_bytes(), text))
    }

    /// Every document of the database with the name of its collection, in the order of these.
    pub(crate) fn documents(&self) -> Vec<(String, Document)> {
        self.of_each_collection(|name| doc! { "find": name, "batchSize": 10_000 })
    }

    /// Every index that somebody made, likewise.
    pub(crate) fn indexes(&self) -> Vec<(String, Document)> {
        let mut indexes = self.of_each_collection(|name| doc! { "listIndexes": name });
        indexes.retain(|(_, index)| index.get_str("name").unwrap() != "_id_");
        indexes
    }

    fn of_each_collection(&self, command: impl Fn(&str) -> Document) -> Vec<(String, Document)> {
        let names = all(self.database(), doc! { "listCollections": 1, "nameOnly": true });
        let mut names: Vec<_> = names.iter().map(|found| found.get_str("name").unwrap().to_owned()).collect();
        names.sort_unstable();
        let of = |name: &String| all(self.database(), command(name));
        names.iter().flat_map(|name| of(name).into_iter().map(|found| (name.clone(), found))).collect()
    }

    /// The database on the shared server.
    #[track_caller]
    pub(crate) fn database(&self) -> &MongoDatabase {
        match &self.mongo {
            Mongo::Shared(database) => database,
            Mongo::Own(_) | Mongo::Set(_) => panic!("only of a database on the shared server"),
        }
    }

    /// The replica set.
    #[track_caller]
    pub(crate) fn replica_set(&mut self) -> &mut MongoReplicaSet {
        match &mut self.mongo {
            Mongo::Set(set) => set,
            Mongo::Shared(_) | Mongo::Own(_) => panic!("this fleet has no replica set"),
        }
    }

    /// The server of one's own.
    #[track_caller]
    pub(crate) fn own_server(&self) -> &MongoServer {
        match &self.mongo {
            Mongo::Own(server) => server,
            Mongo::Shared(_) | Mongo::Set(_) => panic!("this fleet has no server of its own"),
        }
    }
}

/// Everything that a command with a cursor finds, which is to fit into one answer.
fn all(database: &MongoDatabase, command: Document) -> Vec<Document> {
    let answer = database.command(command);
    let cursor = answer.get_document("cursor").unwrap();
    assert_eq!(cursor.get_i64("id").unwrap(), 0, "one answer holds everything");
    let found = cursor.get_array("firstBatch").unwrap().iter();
    found.map(|document| document.as_document().unwrap().clone()).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
