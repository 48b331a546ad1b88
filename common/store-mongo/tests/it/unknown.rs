//! Results that never came: whatever was done before the answer was lost, the step repeated ends the same.

use std::collections::BTreeMap;

use mongodb::bson::{Document, doc};
use promptmill_domain::{BatchEvent, BatchState, ItemCode, PauseReason, Release};
use promptmill_ports::{
    Admission as _, Close as _, Control as _, Created, Intake as _, Outbox as _, PageLimit, Read as _,
    Sessions as _, Settled, SettledCursor, Store, Work as _,
};
use promptmill_store_mongo::{MongoOptions, MongoStore};
use promptmill_test_servers::MongoServer;

use crate::proxy::Proxy;
use crate::scene::{NOW, Scene, group, settle, settling};

const ALL: PageLimit = PageLimit { items: u32::MAX, bytes: usize::MAX };
const ROWS: u32 = 6;

/// A batch's whole life, and that it ended as it must.
async fn live(store: &dyn Store) {
    let mut scene = Scene::running(store, ROWS).await.unwrap();
    let (tenant, batch) = (scene.tenant.clone(), scene.batch);
    assert_eq!(store.create(&tenant, scene.new_batch()).await.unwrap(), Created::Existing(batch));
    for n in 0..3 {
        let lease = scene.lease(store, n).await;
        let settled = settle(store, settling(&lease, format!("body {n}"))).await.unwrap();
        assert_eq!(settled, Settled::Recorded { done: true });
    }
    let lease = scene.lease(store, 3).await;
    let let_go = promptmill_ports::SettleGroup { release: Release::LetGo, ..group(&lease) };
    assert_eq!(settle(store, let_go).await.unwrap(), Settled::Recorded { done: false });
    scene.lease(store, 4).await;
    assert_eq!(store.bury(scene.session, 0, NOW).await.unwrap(), Some(1));
    scene.session = promptmill_domain::SessionId::at(NOW, rand::random());
    store.open(scene.session, "next").await.unwrap();
    assert_eq!(scene.lease(store, 4).await.head.kills, 1);
    assert_eq!(store.end(scene.session, NOW).await.unwrap(), 1);

    let paused = store.steer(&tenant, batch, BatchEvent::Pause(PauseReason::Requested), NOW).await.unwrap();
    assert_eq!(paused, BatchState::Paused { reason: PauseReason::Requested });
    store.steer(&tenant, batch, BatchEvent::Cancel, NOW).await.unwrap();
    while store.seal(&tenant, batch, 2, NOW).await.unwrap() > 0 {}
    let counts = store.close(&tenant, batch, NOW).await.unwrap().unwrap();
    assert_eq!((counts.succeeded, counts.cancelled, counts.totals.calls), (3, 3, 4));
    assert_eq!(store.progress(&tenant, batch).await.unwrap().counts, counts);

    let outcomes = store.outcomes(&tenant, batch, 0, ALL).await.unwrap().outcomes;
    let bodies: Vec<_> = outcomes.iter().map(|outcome| (outcome.index, outcome.body.clone())).collect();
    let wanted: Vec<_> = (0..ROWS).map(|n| (n, (n < 3).then(|| format!("body {n}").into()))).collect();
    assert_eq!(bodies, wanted);
    let page = store.settled(&tenant, batch, SettledCursor::default(), ALL).await.unwrap();
    let mut order: Vec<_> = page.outcomes.iter().map(|(outcome, _)| (outcome.index, outcome.code)).collect();
    assert_eq!(order[..3].iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1, 2]);
    order.sort_unstable();
    let codes = outcomes.iter().map(|outcome| (outcome.index, outcome.code)).collect::<Vec<_>>();
    assert_eq!(order, codes);
    assert!(codes[3..].iter().all(|(_, code)| *code == ItemCode::Cancelled));

    let events = store.pending(u32::MAX).await.unwrap();
    let mut mine = BTreeMap::new();
    for event in events.iter().filter(|event| event.batch == batch) {
        *mine.entry(event.kind.as_str()).or_insert(0) += 1;
    }
    assert_eq!(mine, BTreeMap::from([("batch.cancelled", 1), ("batch.paused", 1)]));
    assert_eq!(store.usage(&tenant, NOW).await.unwrap().rows, u64::from(ROWS));
    while !store.delete(&tenant, batch).await.unwrap() {}
    assert_eq!(store.pending(u32::MAX).await.unwrap().iter().filter(|event| event.batch == batch).count(), 0);
}

async fn connect(uri: String) -> MongoStore {
    MongoStore::connect(&MongoOptions::new(uri.into(), "promptmill")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_answer_is_lost_after_it_took_effect_changes_nothing_when_repeated() {
    let server = MongoServer::start();
    let proxy = Proxy::before(server.port());
    let store = connect(proxy.uri()).await;
    live(&store).await;
    for commands in [
        &["insert"][..],
        &["update"],
        &["delete", "findAndModify"],
        &["insert", "update", "delete", "findAndModify"],
    ] {
        proxy.lose_answers_to(commands);
        live(&store).await;
        assert!(proxy.lost() > 1, "{commands:?} lost {}", proxy.lost());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_on_its_way_or_is_not_replicated_in_time_is_repeated() {
    let server = MongoServer::start();
    let store = connect(server.uri()).await;
    let fail = |command: &str, how: Document| {
        let mut data = doc! { "failCommands": [command], "appName": "promptmill" };
        data.extend(how);
        // Often, and never so often in a row that it is given up.
        let mode = doc! { "activationProbability": 0.3 };
        server.command("admin", doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data });
    };
    let stepped_down = doc! { "code": 189, "codeName": "PrimarySteppedDown", "errmsg": "stepped down" };
    for command in ["insert", "update", "delete"] {
        for how in [
            doc! { "closeConnection": true },
            doc! { "errorCode": 91 },
            doc! { "writeConcernError": stepped_down.clone() },
        ] {
            fail(command, how);
            live(&store).await;
        }
    }
    server.command("admin", doc! { "configureFailPoint": "failCommand", "mode": "off" });
    live(&store).await;
}
