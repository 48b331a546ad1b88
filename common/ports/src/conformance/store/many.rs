//! Cases about many small batches at once: what a store does for them together, each has for itself.

use std::collections::{BTreeSet, HashMap};

use futures_util::future::join_all;
use promptmill_domain::{
    BatchEvent, BatchId, BatchState, ChunkId, EventKind, PauseReason, TenantId, Webhook,
};

use super::scene::*;
use crate::{Accepted, Lease, PageLimit, RowBlock, SettleGroup, Settled, SettledCursor, Store, WholeBatch};

const MANY: u32 = 40;
const ALL: PageLimit = PageLimit { items: u32::MAX, bytes: usize::MAX };

/// Queued batches of two tenants, of one row each and every fifth of three. Every second has a webhook.
async fn queued(store: &dyn Store) -> Vec<Scene<'_>> {
    let (tenants, session) = ([fresh_tenant(), fresh_tenant()], fresh_session());
    store.open(session, "worker").await.unwrap();
    let scenes = (0..MANY).map(|n| Scene {
        store,
        tenant: tenants[n as usize % 3 % 2].clone(),
        batch: fresh_batch(),
        session,
    });
    let scenes: Vec<_> = scenes.collect();
    let accepting = scenes.iter().zip(0u32..).map(|(scene, n)| {
        let mut batch = new_batch(scene.batch, None);
        let url = "https://receiver.test/hook".to_owned();
        batch.spec.webhook =
            n.is_multiple_of(2).then(|| Webhook { url, sealed_secret: "sealed".to_owned(), results: false });
        let rows: RowBlock = block(0, rows(n), "rows");
        store.accept(&scene.tenant, WholeBatch { batch, rows, digest: [1; 32] })
    });
    for accepted in join_all(accepting).await {
        assert!(matches!(accepted.unwrap(), Accepted::New(_)));
    }
    scenes
}

const fn rows(n: u32) -> u32 {
    if n.is_multiple_of(5) { 3 } else { 1 }
}

fn chunks(scenes: &[Scene<'_>]) -> Vec<ChunkId> {
    scenes.iter().zip(0..).flat_map(|(scene, n)| (0..rows(n)).map(|chunk| scene.chunk(chunk))).collect()
}

async fn leased(store: &dyn Store, scenes: &[Scene<'_>]) -> Vec<Lease> {
    let chunks = chunks(scenes);
    assert_eq!(store.admit(&chunks, NOW).await.unwrap(), chunks);
    let wanted: Vec<_> = chunks.iter().map(|chunk| (*chunk, fresh_token())).collect();
    let leases = store.claim(scenes[0].session, &wanted, NOW).await.unwrap();
    assert_eq!(leases.iter().map(|lease| lease.head.chunk).collect::<Vec<_>>(), chunks);
    leases
}

async fn settle_all(store: &dyn Store, groups: Vec<SettleGroup>) -> Vec<Settled> {
    let settled = store.settle(groups.into(), NOW).await.unwrap();
    store.order().await.unwrap();
    settled
}

async fn order(scene: &Scene<'_>) -> Vec<u32> {
    let page = scene.store.settled(&scene.tenant, scene.batch, SettledCursor::default(), ALL).await.unwrap();
    page.outcomes.into_iter().map(|(outcome, _)| outcome.index).collect()
}

/// Of chunks of many batches those are moved that wait and whose batch may run; the others keep nobody back.
pub async fn admitting_moves_the_chunks_of_every_batch_that_may_run(store: &dyn Store) {
    let scenes = queued(store).await;
    let steer = async |n: usize, event| {
        store.steer(&scenes[n].tenant, scenes[n].batch, event, NOW).await.unwrap();
    };
    steer(3, BatchEvent::Pause(PauseReason::Requested)).await;
    steer(4, BatchEvent::Cancel).await;
    scenes[7].admit_all(&[1]).await;
    let mut asked = chunks(&scenes);
    asked.push(asked[0]);
    asked.push(ChunkId { batch: fresh_batch(), n: 0 });
    let kept: BTreeSet<BatchId> = [3, 4, 7].map(|n| scenes[n].batch).into();
    let wanted: Vec<_> = chunks(&scenes).into_iter().filter(|chunk| !kept.contains(&chunk.batch)).collect();
    assert_eq!(store.admit(&asked, NOW).await.unwrap(), wanted);
    assert_eq!(store.admit(&asked, NOW).await.unwrap(), []);
    for (scene, n) in scenes.iter().zip(0..) {
        let batch = store.batch(&scene.tenant, scene.batch).await.unwrap();
        let expected = match n {
            3 => BatchState::Paused { reason: PauseReason::Requested },
            4 => BatchState::Cancelling,
            _ => BatchState::Running,
        };
        assert_eq!(batch.state, expected, "{n}");
    }
    let open = store.open_batches().await.unwrap();
    let open: HashMap<_, _> = open.into_iter().map(|batch| (batch.id, batch)).collect();
    for scene in &scenes {
        assert_eq!(open[&scene.batch], store.batch(&scene.tenant, scene.batch).await.unwrap());
    }
}

/// One call settles groups of many batches; each batch has its own order, whether it was begun before or not, and repeating adds nothing.
pub async fn groups_of_many_batches_settle_in_one_call_each_in_its_own_order(store: &dyn Store) {
    let scenes = queued(store).await;
    let leases = leased(store, &scenes).await;
    // The last chunks of the longer ones first, so that some orders are begun when the others come.
    let (first, rest): (Vec<_>, Vec<_>) = leases.iter().partition(|lease| lease.head.chunk.n == 2);
    let groups = |leases: &[&Lease]| leases.iter().map(|lease| settling(lease, [0])).collect::<Vec<_>>();
    let done = Settled::Recorded { done: true };
    assert_eq!(settle_all(store, groups(&first)).await, vec![done; first.len()]);
    assert_eq!(settle_all(store, groups(&rest)).await, vec![done; rest.len()]);
    let again = settle_all(store, groups(&rest)).await;
    assert!(again.iter().all(|settled| *settled == Settled::Fenced), "{again:?}");
    for (scene, n) in scenes.iter().zip(0..) {
        let wanted = if rows(n) == 3 { vec![2, 0, 1] } else { vec![0] };
        let mut seen = order(scene).await;
        // Two chunks of one call have no order between them.
        seen[1..].iter().for_each(|index| assert_ne!(*index, 2));
        if rows(n) == 3 {
            seen[1..].sort_unstable();
        }
        assert_eq!(seen, wanted, "{n}");
        assert_eq!(scene.outcomes().await.outcomes.len(), rows(n) as usize);
    }
    let bytes = async |tenant: &TenantId| store.usage(tenant, NOW).await.unwrap().bytes;
    let stored = MANY as u64 * 4 + leases.iter().map(|lease| body(lease.head.base).len() as u64).sum::<u64>();
    let tenants: BTreeSet<_> = scenes.iter().map(|scene| scene.tenant.clone()).collect();
    assert_eq!(join_all(tenants.iter().map(bytes)).await.iter().sum::<u64>(), stored);
}

/// Closes that come at once are answered each for itself; who comes second is told the same, and each end is told once.
pub async fn closes_at_once_are_answered_each_for_itself_and_told_once(store: &dyn Store) {
    let scenes = queued(store).await;
    let leases = leased(store, &scenes).await;
    // One batch has a chunk that is open still.
    let open = scenes[5].chunk(1);
    let settled = leases.iter().filter(|lease| lease.head.chunk != open).map(|lease| settling(lease, [0]));
    settle_all(store, settled.collect()).await;
    let (draft, stranger) = (Scene::draft(store).await, fresh_tenant());
    let mut calls: Vec<(&TenantId, BatchId)> =
        scenes.iter().chain(&scenes).map(|scene| (&scene.tenant, scene.batch)).collect();
    calls.push((&draft.tenant, draft.batch));
    calls.push((&stranger, scenes[1].batch));
    let answers = join_all(calls.iter().map(|(tenant, batch)| store.close(tenant, *batch, NOW))).await;
    for (at, answer) in answers.into_iter().enumerate() {
        let n = at % MANY as usize;
        match at {
            80 => check_conflict(answer),
            81 => check_not_found(answer),
            _ if n == 5 => assert_eq!(answer.unwrap(), None),
            _ => {
                let counts = answer.unwrap().unwrap();
                let rows = u64::from(rows(u32::try_from(n).unwrap()));
                assert_eq!((counts.succeeded, counts.total()), (rows, rows), "{at}");
                let ended = store.batch(&scenes[n].tenant, scenes[n].batch).await.unwrap();
                assert_eq!(
                    (ended.state, ended.final_counts, ended.finished_ms),
                    (BatchState::Completed, Some(counts), Some(NOW))
                );
            }
        }
    }
    let pending = store.pending(u32::MAX).await.unwrap();
    for (n, scene) in scenes.iter().enumerate() {
        let told = pending.iter().filter(|event| event.batch == scene.batch);
        let told: Vec<_> = told.map(|event| event.kind).collect();
        assert_eq!(told, vec![EventKind::BatchCompleted; usize::from(n.is_multiple_of(2) && n != 5)], "{n}");
    }
}
