//! What happens to a batch in the midst of its being told.

use promptmill_domain::chunk::ChunkCut;
use promptmill_domain::{
    BatchLimits, BatchSpec, ChunkId, LaneId, LeaseToken, Release, RowsRef, SessionId, SettledItem, Totals,
    UploadId,
};
use promptmill_ports::{
    Accounts as _, Admission as _, Intake as _, NewBatch, PartCommit, RowBlock, Sessions as _, SettleGroup,
    Tenant, Work as _,
};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};

use super::*;

pub(super) const NOW: u64 = 1_790_000_000_000;

/// Keeps what is told, and does something before it takes the next record after one that is waited for.
struct Interrupted<'a> {
    told: Vec<Record>,
    at: fn(&Record) -> bool,
    step: Option<Box<dyn FnOnce() + 'a>>,
}

impl Sink for Interrupted<'_> {
    fn put(&mut self, record: &Record) -> Result<(), ArchiveError> {
        self.told.push(record.clone());
        if (self.at)(record)
            && let Some(step) = self.step.take()
        {
            step();
        }
        Ok(())
    }
}

fn wait<T>(step: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(step))
}

pub(super) struct Scene {
    pub(super) store: SqliteStore,
    pub(super) tenant: TenantId,
    batch: BatchId,
    session: SessionId,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// A draft without rows.
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), SqliteOptions::default()).unwrap();
        let (tenant, batch) = (TenantId::default_tenant(), BatchId::at(NOW, [1; 10]));
        let session = SessionId::at(NOW, [2; 10]);
        store.add_tenant(&Tenant { id: tenant.clone(), created_ms: NOW }).await.unwrap();
        store.open(session, "worker").await.unwrap();
        let spec = BatchSpec::new("{}".to_owned(), "demo:any".parse().unwrap(), lane());
        let limits = BatchLimits::default();
        let new = NewBatch { id: batch, spec, limits, idem_key: None, now_ms: NOW };
        store.create(&tenant, new).await.unwrap();
        Self { store, tenant, batch, session, _folder: folder }
    }

    /// Makes a block of so many rows the content of a part.
    async fn put(&self, part: u32, rows: u32) -> UploadId {
        let upload = UploadId::at(NOW, rand::random());
        let bytes = format!("{rows} rows of part {part}").into();
        let block = RowBlock { seq: 0, len: rows, bytes, ids: Bytes::new() };
        self.store.put_rows(&self.tenant, self.batch, upload, vec![block], NOW).await.unwrap();
        let digest = [u8::try_from(rows).unwrap(); 32];
        let part = PartCommit { part, upload, blocks: 1, digest };
        self.store.commit_part(&self.tenant, self.batch, part).await.unwrap();
        upload
    }

    /// Submits the only part as chunks of a row each.
    async fn submit(&self, upload: UploadId, rows: u32) {
        let (tenant, batch) = (&self.tenant, self.batch);
        self.store.begin_submit(tenant, batch).await.unwrap();
        let cut = |n| ChunkCut { n, rows: RowsRef { upload, seq: 0, skip: n }, base: n, len: 1 };
        let cuts: Vec<_> = (0..rows).map(cut).collect();
        self.store.put_heads(tenant, batch, &lane(), &cuts).await.unwrap();
        self.store.finish_submit(tenant, batch, rows, rows, NOW).await.unwrap();
    }

    async fn settle(&self, n: u32) {
        let chunk = ChunkId { batch: self.batch, n };
        self.store.admit(&[chunk], NOW).await.unwrap();
        let token = LeaseToken::from_bytes([7; 16]);
        assert_eq!(self.store.claim(self.session, &[(chunk, token)], NOW).await.unwrap().len(), 1);
        let body = format!("body of {n}").into();
        let settled = vec![(SettledItem { offset: 0, code: ItemCode::Succeeded }, body)];
        let (parked, spent, release) = (Vec::new(), Totals::default(), Release::LetGo);
        let group = SettleGroup { chunk, token, settled, parked, seq: 1, spent, release };
        self.store.settle([group].into(), NOW).await.unwrap();
    }

    /// What is told of the store, where `step` happens after the first record of the kind.
    pub(super) async fn told<F: Future<Output = ()>>(
        &self,
        at: fn(&Record) -> bool,
        step: impl FnOnce() -> F,
    ) -> Vec<Record> {
        self.try_told(at, step).await.unwrap()
    }

    /// The same, where it may fail.
    pub(super) async fn try_told<F: Future<Output = ()>>(
        &self,
        at: fn(&Record) -> bool,
        step: impl FnOnce() -> F,
    ) -> Result<Vec<Record>, ArchiveError> {
        let step: Box<dyn FnOnce()> = Box::new(|| wait(step()));
        let mut sink = Interrupted { told: Vec::new(), at, step: Some(step) };
        let told = export(&self.store, &Scope::All, &mut sink).await;
        assert!(sink.step.is_none());
        told.map(|_| sink.told)
    }
}

pub(super) fn lane() -> LaneId {
    LaneId::new("demo", "none")
}

fn indexes(told: &[Record]) -> Vec<u32> {
    let index = |record: &Record| match record {
        Record::Outcome(outcome) => Some(outcome.index),
        _ => None,
    };
    told.iter().filter_map(index).collect()
}

/// Lengths of the blocks before each part that is told, of the last telling.
fn parts(told: &[Record]) -> Vec<(u32, Vec<u32>)> {
    let (mut parts, mut lens) = (Vec::new(), Vec::new());
    for record in told {
        match record {
            Record::Batch(_) => parts.clear(),
            Record::Block(block) => lens.push(block.len),
            Record::Part(part) => parts.push((part.part, std::mem::take(&mut lens))),
            _ => {}
        }
    }
    parts
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_settles_within_a_page_that_was_read_is_told_with_its_chunk() {
    let scene = Scene::new().await;
    let upload = scene.put(0, 40).await;
    scene.submit(upload, 40).await;
    for n in [0, 3, 30, 36] {
        scene.settle(n).await;
    }
    // The page of bodies reaches to 36, and the head of 34 is not read yet.
    let is_outcome = |record: &Record| matches!(record, Record::Outcome(_));
    let told = scene.told(is_outcome, || async { scene.settle(34).await }).await;
    assert_eq!(indexes(&told), [0, 3, 30, 34, 36]);
    assert!(!told.contains(&Record::Gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_come_while_a_draft_is_told_are_not_told() {
    let scene = Scene::new().await;
    scene.put(1, 5).await;
    scene.put(3, 7).await;
    let is_block = |record: &Record| matches!(record, Record::Block(_));
    let told = scene
        .told(is_block, || async {
            scene.put(0, 9).await;
            scene.put(2, 9).await;
            scene.put(4, 9).await;
        })
        .await;
    assert!(!told.contains(&Record::Gone));
    assert_eq!(parts(&told), [(1, vec![5]), (3, vec![7])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_whose_part_is_replaced_while_it_is_told_is_told_again() {
    let scene = Scene::new().await;
    scene.put(1, 5).await;
    scene.put(3, 7).await;
    let is_block = |record: &Record| matches!(record, Record::Block(_));
    let told = scene
        .told(is_block, || async {
            scene.put(3, 8).await;
        })
        .await;
    assert_eq!(told.iter().filter(|record| **record == Record::Gone).count(), 1);
    assert_eq!(parts(&told), [(1, vec![5]), (3, vec![8])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_that_is_submitted_while_it_is_told_is_a_draft() {
    let scene = Scene::new().await;
    let upload = scene.put(0, 5).await;
    let is_block = |record: &Record| matches!(record, Record::Block(_));
    let told = scene
        .told(is_block, || async {
            scene.submit(upload, 5).await;
            scene.settle(2).await;
        })
        .await;
    assert!(indexes(&told).is_empty());
    let end = told.iter().find_map(|record| if let Record::End(end) = record { Some(end) } else { None });
    assert_eq!(end.unwrap().state, BatchState::Draft);
}

#[tokio::test]
async fn a_label_that_moves_while_its_template_is_read_is_on_a_version_that_is_told() {
    let id = TemplateId::at(NOW, [3; 10]);
    // With each read there is one version more, which has the label at once.
    let newest = std::cell::Cell::new(0);
    let next = || {
        newest.set(newest.get() + 1);
        newest.get()
    };
    let template = async |_| {
        let (name, latest) = ("a".to_owned(), next());
        Ok(Some(StoredTemplate { id, name, latest, created_ms: NOW, updated_ms: NOW }))
    };
    let labels = async |_| {
        let (label, version) = ("production".to_owned(), next());
        Ok(Some(vec![TemplateLabel { label, version, changed_ms: NOW }]))
    };
    let (template, labels) = with_labels("a", template, labels).await.unwrap().unwrap();
    assert_eq!((labels[0].version, template.latest), (2, 3));
}
