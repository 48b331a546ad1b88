//! MongoDB as tests use it: the shared server, one of one's own, and three.

use bson::doc;
use promptmill_test_servers::{MongoDatabase, MongoReplicaSet, MongoServer};

fn insert() -> bson::Document {
    doc! {
        "insert": "things",
        "documents": [{ "_id": 1 }],
        "writeConcern": { "w": "majority", "j": true },
    }
}

#[test]
fn databases_of_one_process_are_on_one_server_and_differ() {
    let (one, other) = (MongoDatabase::create(), MongoDatabase::create());
    assert_eq!(one.uri(), other.uri());
    assert_ne!(one.name(), other.name());
}

#[test]
fn a_killed_mongod_comes_back_with_what_it_acknowledged() {
    let mut server = MongoServer::start();
    server.command("test", insert());
    server.kill();
    server.restart();
    let found = server.command("test", doc! { "count": "things" });
    assert_eq!(found.get_i32("n").unwrap(), 1);
}

#[test]
fn a_set_of_three_elects_another_primary_when_one_is_killed_or_steps_down() {
    let mut set = MongoReplicaSet::start();
    let first = set.primary();
    set.kill(first);
    let second = set.primary();
    assert_ne!(second, first);
    set.restart(first);
    set.step_down(30);
    assert_ne!(set.primary(), second);
}
