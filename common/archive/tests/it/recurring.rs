//! What recurs, from store to store, and where it may not stand.

use std::collections::BTreeSet;

use promptmill_archive::{ArchiveWriter, Scope, export};
use promptmill_domain::{RowSetId, Schedule, TenantId, Tick, TickState};
use promptmill_ports::{Installation, RowSet};

use crate::broken::{error_of, lines_of, whole};
use crate::scene::{NOW, Scene, tenant};
use crate::stores::{Kind, Place, archive_of, import_from};

/// Schedules, ticks and row sets of the tenant are what they were.
pub(crate) async fn what_recurs_is_the_same(
    source: &dyn Installation,
    target: &dyn Installation,
    scene: &Scene<'_>,
) {
    let tenant = &scene.tenant;
    let schedules = source.schedules(tenant, None, 100).await.unwrap();
    assert_eq!(schedules.len(), scene.schedules.len());
    let unchanged = |schedules: Vec<Schedule>| {
        Vec::from_iter(schedules.into_iter().map(|schedule| Schedule { ver: 1, ..schedule }))
    };
    assert_eq!(target.schedules(tenant, None, 100).await.unwrap(), unchanged(schedules));
    let due = source.schedules_due(NOW + 1_000, 100).await.unwrap();
    let mut due = unchanged(due);
    let mut due_there = target.schedules_due(NOW + 1_000, 100).await.unwrap();
    for due in [&mut due, &mut due_there] {
        due.sort_by_key(|schedule| schedule.id);
    }
    assert_eq!(due.len(), 3);
    assert_eq!(due_there, due);
    let mut states = BTreeSet::new();
    for id in &scene.schedules {
        let ticks = source.ticks(tenant, *id, None, 10_000).await.unwrap();
        states.extend(ticks.iter().map(|tick| tick.state.as_str()));
        assert_eq!(target.ticks(tenant, *id, None, 10_000).await.unwrap(), ticks);
        rows_are_the_same(source, target, tenant, Schedule::own_rows(*id)).await;
    }
    assert_eq!(states.len(), 6);
    let open = source.open_ticks(None, 100).await.unwrap();
    assert_eq!(open.len(), 5);
    assert_eq!(target.open_ticks(None, 100).await.unwrap(), open);
    let sets = source.row_sets(tenant, None, 100).await.unwrap();
    assert_eq!(sets.len() as u64, scene.sets);
    for set in &sets {
        rows_are_the_same(source, target, tenant, set.id).await;
    }
}

/// The row set and its versions, each block as it was, and kept.
async fn rows_are_the_same(
    source: &dyn Installation,
    target: &dyn Installation,
    tenant: &TenantId,
    id: RowSetId,
) {
    let set = source.row_set(tenant, id).await.unwrap();
    assert_eq!(target.row_set(tenant, id).await.unwrap(), RowSet { ver: 1, ..set.clone() });
    while target.drop_set_uploads(u64::MAX, 1_000).await.unwrap() > 0 {}
    for version in &set.versions {
        let blocks = async |store: &dyn Installation| {
            let blocks = store.set_blocks(tenant, id, version.upload, 0, usize::MAX).await.unwrap();
            let told = blocks.into_iter().map(|block| (block.seq, block.len, block.bytes, block.ids));
            told.collect::<Vec<_>>()
        };
        let there = blocks(source).await;
        assert_eq!(there.len(), version.blocks as usize);
        assert!(blocks(target).await == there);
    }
}

/// Whoever carries on changes what is there.
pub(crate) async fn recurs(store: &dyn Installation, scene: &Scene<'_>) {
    for tick in store.open_ticks(None, 100).await.unwrap() {
        // One that was decided again is no newer than what became of it.
        let first = TickState::Running { started_ms: NOW, retry: 9 };
        assert_eq!(
            store.put_tick(&Tick { ver: 2, state: first, ..tick.clone() }).await.unwrap(),
            tick.ver == 1
        );
        let tick = store.tick(&tick.tenant, tick.schedule, tick.at_ms).await.unwrap();
        let ended = TickState::Ended { started_ms: NOW, ended_ms: NOW, retry: 0 };
        assert!(store.put_tick(&Tick { ver: tick.ver + 1, state: ended, ..tick }).await.unwrap());
    }
    assert!(store.open_ticks(None, 100).await.unwrap().is_empty());
    for id in &scene.schedules {
        let schedule = store.schedule(&scene.tenant, *id).await.unwrap();
        let decided = Schedule { ver: 2, begun: None, next_ms: None, ..schedule };
        assert!(store.put_schedule(&decided).await.unwrap());
    }
}

#[tokio::test]
async fn an_archive_of_a_tenant_holds_what_recurs_of_it_alone() {
    let (from, to) = (Place::new(Kind::Sqlite), Place::new(Kind::Sqlite));
    let (source, target) = (from.open().await.unwrap(), to.open().await.unwrap());
    let scene = Scene::of(&*source).await;
    let mut writer = ArchiveWriter::new(Vec::new(), "0.0.0", NOW).unwrap();
    export(&*source, &Scope::Tenants(vec![tenant("zeta")]), &mut writer).await.unwrap();
    let (summary, archive) = writer.finish().unwrap();
    assert_eq!((summary.tenants, summary.schedules, summary.row_sets), (1, 1, 1));
    assert_eq!(import_from(&*target, &archive).await.unwrap(), summary);
    assert_eq!(target.schedule_count(&tenant("zeta")).await.unwrap(), 1);
    assert_eq!(target.schedule_count(&scene.tenant).await.unwrap(), 0);
}

#[tokio::test]
async fn what_recurs_and_stands_where_it_may_not_is_told() {
    let from = Place::new(Kind::Sqlite);
    let source = from.open().await.unwrap();
    Scene::small(&*source).await;
    let lines = lines_of(&archive_of(&*source).await.0);
    let starting = |kind: &str| {
        let line = lines.iter().position(|line| line.starts_with(&format!("{{\"{kind}\""))).unwrap();
        (line, lines[line].clone())
    };
    let ((_, tenant), (at, schedule)) = (starting("tenant"), starting("schedule"));
    let begun = [lines[0].clone(), tenant];
    let (own, block, end) = (lines[at + 1].clone(), lines[at + 2].clone(), lines[at + 4].clone());
    assert!(
        own.starts_with("{\"row_set\"") && block.starts_with("{\"block\"") && end.starts_with("{\"row_set\"")
    );
    let id = schedule.split('"').nth(5).unwrap();
    let tick = format!(
        "{{\"tick\":{{\"schedule\":\"{id}\",\"tenant\":\"zeta\",\"at_ms\":1,\"state\":{{\"name\":\"due\",\"tries\":0,\"not_before_ms\":0}},\"ver\":1}}}}\n"
    );
    let all = |more: &[&String]| begun.iter().chain(more.iter().copied()).cloned().collect::<Vec<_>>();
    let other = |line: &String| line.replace("\"tenant\":\"zeta\"", "\"tenant\":\"acme\"");
    let few = own.replace("\"blocks\":2", "\"blocks\":0");
    let another = schedule.replace("nightly", "hourly");
    let changed = schedule.replace("\"ver\":1", "\"ver\":4");
    let no_rows = block.replace("\"len\":200", "\"len\":0");
    let endless = block.replace("\"len\":200", "\"len\":4294967295");
    let none = format!(
        "{}\"versions\":[]{}",
        own.split("\"versions\"").next().unwrap(),
        own.split(']').nth(1).unwrap()
    );
    let (gone, others_schedule, others_tick, others_set) =
        ("\"gone\"\n".to_owned(), other(&schedule), other(&tick), other(&own));
    let cases: [(&[&String], &str); 18] = [
        (&[&tick], "it is of no schedule"),
        (&[&block], "it is of no batch and of no row set"),
        (&[&own], "a row set without a name is of no schedule"),
        (&[&others_schedule], "a schedule is another tenant's, or another one is there"),
        (&[&schedule, &another], "a schedule is another tenant's, or another one is there"),
        (&[&changed], "a schedule is another tenant's, or another one is there"),
        (&[&schedule, &others_tick], "it is of no schedule"),
        (&[&schedule, &others_set], "a row set is another tenant's"),
        (&[&schedule, &none], "a row set has 0 versions"),
        (&[&schedule, &own, &tick], "a row set does not end before it"),
        (&[&schedule, &own, &block, &end], "a row set does not end before it"),
        (&[&schedule, &own, &block, &own], "a row set does not end before it"),
        (&[&schedule, &own, &no_rows], "a block has 0 rows"),
        (&[&schedule, &own, &endless], "a block has 4294967295 rows"),
        (&[&schedule, &own, &block, &block, &block], "it is of no batch and of no row set"),
        (
            &[&schedule, &own, &block, &block, &few],
            "the blocks of a row set are not those of its versions, or another one is there",
        ),
        (&[&schedule, &end, &block, &tick], "it is of no schedule"),
        (&[&schedule, &gone, &gone], "it is of no batch"),
    ];
    for (more, what) in cases {
        let lines = all(more);
        let error = error_of(&lines).await;
        assert_eq!(error.to_string(), format!("line {} of the archive: {what}", lines.len()));
    }
    let cut = all(&[&schedule, &own, &block]);
    let place = Place::new(Kind::Sqlite);
    let error = import_from(&*place.open().await.unwrap(), &whole(&cut[0], &cut[1..])).await.unwrap_err();
    assert_eq!(error.to_string(), "line 6 of the archive: a row set does not end before it");
}

/// The records, with what is of a schedule or a row set behind it.
fn sections(records: &[String]) -> Vec<&[String]> {
    let is_of = |record: &String| {
        let is_own = record.starts_with("{\"row_set\"") && !record.contains("\"name\"");
        is_own || record.starts_with("{\"block\"") || record.starts_with("{\"tick\"")
    };
    records.chunk_by(|_, next| is_of(next)).collect()
}

#[tokio::test]
async fn what_recurs_and_was_deleted_while_it_was_told_is_none() {
    for kind in [Kind::Sqlite, Kind::Mongo] {
        let (from, to) = (Place::new(Kind::Sqlite), Place::new(kind));
        let source = from.open().await.unwrap();
        let mut scene = Scene::recurring_only(&*source).await;
        scene.row_set(&[4]).await;
        let (archive, summary) = archive_of(&*source).await;
        let lines = lines_of(&archive);
        let mut records = Vec::new();
        for told in sections(&lines[1..lines.len() - 1]) {
            let first = &told[0];
            // Told before, cut at each third of its lines, and then gone each time. A row set has no end to be gone at.
            let last = match first {
                _ if first.starts_with("{\"schedule\"") => told.len(),
                _ if first.starts_with("{\"row_set\"") => told.len() - 1,
                _ => 0,
            };
            for n in (1..=3).filter(|_| last > 0) {
                records.extend_from_slice(&told[..(last * n / 3).max(1)]);
                records.push("\"gone\"\n".to_owned());
            }
            records.extend_from_slice(told);
        }
        let target = to.open().await.unwrap();
        let imported = import_from(&*target, &whole(&lines[0], &records)).await.unwrap();
        assert_eq!(imported, summary);
        assert_eq!(archive_of(&*target).await.1, summary);
        // Not a block is left of any that is gone.
        let bytes = async |store: &dyn Installation| store.usage(&scene.tenant, NOW).await.unwrap().bytes;
        assert_eq!(bytes(&*target).await, bytes(&*source).await);
        assert_eq!(target.drop_set_uploads(u64::MAX, 1_000).await.unwrap(), 0);
    }
}
