//! MongoDB as tests use it: the shared server, one of one's own, and three.

use bson::{doc, rawdoc};
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

#[test]
fn a_server_as_shipped_lies_in_its_folder_takes_many_commands_on_a_connection_and_none_of_tests() {
    let folder = tempfile::tempdir().unwrap();
    let server = MongoServer::start_as_shipped(folder.path());
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    let mut connection = server.connect().unwrap();
    for n in 0..3 {
        let insert = rawdoc! { "insert": "things", "documents": [{ "_id": n }], "$db": "test" };
        assert_eq!(connection.run(&insert).unwrap().get_i32("n").unwrap(), 1);
    }
    assert_eq!(server.command("test", doc! { "count": "things" }).get_i32("n").unwrap(), 3);
    assert!(
        connection
            .run(&rawdoc! { "configureFailPoint": "failCommand", "mode": "off", "$db": "admin" })
            .is_err()
    );
    drop(server);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}
