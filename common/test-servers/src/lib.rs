//! Real servers for tests and measures: Redis and MongoDB, on free ports of this machine.
//!
//! A server ends with the value that stands for it, and also when the test process is killed. [`RedisServer`] starts in
//! milliseconds, so every test has its own. A `mongod` takes seconds: [`MongoDatabase`] is a database of one's own on a server that
//! all test processes share, and [`MongoServer`] and [`MongoReplicaSet`] are for tests that do something to the server itself.
//! The programs come from `./check`; without them a test fails and says so.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a part of tests that lives outside cfg(test): what does not start fails the test"
)]

mod binary;
mod mongo;
mod process;
mod program;
mod redis;

pub use binary::{Binary, check_role, check_role_refuses, check_role_wants_a_master_key, http_get};
pub use mongo::{MongoConnection, MongoDatabase, MongoReplicaSet, MongoServer};
pub use process::free_port;
pub use redis::{RedisSentinel, RedisServer};
