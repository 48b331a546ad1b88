//! The servers of a fleet, real and of our own, and what they were asked: commands as the servers themselves count them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use bson::{Bson, Document, doc};
use promptmill_test_servers::{MongoServer, RedisServer};

use crate::figures::Number;

/// MongoDB's own counts of what is no work: drivers watch their server with these, and the measures read the counts.
const MONGO_WITHOUT_WORK: [&str; 6] =
    ["buildInfo", "endSessions", "hello", "isMaster", "ping", "serverStatus"];

/// How the measures read Redis' counts.
const REDIS_OF_THE_MEASURES: &str = "info";

/// The database of a fleet that is told nothing else.
const DATABASE: &str = "promptmill";

/// A replica set of one and a Redis that keeps nothing; both end with this value.
#[derive(Debug)]
pub struct Servers {
    /// MongoDB as it is shipped.
    pub mongo: MongoServer,
    /// Redis as the tests have it.
    pub redis: RedisServer,
}

impl Servers {
    /// Starts both; the files of MongoDB are made in `folder`.
    pub fn start(folder: &Path) -> Self {
        Self { mongo: MongoServer::start_as_shipped(folder), redis: RedisServer::start() }
    }

    /// What both were asked since they started.
    ///
    /// # Errors
    /// An answer is not as expected.
    pub fn asked(&self) -> anyhow::Result<Asked> {
        let status = self.mongo.command("admin", doc! { "serverStatus": 1 });
        let mongo = mongo_commands(&status).context("MongoDB's count of commands is not as expected")?;
        Ok(Asked { mongo, redis: redis_commands(&self.redis.command(&["INFO", "commandstats"])) })
    }

    /// What is in MongoDB.
    ///
    /// # Errors
    /// An answer is not as expected.
    pub fn stored(&self) -> anyhow::Result<Stored> {
        let stats = self.mongo.command(DATABASE, doc! { "dbStats": 1 });
        let oplog = self.mongo.command("local", doc! { "collStats": "oplog.rs" });
        let (data, oplog) = (number(&stats, "dataSize")?, number(&oplog, "size")?);
        Ok(Stored { data, files: number(&stats, "storageSize")? + number(&stats, "indexSize")?, oplog })
    }

    /// How many batches MongoDB has, from what it remembers of the collection: a look that costs it nothing.
    ///
    /// # Errors
    /// An answer is not as expected.
    pub fn batches(&self) -> anyhow::Result<u64> {
        number(&self.mongo.command(DATABASE, doc! { "count": "batches" }), "n")
    }

    /// What memory Redis takes.
    ///
    /// # Errors
    /// An answer is not as expected.
    pub fn redis_memory(&self) -> anyhow::Result<RedisMemory> {
        let told = self.redis.command(&["INFO", "memory"]);
        Ok(RedisMemory {
            now: told_by_redis(&told, "used_memory")?,
            peak: told_by_redis(&told, "used_memory_peak")?,
        })
    }

    /// Makes MongoDB write out what it holds, so that it does not do so while somebody else is measured.
    pub fn settle(&self) {
        self.mongo.command("admin", doc! { "fsync": 1 });
    }
}

/// What is in MongoDB, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Documents of the fleet's database as they are.
    pub data: u64,
    /// Its files, of documents and of indexes.
    pub files: u64,
    /// What was written to the log that other members of the replica set follow.
    pub oplog: u64,
}

/// Memory that Redis took, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct RedisMemory {
    /// Of this moment.
    pub now: u64,
    /// At most, since its start.
    pub peak: u64,
}

/// A number of an answer of MongoDB.
fn number(answer: &Document, name: &str) -> anyhow::Result<u64> {
    let value = answer.get(name).with_context(|| format!("MongoDB's answer has no {name}"))?;
    let value = value.as_i64().or_else(|| value.as_i32().map(i64::from)).or_else(|| whole(value.as_f64()?));
    value.and_then(|value| u64::try_from(value).ok()).with_context(|| format!("{name} is no number"))
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of files are far below")]
fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0).then_some(value as i64)
}

/// The line `name:N` of what Redis tells.
fn told_by_redis(told: &str, name: &str) -> anyhow::Result<u64> {
    let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("Redis tells no {name}"))?.trim().parse()?)
}

/// Commands by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kinds(BTreeMap<String, u64>);

impl Kinds {
    /// All together.
    pub fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    /// What came after `before`.
    fn since(&self, before: &Self) -> Self {
        let grown = |(name, count): (&String, &u64)| {
            let more = count.saturating_sub(before.0.get(name).copied().unwrap_or(0));
            (more > 0).then(|| (name.clone(), more))
        };
        Self(self.0.iter().filter_map(grown).collect())
    }

    /// The kinds for each of `pieces`, most frequent first.
    pub fn for_each_of(&self, pieces: f64) -> String {
        let mut kinds: Vec<_> = self.0.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let told = |(name, count): &(&String, &u64)| format!("{name} {}", Number(**count as f64 / pieces));
        kinds.iter().map(told).collect::<Vec<_>>().join(", ")
    }
}

/// What the servers were asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Commands that MongoDB ran, but for those without work. One that writes or reads many documents is one.
    pub mongo: Kinds,
    /// Commands that Redis ran, those inside of scripts too.
    pub redis: Kinds,
}

impl Asked {
    /// What came after `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self { mongo: self.mongo.since(&before.mongo), redis: self.redis.since(&before.redis) }
    }
}

/// `metrics.commands` of `serverStatus`. Its `opcounters` are no counts of commands: an insert of 100 documents is 100 there.
fn mongo_commands(status: &Document) -> Option<Kinds> {
    let commands = status.get_document("metrics").ok()?.get_document("commands").ok()?;
    let count = |(name, counts): (&String, &Bson)| {
        let total = counts.as_document()?.get("total")?;
        let total = total.as_i64().or_else(|| total.as_i32().map(i64::from))?;
        Some((name.clone(), u64::try_from(total).ok()?))
    };
    let mut kinds: BTreeMap<_, _> = commands.iter().filter_map(count).collect();
    kinds.retain(|name, _| !MONGO_WITHOUT_WORK.contains(&name.as_str()));
    Some(Kinds(kinds))
}

/// The lines `cmdstat_NAME:calls=N,...` of Redis.
fn redis_commands(told: &str) -> Kinds {
    let count = |line: &str| {
        let (name, counts) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let calls = counts.split(',').find_map(|count| count.strip_prefix("calls="))?;
        Some((name.to_owned(), calls.parse().ok()?))
    };
    let mut kinds: BTreeMap<_, _> = told.lines().filter_map(count).collect();
    kinds.remove(REDIS_OF_THE_MEASURES);
    Kinds(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds<const N: usize>(kinds: [(&str, u64); N]) -> Kinds {
        Kinds(kinds.into_iter().map(|(name, count)| (name.to_owned(), count)).collect())
    }

    #[test]
    fn commands_of_mongodb_are_counted_without_those_of_watching() {
        let status = doc! { "metrics": { "commands": {
            "<UNKNOWN>": 3_i64,
            "find": { "failed": 0_i64, "total": 12_i64 },
            "update": { "arrayFilters": 0_i64, "failed": 1_i64, "pipeline": 9_i64, "total": 9 },
            "hello": { "failed": 0_i64, "total": 400_i64 },
            "serverStatus": { "failed": 0_i64, "total": 2_i64 },
        } } };
        assert_eq!(mongo_commands(&status), Some(kinds([("find", 12), ("update", 9)])));
        assert_eq!(mongo_commands(&doc! { "opcounters": {} }), None);
    }

    #[test]
    fn commands_of_redis_are_counted_without_our_own_look() {
        let told = "# Commandstats\r\ncmdstat_info:calls=4,usec=100\r\ncmdstat_zadd:calls=21,usec=175,usec_per_call=8.33\r\n\
                    cmdstat_client|setinfo:calls=2,usec=3\r\n";
        assert_eq!(redis_commands(told), kinds([("zadd", 21), ("client|setinfo", 2)]));
    }

    #[test]
    fn numbers_are_read_in_whatever_form_they_are_told() {
        let answer = doc! { "a": 7_i32, "b": 8_i64, "c": 9.0, "d": 9.5, "e": "9" };
        assert_eq!(["a", "b", "c"].map(|name| number(&answer, name).unwrap()), [7, 8, 9]);
        assert!(["d", "e", "f"].iter().all(|name| number(&answer, name).is_err()));
        let told = "# Memory\r\nused_memory:120\r\nused_memory_peak:340\r\n";
        assert_eq!(told_by_redis(told, "used_memory").unwrap(), 120);
        assert_eq!(told_by_redis(told, "used_memory_peak").unwrap(), 340);
        assert!(told_by_redis(told, "used").is_err());
    }

    #[test]
    fn what_came_between_two_looks_is_their_difference() {
        let (before, after) =
            (kinds([("find", 10), ("insert", 4)]), kinds([("find", 10), ("insert", 9), ("update", 20)]));
        let came = after.since(&before);
        assert_eq!(came, kinds([("insert", 5), ("update", 20)]));
        assert_eq!(came.sum(), 25);
        assert_eq!(came.for_each_of(10.0), "update 2, insert 0.5");
    }

    #[test]
    fn real_servers_count_what_they_are_asked() {
        let folder = tempfile::tempdir().unwrap();
        let servers = Servers::start(folder.path());
        let before = servers.asked().unwrap();
        let documents: Vec<_> = (0..1_000).map(|n| doc! { "_id": n }).collect();
        servers.mongo.command("bench", doc! { "insert": "things", "documents": documents });
        for _ in 0..3 {
            servers.mongo.command("bench", doc! { "count": "things" });
        }
        servers.redis.command(&["SET", "key", "value"]);
        servers.redis.command(&[
            "EVAL",
            "redis.call('GET', KEYS[1]) return redis.call('GET', KEYS[1])",
            "1",
            "key",
        ]);
        let asked = servers.asked().unwrap().since(&before);
        // A mongod that has just begun finds and inserts some things of its own.
        assert!((1..100).contains(&asked.mongo.0["insert"]), "{asked:?}");
        assert_eq!(asked.mongo.0["count"], 3, "{asked:?}");
        assert_eq!(asked.redis, kinds([("eval", 1), ("get", 2), ("set", 1)]));
    }
}
