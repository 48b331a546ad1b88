//! What two processes do at the same moment, each with a store of its own.

use std::collections::BTreeSet;

use bytes::Bytes;
use promptmill_domain::{
    BatchId, DeliveryId, EventId, EventKind, GenerationId, SessionId, TemplateId, TenantId,
};
use promptmill_ports::{
    Accounts as _, Claim, Claimed, Claims as _, Deliveries as _, Delivery, DeliveryState, Generation,
    Generations as _, StoreError, TemplateKey, Templates as _, Tenant,
};

use crate::TemporaryStore;

const NOW: u64 = 1_790_000_000_000;
/// How often each pair of calls meets.
const ROUNDS: u32 = 16;

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

fn claim(key: &str) -> Claim {
    Claim {
        tenant: tenant(),
        key: key.to_owned(),
        fingerprint: [7; 32],
        plan: rand::random(),
        owner: rand::random(),
    }
}

#[tokio::test]
async fn of_claims_in_two_processes_one_runs_and_the_other_is_told_its_plan() {
    let one = TemporaryStore::new().await;
    let two = one.other().await;
    for round in 0..ROUNDS {
        let key = format!("POST /v1/batches {round}");
        let (mine, theirs) = (claim(&key), claim(&key));
        let (a, b) = tokio::join!(one.claim(&mine, NOW), two.claim(&theirs, NOW));
        let expected = match (a.unwrap(), b.unwrap()) {
            (Claimed::Run, told) => (told, &mine),
            (told, Claimed::Run) => (told, &theirs),
            (a, b) => panic!("nobody runs: {a:?}, {b:?}"),
        };
        let (told, first) = expected;
        assert_eq!(told, Claimed::Begun { owner: first.owner, plan: first.plan });
    }
}

#[tokio::test]
async fn of_two_processes_that_take_a_request_over_one_runs_it() {
    let one = TemporaryStore::new().await;
    let two = one.other().await;
    let tenant = tenant();
    for round in 0..ROUNDS {
        let dead = claim(&format!("POST /v1/batches {round}"));
        one.claim(&dead, NOW).await.unwrap();
        let (a, b) = tokio::join!(
            one.take_over(&tenant, &dead.key, dead.owner, [1; 16]),
            two.take_over(&tenant, &dead.key, dead.owner, [2; 16])
        );
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_ne!(a, b);
        let owner = if a { [1; 16] } else { [2; 16] };
        let told = two.claim(&claim(&dead.key), NOW).await.unwrap();
        assert_eq!(told, Claimed::Begun { owner, plan: dead.plan });
    }
}

#[tokio::test]
async fn of_two_processes_that_add_a_version_one_does_and_every_version_stays_readable() {
    let one = TemporaryStore::new().await;
    let two = one.other().await;
    let tenant = tenant();
    let id = TemplateId::at(NOW, rand::random());
    one.add_template(&tenant, id, "summary", "version 1", NOW).await.unwrap();
    let mut texts = vec!["version 1".to_owned()];
    for after in 1..=ROUNDS {
        let (mine, theirs) = (format!("mine {after}"), format!("theirs {after}"));
        let (a, b) = tokio::join!(
            one.add_version(&tenant, id, after, &mine, NOW),
            two.add_version(&tenant, id, after, &theirs, NOW)
        );
        let (added, refused, text) = if a.is_ok() { (a, b, mine) } else { (b, a, theirs) };
        assert_eq!(added.unwrap().latest, after + 1);
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
        texts.push(text);
    }
    for (text, version) in texts.iter().zip(1..) {
        assert_eq!(&two.version(&tenant, id, Some(version)).await.unwrap().source, text);
    }
    let listed = one.versions(&tenant, id, None, 100).await.unwrap();
    assert_eq!(listed.len(), texts.len());
}

#[tokio::test]
async fn a_version_and_the_deletion_of_its_template_at_once_leave_both_or_neither() {
    let one = TemporaryStore::new().await;
    let two = one.other().await;
    let tenant = tenant();
    for round in 0..ROUNDS {
        let id = TemplateId::at(NOW, rand::random());
        one.add_template(&tenant, id, &format!("name {round}"), "one", NOW).await.unwrap();
        let (added, deleted) =
            tokio::join!(one.add_version(&tenant, id, 1, "two", NOW), two.delete_template(&tenant, id, 1));
        let there = one.template(&tenant, &TemplateKey::Id(id)).await;
        if deleted.is_ok() {
            assert!(matches!(added, Err(StoreError::NotFound)), "{added:?}");
            assert!(matches!(there, Err(StoreError::NotFound)), "{there:?}");
        } else {
            assert_eq!(added.unwrap().latest, 2);
            assert_eq!(there.unwrap().latest, 2);
            assert_eq!(two.version(&tenant, id, Some(1)).await.unwrap().source, "one");
        }
    }
}

#[tokio::test]
async fn deliveries_that_are_due_are_shared_out_between_two_processes() {
    let one = TemporaryStore::new().await;
    let two = one.other().await;
    let made = |_| {
        let event = EventId::at(NOW, rand::random());
        Delivery {
            id: DeliveryId::to_batch_webhook(event),
            tenant: tenant(),
            batch: Some(BatchId::from_bytes([1; 16])),
            event,
            kind: EventKind::BatchCompleted,
            url: "https://receiver.example/".to_owned(),
            sealed_secret: String::new(),
            endpoint: None,
            body: Bytes::from_static(b"{}"),
            state: DeliveryState::Pending,
            due_ms: NOW,
            attempts: Vec::new(),
            created_ms: NOW,
        }
    };
    let deliveries: Vec<Delivery> = (0..100).map(made).collect();
    one.add_deliveries(&deliveries).await.unwrap();
    let mut taken = Vec::new();
    while taken.len() < deliveries.len() {
        let (a, b) = tokio::join!(one.take_due(NOW, NOW + 1, 9), two.take_due(NOW, NOW + 1, 9));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(!a.is_empty() || !b.is_empty(), "{} of {} were taken", taken.len(), deliveries.len());
        taken.extend(a.into_iter().chain(b).map(|delivery| delivery.id));
    }
    // Each of them once: as many as there are, and all of them.
    assert_eq!(taken.len(), deliveries.len());
    let ids = |ids: &mut dyn Iterator<Item = DeliveryId>| ids.collect::<BTreeSet<_>>();
    assert_eq!(ids(&mut taken.into_iter()), ids(&mut deliveries.iter().map(|delivery| delivery.id)));
}

#[tokio::test]
async fn an_outcome_is_kept_whoever_puts_the_generation_at_the_same_moment() {
    let one = TemporaryStore::new().await;
    let two = one.other().await;
    let tenant = tenant();
    for _ in 0..ROUNDS {
        let running = Generation {
            id: GenerationId::at(NOW, rand::random()),
            tenant: tenant.clone(),
            request: Bytes::from_static(b"{}"),
            outcome: None,
            created_ms: NOW,
            owner: SessionId::from_bytes([3; 16]),
        };
        let done = Generation { outcome: Some(Bytes::from_static(b"done")), ..running.clone() };
        // Neither of them finds the document, so both make it, and one of them is late.
        let (a, b) = tokio::join!(one.put_generation(&running), two.put_generation(&done));
        a.unwrap();
        b.unwrap();
        assert_eq!(one.generation(&tenant, done.id).await.unwrap(), done);
    }
}

#[tokio::test]
async fn a_tenant_that_two_processes_make_is_new_to_one_of_them() {
    let one = TemporaryStore::new().await;
    let two = one.other().await;
    for round in 0..ROUNDS {
        let tenant = Tenant { id: format!("tenant-{round}").parse().unwrap(), created_ms: NOW };
        let (a, b) = tokio::join!(one.add_tenant(&tenant), two.add_tenant(&tenant));
        assert_ne!(a.unwrap(), b.unwrap());
    }
}
