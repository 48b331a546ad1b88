//! Commands whose answer never comes, before they took effect and after, and steps that end in the middle.

use mongodb::bson::{Document, doc};
use promptmill_domain::{TemplateId, TenantId};
use promptmill_ports::{Read as _, StoreError, TemplateKey, Templates as _};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::MongoServer;

use crate::proxy::Proxy;
use crate::records_steps::check_every_step;

const NOW: u64 = 1_790_000_000_000;
const DATABASE: &str = "records";
/// What the record ports write with.
const VERBS: [&str; 3] = ["insert", "update", "delete"];

async fn connect(url: String) -> MongoStore {
    MongoStore::connect(&MongoOptions::new(url.into(), DATABASE)).await.unwrap()
}

/// Makes the server fail commands, in the way `how` says, as often as `mode` says.
fn fail(server: &MongoServer, mode: impl Into<mongodb::bson::Bson>, verb: &str, how: Document) {
    let mut data = doc! { "failCommands": [verb] };
    data.extend(how);
    server.command("admin", doc! { "configureFailPoint": "failCommand", "mode": mode.into(), "data": data });
}

fn repair(server: &MongoServer) {
    server.command("admin", doc! { "configureFailPoint": "failCommand", "mode": "off" });
}

/// How often the fail point struck since the server started.
fn struck(server: &MongoServer) -> i64 {
    let all = server.command("admin", doc! { "getParameter": 1, "failpoint.failCommand": 1 });
    let failpoint = all.get_document("failpoint.failCommand").unwrap();
    failpoint.get_i64("timesEntered").or_else(|_| failpoint.get_i32("timesEntered").map(i64::from)).unwrap()
}

fn count(server: &MongoServer, collection: &str) -> i32 {
    server.command(DATABASE, doc! { "count": collection }).get_i32("n").unwrap()
}

#[tokio::test]
async fn a_step_whose_connection_breaks_before_it_took_effect_is_done() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    for verb in VERBS {
        let before = struck(&server);
        check_every_step(&store, || {
            fail(&server, doc! { "times": 1 }, verb, doc! { "closeConnection": true });
        })
        .await;
        repair(&server);
        assert!(struck(&server) > before, "no {verb} was cut off");
    }
}

#[tokio::test]
async fn a_step_that_took_effect_and_was_not_acknowledged_is_done_once() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    for verb in VERBS {
        let before = struck(&server);
        check_every_step(&store, || {
            // The command is carried out; then its node shuts down before the majority has it.
            let error = doc! { "code": 91, "codeName": "ShutdownInProgress", "errmsg": "shutting down" };
            fail(&server, doc! { "times": 1 }, verb, doc! { "writeConcernError": error });
        })
        .await;
        repair(&server);
        assert!(struck(&server) > before, "no {verb} was left unacknowledged");
    }
}

#[tokio::test]
async fn a_step_that_took_effect_and_whose_answer_was_lost_is_done_once() {
    let server = MongoServer::start();
    let proxy = Proxy::before(server.port());
    let store = connect(proxy.uri()).await;
    for verb in VERBS {
        let before = proxy.lost();
        check_every_step(&store, || proxy.lose_answer_to(&[verb], 0)).await;
        proxy.lose_answer_to(&[], 0);
        assert!(proxy.lost() > before, "no answer to an {verb} was lost");
    }
}

#[tokio::test]
async fn a_version_that_was_half_added_does_not_stand_in_the_way_of_another() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let (tenant, id) = (TenantId::default_tenant(), TemplateId::at(NOW, rand::random()));
    store.add_template(&tenant, id, "summary", "one", NOW).await.unwrap();
    // The copy of the newest is written, the template is not.
    fail(&server, "alwaysOn", "update", doc! { "errorCode": 50 });
    let added = store.add_version(&tenant, id, 1, "never", NOW + 1).await;
    assert!(matches!(added, Err(StoreError::Unavailable(_))), "{added:?}");
    repair(&server);
    assert_eq!(count(&server, "template_versions"), 1);

    assert_eq!(store.versions(&tenant, id, None, 9).await.unwrap(), [(1, NOW)]);
    assert_eq!(store.version(&tenant, id, None).await.unwrap().source, "one");
    assert_eq!(store.add_version(&tenant, id, 1, "two", NOW + 2).await.unwrap().latest, 2);
    assert_eq!(store.versions(&tenant, id, None, 9).await.unwrap(), [(2, NOW + 2), (1, NOW)]);
    assert_eq!(store.version(&tenant, id, Some(1)).await.unwrap().source, "one");
    assert_eq!(store.version(&tenant, id, Some(2)).await.unwrap().source, "two");
}

#[tokio::test]
async fn a_template_that_was_half_deleted_is_gone_and_is_removed_later() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let tenant = TenantId::default_tenant();
    let made = async |name: &str| {
        let id = TemplateId::at(NOW, rand::random());
        store.add_template(&tenant, id, name, "old one", NOW).await.unwrap();
        store.add_version(&tenant, id, 1, "old two", NOW).await.unwrap();
        id
    };
    let (again, left) = (made("again").await, made("left").await);
    // They are marked, and nothing of them is removed.
    fail(&server, "alwaysOn", "delete", doc! { "errorCode": 50 });
    for (id, name) in [(again, "again"), (left, "left")] {
        let deleted = store.delete_template(&tenant, id, 2).await;
        assert!(matches!(deleted, Err(StoreError::Unavailable(_))), "{deleted:?}");
        for key in [TemplateKey::Id(id), TemplateKey::Name(name.to_owned())] {
            let there = store.template(&tenant, &key).await;
            assert!(matches!(there, Err(StoreError::NotFound)), "{there:?}");
        }
        let version = store.version(&tenant, id, Some(1)).await;
        assert!(matches!(version, Err(StoreError::NotFound)), "{version:?}");
    }
    assert_eq!(store.templates(&tenant, None, 9).await.unwrap(), []);
    repair(&server);
    assert_eq!(count(&server, "template_versions"), 2);

    // One of them is made again, and has nothing of its earlier life.
    let made = store.add_template(&tenant, again, "again", "new one", NOW + 5).await.unwrap();
    assert_eq!((made.latest, made.created_ms), (1, NOW + 5));
    assert_eq!(store.versions(&tenant, again, None, 9).await.unwrap(), [(1, NOW + 5)]);
    // The other is removed by the next store.
    let next = connect(server.uri()).await;
    assert_eq!((count(&server, "templates"), count(&server, "template_versions")), (1, 0));
    assert_eq!(next.version(&tenant, again, None).await.unwrap().source, "new one");
}

#[tokio::test]
async fn records_that_cannot_be_summed_in_time_take_what_they_took_last() {
    let server = MongoServer::start();
    let tenant = TenantId::default_tenant();
    let usage = async |store: &MongoStore| store.usage(&tenant, NOW).await.map(|usage| usage.record_bytes);
    let too_slow = || fail(&server, "alwaysOn", "aggregate", doc! { "errorCode": 50 });
    let store = connect(server.uri()).await;
    too_slow();
    let told = usage(&store).await;
    assert!(matches!(told, Err(StoreError::Unavailable(_))), "{told:?}");
    repair(&server);

    // More than are summed each time, so that the sum is noted.
    let claims: Vec<Document> =
        (0..1_100).map(|n| doc! { "_id": n, "tenant": tenant.as_str(), "bytes": 2_i64 }).collect();
    server.command(DATABASE, doc! { "insert": "claims", "documents": claims });
    assert_eq!(usage(&store).await.unwrap(), 2_200);
    too_slow();
    let next = connect(server.uri()).await;
    assert_eq!(usage(&next).await.unwrap(), 2_200);
    // What it adds counts at once.
    next.add_template(&tenant, TemplateId::at(NOW, rand::random()), "summary", "12345", NOW).await.unwrap();
    assert_eq!(usage(&next).await.unwrap(), 2_205);
}

#[tokio::test]
async fn a_deletion_that_is_tried_again_does_not_take_a_version_that_came_since() {
    let server = MongoServer::start();
    let (store, other) = (connect(server.uri()).await, connect(server.uri()).await);
    let (tenant, id) = (TenantId::default_tenant(), TemplateId::at(NOW, rand::random()));
    store.add_template(&tenant, id, "summary", "one", NOW).await.unwrap();
    let before = struck(&server);
    fail(&server, doc! { "times": 1 }, "update", doc! { "closeConnection": true });
    let add = async {
        // The deletion has seen version 1 as the newest, and is cut off.
        while struck(&server) == before {
            tokio::task::yield_now().await;
        }
        other.add_version(&tenant, id, 1, "two", NOW).await
    };
    let (deleted, added) = tokio::join!(store.delete_template(&tenant, id, 1), add);
    let there = store.template(&tenant, &TemplateKey::Id(id)).await;
    if deleted.is_ok() {
        assert!(matches!(added, Err(StoreError::NotFound)), "{added:?}");
        assert!(matches!(there, Err(StoreError::NotFound)), "{there:?}");
    } else {
        assert!(matches!(deleted, Err(StoreError::Conflict(_))), "{deleted:?}");
        assert_eq!((added.unwrap().latest, there.unwrap().latest), (2, 2));
    }
}
