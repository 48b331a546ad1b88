//! From store to store.

use promptmill_domain::{BatchState, Endpoint, SessionId};
use promptmill_ports::{
    BatchFilter, Generation, Installation, PageLimit, SettledCursor, SettledPage, StoreError, TemplateKey,
};

use crate::broken::{lines_of, whole};
use crate::recurring::{recurs, what_recurs_is_the_same};
use crate::scene::{NOW, Scene, see, tenant};
use crate::stores::{Kind, Place, archive_of, import_from};

macro_rules! from_to {
    ($name:ident, $from:expr, $to:expr) => {
        #[tokio::test]
        async fn $name() {
            check($from, $to).await;
        }
    };
}

from_to!(an_installation_moves_from_sqlite_to_mongodb, Kind::Sqlite, Kind::Mongo);
from_to!(an_installation_moves_from_mongodb_to_sqlite, Kind::Mongo, Kind::Sqlite);
from_to!(an_installation_moves_from_sqlite_to_sqlite, Kind::Sqlite, Kind::Sqlite);
from_to!(an_installation_moves_from_mongodb_to_mongodb, Kind::Mongo, Kind::Mongo);

async fn check(from: Kind, to: Kind) {
    let (from, to) = (Place::new(from), Place::new(to));
    let (source, target) = (from.open().await.unwrap(), to.open().await.unwrap());
    let mut scene = Scene::of(&*source).await;
    scene.row_set(&[4]).await;
    let (archive, summary) = archive_of(&*source).await;
    let imported = import_from(&*target, &archive).await.unwrap();
    assert_eq!(imported, summary);
    assert_eq!((summary.tenants, summary.keys, summary.templates), (2, 4, 4));
    assert_eq!((summary.generations, summary.deliveries), (4, 1));
    assert_eq!(summary.batches, 3 + scene.batches.len() as u64);
    assert_eq!((summary.schedules, summary.row_sets), (1 + scene.schedules.len() as u64, 1 + scene.sets));
    let sealed_under = ["answers", "fifth", "first", "fourth", "second", "third"];
    assert_eq!(Vec::from_iter(&summary.master_keys), sealed_under);
    records_are_the_same(&*source, &*target, &scene).await;
    what_recurs_is_the_same(&*source, &*target, &scene).await;
    for batch in &scene.batches {
        let (then, now) =
            (see(&*source, &scene.tenant, *batch).await, see(&*target, &scene.tenant, *batch).await);
        assert_eq!(now, then);
    }
    let all = PageLimit::items(1_000);
    let list = async |store: &dyn Installation| {
        store.batches(&tenant("zeta"), &BatchFilter::default(), None, all).await.unwrap()
    };
    assert_eq!(list(&*target).await, list(&*source).await);
    let usage = async |store: &dyn Installation| store.usage(&scene.tenant, NOW).await.unwrap();
    assert_eq!(usage(&*target).await.rows, usage(&*source).await.rows);
    assert_eq!(usage(&*target).await.record_bytes, usage(&*source).await.record_bytes);
    assert_eq!(usage(&*target).await.bytes, usage(&*source).await.bytes);
    // What is read from the copy makes the same copy again.
    assert_eq!(archive_of(&*target).await.1, summary);
    drop(target);
    let target = to.open().await.unwrap();
    an_old_place_in_the_order_is_refused(&*source, &*target, &scene).await;
    goes_on(&*target, &scene).await;
    recurs(&*target, &scene).await;
}

#[tokio::test]
async fn an_archive_from_before_templates_had_labels_is_imported_without_any() {
    let (from, to) = (Place::new(Kind::Sqlite), Place::new(Kind::Mongo));
    let (source, target) = (from.open().await.unwrap(), to.open().await.unwrap());
    let scene = Scene::small(&*source).await;
    let lines = lines_of(&archive_of(&*source).await.0);
    let is_label = |line: &String| line.starts_with("{\"label\"");
    let (labels, before): (Vec<_>, Vec<_>) = lines[1..lines.len() - 1].iter().cloned().partition(is_label);
    assert_eq!(labels.len(), 4);
    import_from(&*target, &whole(&lines[0], &before)).await.unwrap();
    for name in ["first", "second"] {
        let template = target.template(&scene.tenant, &TemplateKey::Name(name.to_owned())).await.unwrap();
        assert_eq!(template.latest, 3);
        assert_eq!(target.labels(&scene.tenant, template.id).await.unwrap(), []);
    }
}

/// The order is another one, so a place in that of the source is none in this.
async fn an_old_place_in_the_order_is_refused(
    source: &dyn Installation,
    target: &dyn Installation,
    scene: &Scene<'_>,
) {
    let all = PageLimit::items(1_000_000);
    for batch in &scene.batches {
        let of =
            async |store: &dyn Installation, after| store.settled(&scene.tenant, *batch, after, all).await;
        let there = of(source, SettledCursor::default()).await.unwrap();
        let here = of(target, SettledCursor::default()).await.unwrap();
        let indexes = |page: &SettledPage| {
            let mut indexes: Vec<_> = page.outcomes.iter().map(|(outcome, _)| outcome.index).collect();
            indexes.sort_unstable();
            indexes
        };
        assert!(here.caught_up);
        let state = source.batch(&scene.tenant, *batch).await.unwrap().state;
        if state != BatchState::Cancelling {
            assert_eq!(indexes(&here), indexes(&there));
        }
        if there.next != SettledCursor::default() {
            assert!(matches!(of(target, there.next).await, Err(StoreError::Conflict(_))));
            assert!(of(target, here.next).await.unwrap().outcomes.is_empty());
        }
    }
}

async fn records_are_the_same(source: &dyn Installation, target: &dyn Installation, scene: &Scene<'_>) {
    let tenant = &scene.tenant;
    assert_eq!(target.tenants().await.unwrap(), source.tenants().await.unwrap());
    assert_eq!(target.keys(tenant).await.unwrap(), source.keys(tenant).await.unwrap());
    let endpoints = source.endpoints(tenant).await.unwrap();
    assert_eq!(endpoints.len(), 2);
    let moved = endpoints.into_iter().map(|endpoint| Endpoint { ver: 1, ..endpoint });
    assert_eq!(target.endpoints(tenant).await.unwrap(), Vec::from_iter(moved));
    let all = PageLimit::items(1_000);
    let claims = source.claims(tenant, None, all).await.unwrap();
    assert_eq!(claims.len(), 2);
    assert_eq!(target.claims(tenant, None, all).await.unwrap(), claims);
    for name in ["first", "second"] {
        let key = TemplateKey::Name(name.to_owned());
        let template = source.template(tenant, &key).await.unwrap();
        assert_eq!(template.latest, 3);
        assert_eq!(target.template(tenant, &key).await.unwrap(), template);
        let labels = source.labels(tenant, template.id).await.unwrap();
        assert_eq!(labels.len(), 2);
        assert_eq!(target.labels(tenant, template.id).await.unwrap(), labels);
        for version in 1..=3 {
            let of = async |store: &dyn Installation| {
                store.version(tenant, template.id, Some(version)).await.unwrap()
            };
            assert_eq!(of(target).await, of(source).await);
        }
    }
    for id in &scene.generations {
        let nobodys = |generation| Generation { owner: SessionId::from_bytes([0; 16]), ..generation };
        let then = nobodys(source.generation(tenant, *id).await.unwrap());
        assert_eq!(nobodys(target.generation(tenant, *id).await.unwrap()), then);
    }
}

/// Every batch can be brought to its end, and no event is written a second time.
async fn goes_on(store: &dyn Installation, scene: &Scene<'_>) {
    assert!(store.sessions().await.unwrap().is_empty());
    for batch in &scene.batches {
        let was = store.batch(&scene.tenant, *batch).await.unwrap();
        if was.state.is_final() || matches!(was.state, BatchState::Draft | BatchState::Submitting) {
            continue;
        }
        let before = store.beside(&scene.tenant, *batch).await.unwrap().events;
        if !matches!(was.state, BatchState::Cancelling) {
            let cancel = promptmill_domain::BatchEvent::Cancel;
            store.steer(&scene.tenant, *batch, cancel, NOW).await.unwrap();
        }
        while store.seal(&scene.tenant, *batch, 1_000, NOW).await.unwrap() > 0 {}
        let counts = store.close(&scene.tenant, *batch, NOW).await.unwrap().unwrap();
        assert_eq!((counts.open(), counts.total()), (0, u64::from(was.total)));
        let after = store.beside(&scene.tenant, *batch).await.unwrap().events;
        assert_eq!(after[..before.len()], before);
        assert!(after[before.len()..].iter().all(|event| event.ver > was.ver));
    }
}
