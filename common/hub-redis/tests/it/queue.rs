//! The queue between processes.

use std::collections::BTreeSet;
use std::time::Duration;

use promptmill_ports::Queue as _;

use crate::scene::{LONG, Scene, chunk};

#[tokio::test]
async fn hubs_share_the_hints_and_each_is_taken_once() {
    let scene = Scene::new().await;
    let other = scene.another().await;
    let hints: Vec<_> = (0..2_000).map(|n| (chunk(n), 0)).collect();
    scene.push(&hints).await.unwrap();
    assert_eq!(other.depth().await.unwrap(), hints.len());

    let mut taken = Vec::new();
    for hub in [&*scene, &other].into_iter().cycle() {
        let some = hub.pop(100, Duration::ZERO).await.unwrap();
        if some.is_empty() {
            break;
        }
        taken.extend(some);
    }

    assert_eq!(taken, hints);
}

#[tokio::test]
async fn who_waits_is_woken_by_a_push_of_another_process() {
    let scene = Scene::new().await;
    let other = scene.another().await;
    let waiting = async {
        let mut taken = BTreeSet::new();
        while taken.len() < 3 {
            taken.extend(other.pop(2, LONG).await.unwrap());
        }
        taken
    };
    let pushing = async {
        // Somebody waits on the server before the first hint comes.
        crate::scene::until("a waiting client", async || {
            scene.server.command(&["INFO", "clients"]).contains("blocked_clients:1").then_some(())
        })
        .await;
        scene.push(&[(chunk(1), 0), (chunk(2), 0), (chunk(3), 0)]).await.unwrap();
    };
    let (taken, ()) = tokio::join!(waiting, pushing);
    assert_eq!(taken, BTreeSet::from([(chunk(1), 0), (chunk(2), 0), (chunk(3), 0)]));
}

#[tokio::test]
async fn a_pop_that_is_given_up_takes_nothing_later() {
    let scene = Scene::new().await;
    for _ in 0..3 {
        let waiting = scene.pop(1, LONG);
        let given_up = tokio::time::timeout(Duration::from_millis(50), waiting).await;
        assert!(given_up.is_err());
    }
    crate::scene::until("the server to notice", async || {
        scene.server.command(&["INFO", "clients"]).contains("blocked_clients:0").then_some(())
    })
    .await;
    scene.push(&[(chunk(1), 0)]).await.unwrap();
    assert_eq!(scene.depth().await.unwrap(), 1);
}

#[tokio::test]
async fn priorities_at_both_ends_keep_their_order_of_arrival() {
    let scene = Scene::new().await;
    scene
        .push(&[(chunk(1), i16::MIN), (chunk(2), i16::MIN), (chunk(3), i16::MAX), (chunk(4), i16::MAX)])
        .await
        .unwrap();
    scene.push(&[(chunk(1), i16::MIN), (chunk(4), i16::MAX)]).await.unwrap();
    let taken = scene.pop(9, Duration::ZERO).await.unwrap();
    let (first, last) = (i16::MAX, i16::MIN);
    assert_eq!(taken, [(chunk(3), first), (chunk(4), first), (chunk(1), last), (chunk(2), last)]);
}

#[tokio::test]
async fn what_somebody_else_put_into_the_set_is_no_hint() {
    let scene = Scene::new().await;
    scene.server.command(&["ZADD", "promptmill:{queue}:hints", "1", "not a chunk"]);
    scene.push(&[(chunk(1), 0)]).await.unwrap();
    assert_eq!(scene.pop(9, Duration::ZERO).await.unwrap(), [(chunk(1), 0)]);
}
