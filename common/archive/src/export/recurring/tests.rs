//! What happens to what recurs in the midst of its being told.

use std::sync::atomic::{AtomicU64, Ordering};

use promptmill_domain::schedule::{
    Decided, Policies, RowSource, Rule, RunSpec, TemplateChoice, Timing, WhySkipped,
};
use promptmill_domain::{
    BatchLimits, BatchSpec, GenerationId, ScheduleState, SessionId, TemplateId, Tick, TickState, UploadId,
};
use promptmill_ports::{
    Generation, Generations as _, Intake as _, NewBatch, RowBlock, RowSetVersion, RowSets as _,
    Schedules as _, TemplateLabels as _, Templates as _, Ticks as _, WholeBatch,
};

use super::super::tests::{NOW, Scene, lane};
use super::*;
use crate::lines::Digesting;

/// More than half of a page.
const LARGE: usize = 5 * 1024 * 1024;

fn spec() -> BatchSpec {
    BatchSpec::new("{}".to_owned(), "demo:any".parse().unwrap(), lane())
}

impl Scene {
    /// A schedule that is due at `NOW`, with two large blocks of its own and a tick that is over.
    async fn schedule(&self) -> Schedule {
        let schedule = self.schedule_of(None).await;
        let skipped = TickState::Skipped { why: WhySkipped::Missed };
        let over = Tick { state: skipped, ..Tick::decided(&schedule, NOW - 1, Decided::Run) };
        self.store.add_ticks(&[over]).await.unwrap();
        schedule
    }

    async fn schedule_of(&self, template: Option<TemplateId>) -> Schedule {
        self.schedule_at(template.map(|id| TemplateChoice { id, label: None })).await
    }

    async fn schedule_at(&self, template: Option<TemplateChoice>) -> Schedule {
        let id = ScheduleId::at(NOW, rand::random());
        let set = Schedule::own_rows(id);
        self.set(set, None, 1).await;
        let rule = Rule::Every { seconds: 60, from_ms: NOW };
        let rows = RowSource::Set { set, version: Some(1) };
        let schedule = Schedule {
            id,
            tenant: self.tenant.clone(),
            name: None,
            timing: Timing { rule, start_ms: None, end_ms: None, jitter_ms: 0 },
            policies: Policies::default(),
            state: ScheduleState::Active,
            next_ms: Some(NOW),
            begun: None,
            spend: None,
            created_ms: NOW,
            changed_ms: NOW,
            ver: 1,
            run: RunSpec { template, rows, previous: None, limits: BatchLimits::default(), spec: spec() },
        };
        assert!(self.store.put_schedule(&schedule).await.unwrap());
        schedule
    }

    /// A row set of so many versions of two large blocks each.
    async fn set(&self, id: RowSetId, name: Option<&str>, versions: u32) -> RowSet {
        let mut all = Vec::new();
        for version in 1..=versions {
            let upload = UploadId::at(NOW, rand::random());
            let block =
                |seq| RowBlock { seq, len: version, bytes: vec![1; LARGE].into(), ids: [][..].into() };
            let blocks = vec![block(0), block(1)];
            self.store.put_set_blocks(&self.tenant, id, upload, blocks, NOW).await.unwrap();
            let (rows, bytes, digest) = (2, 2 * LARGE as u64, String::new());
            all.push(RowSetVersion {
                version,
                upload,
                blocks: 2,
                rows,
                bytes,
                digest,
                created_ms: NOW,
                origin: None,
            });
        }
        let (tenant, name) = (self.tenant.clone(), name.map(str::to_owned));
        let set = RowSet { id, tenant, name, versions: all, created_ms: NOW, ver: 1 };
        assert!(self.store.put_row_set(&set, NOW).await.unwrap());
        set
    }

    /// What a look does: the next tick is decided.
    async fn look(&self, schedule: &Schedule) {
        let next = schedule.next_ms.unwrap();
        let decided = Schedule { next_ms: Some(next + 1), ver: schedule.ver + 1, ..schedule.clone() };
        assert!(self.store.put_schedule(&decided).await.unwrap());
        self.store.add_ticks(&[Tick::decided(schedule, next, Decided::Run)]).await.unwrap();
    }

    async fn sweep(&self) {
        while self.store.drop_set_uploads(u64::MAX, 1_000).await.unwrap() > 0 {}
    }
}

fn is_tick(record: &Record) -> bool {
    matches!(record, Record::Tick(_))
}

fn is_block(record: &Record) -> bool {
    matches!(record, Record::Block(_))
}

fn is_schedule(record: &Record) -> bool {
    matches!(record, Record::Schedule(_))
}

fn gone(told: &[Record]) -> usize {
    told.iter().filter(|record| **record == Record::Gone).count()
}

/// The schedule that is told, and the times of its ticks.
fn decided(told: &[Record]) -> (&Schedule, Vec<u64>) {
    let schedule = told.iter().find_map(|record| match record {
        Record::Schedule(schedule) => Some(&**schedule),
        _ => None,
    });
    let ticks = told.iter().filter_map(|record| match record {
        Record::Tick(tick) => Some(tick.at_ms),
        _ => None,
    });
    (schedule.unwrap(), ticks.collect())
}

/// Reads the schedule and its ticks, of which so many are decided while they are read.
async fn moment(scene: &Scene, id: ScheduleId, looks: u64) -> Option<(Schedule, Vec<u64>)> {
    let looked = AtomicU64::new(0);
    let schedule = async || there(scene.store.schedule(&scene.tenant, id).await);
    let ticks = async || {
        if looked.fetch_add(1, Ordering::Relaxed) < looks {
            scene.look(&scene.store.schedule(&scene.tenant, id).await?).await;
        }
        scene.store.ticks(&scene.tenant, id, None, 1_000).await
    };
    let (schedule, ticks) = at_one_moment(schedule, ticks).await.unwrap()?;
    Some((schedule, ticks.iter().map(|tick| tick.at_ms).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_and_its_ticks_are_read_as_they_are_at_one_moment() {
    for looks in [0, 1, 2, u64::from(TRIES) - 1] {
        let scene = Scene::new().await;
        let id = scene.schedule().await.id;
        let (schedule, ticks) = moment(&scene, id, looks).await.unwrap();
        assert_eq!(schedule.next_ms, Some(NOW + looks));
        assert!(ticks.into_iter().rev().eq(NOW - 1..NOW + looks));
    }
}

/// What is decided in both is left as it is, and what is decided in neither would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_schedule_that_changes_all_the_time_the_ticks_are_the_later_ones() {
    let scene = Scene::new().await;
    let id = scene.schedule().await.id;
    let (schedule, ticks) = moment(&scene, id, u64::MAX).await.unwrap();
    let looks = u64::from(TRIES);
    assert_eq!(schedule.next_ms, Some(NOW + looks - 1));
    assert!(ticks.into_iter().rev().eq(NOW - 1..NOW + looks));
    assert!(scene.store.delete_schedule(&scene.tenant, id).await.unwrap());
    assert_eq!(moment(&scene, id, 0).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_that_is_decided_while_its_schedule_is_told_is_to_be_decided_again() {
    for at in [is_schedule as fn(&Record) -> bool, is_tick, is_block] {
        let scene = Scene::new().await;
        let schedule = scene.schedule().await;
        let told = scene.told(at, || async { scene.look(&schedule).await }).await;
        let (schedule, ticks) = decided(&told);
        assert_eq!((schedule.next_ms, ticks), (Some(NOW), vec![NOW - 1]));
        assert_eq!(gone(&told), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_that_begins_while_it_is_told_has_its_batch_in_the_archive() {
    let scene = Scene::new().await;
    let schedule = scene.schedule().await;
    scene.look(&schedule).await;
    let id = Tick::batch(schedule.id, NOW, 0);
    let told = scene
        .told(is_tick, || async {
            let batch =
                NewBatch { id, spec: spec(), limits: BatchLimits::default(), idem_key: None, now_ms: NOW };
            let rows = RowBlock { seq: 0, len: 1, bytes: "a row".into(), ids: [][..].into() };
            let whole = WholeBatch { batch, rows, digest: [1; 32] };
            scene.store.accept(&scene.tenant, whole).await.unwrap();
        })
        .await;
    let (schedule, ticks) = decided(&told);
    assert_eq!((schedule.next_ms, ticks), (Some(NOW + 1), vec![NOW, NOW - 1]));
    assert!(told.iter().any(|record| matches!(record, Record::Batch(batch) if batch.id == id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_is_deleted_while_it_is_told_is_gone() {
    for at in [is_schedule as fn(&Record) -> bool, is_block, is_tick] {
        let scene = Scene::new().await;
        let schedule = scene.schedule().await;
        let told = scene
            .told(at, || async {
                assert!(scene.store.delete_schedule(&scene.tenant, schedule.id).await.unwrap());
                let own = Schedule::own_rows(schedule.id);
                assert!(scene.store.delete_row_set(&scene.tenant, own).await.unwrap());
                scene.sweep().await;
            })
            .await;
        assert_eq!((gone(&told), told.iter().filter(|record| is_schedule(record)).count()), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_set_that_gives_up_a_version_while_it_is_told_is_told_again() {
    let scene = Scene::new().await;
    let set = scene.set(RowSetId::at(NOW, rand::random()), Some("a"), 3).await;
    let told = scene
        .told(is_block, || async {
            let versions = set.versions[1..].to_vec();
            let less = RowSet { versions, ver: 2, ..set.clone() };
            assert!(scene.store.put_row_set(&less, NOW).await.unwrap());
            scene.sweep().await;
        })
        .await;
    assert_eq!(gone(&told), 1);
    let again = told.iter().skip_while(|record| **record != Record::Gone).filter_map(|record| match record {
        Record::RowSet(set) => Some(set.versions.len()),
        Record::Block(block) => Some(block.len as usize * 10),
        _ => None,
    });
    assert_eq!(again.collect::<Vec<_>>(), [2, 20, 20, 30, 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_set_that_is_deleted_while_it_is_told_is_gone_and_one_that_grows_is_what_it_was() {
    let scene = Scene::new().await;
    let set = scene.set(RowSetId::at(NOW, rand::random()), Some("a"), 1).await;
    let told = scene
        .told(is_block, || async {
            let upload = UploadId::at(NOW, rand::random());
            let block = RowBlock { seq: 0, len: 1, bytes: "a row".into(), ids: [][..].into() };
            scene.store.put_set_blocks(&scene.tenant, set.id, upload, vec![block], NOW).await.unwrap();
            let mut versions = set.versions.clone();
            versions.push(RowSetVersion { version: 2, upload, blocks: 1, ..versions[0].clone() });
            let more = RowSet { versions, ver: 2, ..set.clone() };
            assert!(scene.store.put_row_set(&more, NOW).await.unwrap());
        })
        .await;
    assert_eq!((gone(&told), told.iter().filter(|record| is_block(record)).count()), (0, 2));
    let told = scene
        .told(is_block, || async {
            assert!(scene.store.delete_row_set(&scene.tenant, set.id).await.unwrap());
            scene.sweep().await;
        })
        .await;
    assert_eq!((gone(&told), told.iter().filter(|record| is_block(record)).count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_missing_are_damage() {
    let scene = Scene::new().await;
    let set = scene.set(RowSetId::at(NOW, rand::random()), Some("a"), 1).await;
    let mut versions = set.versions.clone();
    versions[0].blocks = 3;
    assert!(scene.store.put_row_set(&RowSet { versions, ver: 2, ..set }, NOW).await.unwrap());
    let mut digest = Digesting::default();
    let failed = super::super::export(&scene.store, &super::super::Scope::All, &mut digest).await;
    let failed = failed.unwrap_err();
    assert!(matches!(failed, ArchiveError::Store(StoreError::Corrupt(_))), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_of_a_template_that_came_after_templates_were_told_is_younger_than_the_export() {
    let scene = Scene::new().await;
    let id = GenerationId::at(NOW, rand::random());
    let (tenant, owner) = (scene.tenant.clone(), SessionId::at(NOW, [2; 10]));
    let request = "{}".into();
    let generation = Generation { id, tenant, request, outcome: None, created_ms: NOW, owner };
    scene.store.put_generation(&generation).await.unwrap();
    let is_generation = |record: &Record| matches!(record, Record::Generation(_));
    let told = scene
        .told(is_generation, || async {
            let template = TemplateId::at(NOW, rand::random());
            scene.store.add_template(&scene.tenant, template, "late", "{}", NOW).await.unwrap();
            scene.schedule_of(Some(template)).await;
        })
        .await;
    assert!(!told.iter().any(is_schedule));
    let later = scene.told(is_generation, || async {}).await;
    assert!(later.iter().any(is_schedule));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_at_a_label_that_came_after_templates_were_told_is_younger_than_the_export() {
    for (label_ms, is_younger) in [(NOW, true), (NOW + 1, false)] {
        let scene = Scene::new().await;
        let id = GenerationId::at(NOW, rand::random());
        let (tenant, owner) = (scene.tenant.clone(), SessionId::at(NOW, [2; 10]));
        let request = "{}".into();
        let generation = Generation { id, tenant, request, outcome: None, created_ms: NOW, owner };
        scene.store.put_generation(&generation).await.unwrap();
        let template = TemplateId::at(NOW, rand::random());
        scene.store.add_template(&scene.tenant, template, "early", "{}", NOW).await.unwrap();
        let is_generation = |record: &Record| matches!(record, Record::Generation(_));
        let told = scene
            .told(is_generation, || async {
                let label = "production";
                scene.store.put_label(&scene.tenant, template, label, 1, label_ms).await.unwrap();
                // One made before the label was, if that has the later time: its label was gone then.
                let choice = TemplateChoice { id: template, label: Some(label.to_owned()) };
                scene.schedule_at(Some(choice)).await;
            })
            .await;
        assert_eq!(!told.iter().any(is_schedule), is_younger);
        let later = scene.told(is_generation, || async {}).await;
        assert!(later.iter().any(is_schedule));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_schedule_that_was_changed_to_a_template_which_came_later_is_told_neither_with_nor_without_it()
 {
    let scene = Scene::new().await;
    let template = TemplateId::at(NOW, rand::random());
    let made = scene.schedule_of(Some(template)).await;
    let changed = Schedule { changed_ms: NOW + 2, ver: 2, ..made };
    assert!(scene.store.put_schedule(&changed).await.unwrap());
    let generation_id = GenerationId::at(NOW, rand::random());
    let (tenant, owner) = (scene.tenant.clone(), SessionId::at(NOW, [2; 10]));
    let request = "{}".into();
    let generation = Generation { id: generation_id, tenant, request, outcome: None, created_ms: NOW, owner };
    scene.store.put_generation(&generation).await.unwrap();
    let late = async || {
        scene.store.add_template(&scene.tenant, template, "late", "{}", NOW + 1).await.unwrap();
    };
    let failed = scene.try_told(|record| matches!(record, Record::Generation(_)), late).await.unwrap_err();
    assert!(matches!(failed, ArchiveError::Store(StoreError::Unavailable(_))), "{failed:?}");
}
