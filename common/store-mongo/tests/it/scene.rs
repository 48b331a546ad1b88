//! Words for the usual steps, over the ports alone.

use bytes::Bytes;
use promptmill_domain::chunk::largest_chunk;
use promptmill_domain::{
    BatchId, BatchLimits, BatchSpec, ChunkId, ItemCode, LaneId, LeaseToken, Release, SessionId, SettledItem,
    TenantId, Totals, UploadId, Webhook,
};
use promptmill_ports::{
    Lease, NewBatch, PartCommit, RowBlock, SettleGroup, Settled, Store, StoreResult, flow,
};

pub(crate) const NOW: u64 = 1_790_000_000_000;

/// A batch of a tenant, and who works on it.
pub(crate) struct Scene {
    pub(crate) tenant: TenantId,
    pub(crate) batch: BatchId,
    pub(crate) session: SessionId,
    pub(crate) upload: UploadId,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            tenant: format!("tenant-{:016x}", rand::random::<u64>()).parse().unwrap(),
            batch: BatchId::at(NOW, rand::random()),
            session: SessionId::at(NOW, rand::random()),
            upload: UploadId::at(NOW, rand::random()),
        }
    }

    pub(crate) fn chunk(&self, n: u32) -> ChunkId {
        ChunkId { batch: self.batch, n }
    }

    pub(crate) fn new_batch(&self) -> NewBatch {
        let mut spec = BatchSpec::new("{}".to_owned(), "demo:any".parse().unwrap(), lane());
        let url = "https://receiver.test/hook".to_owned();
        spec.webhook = Some(Webhook { url, sealed_secret: "sealed".to_owned(), results: false });
        NewBatch {
            id: self.batch,
            spec,
            limits: BatchLimits::default(),
            idem_key: Some("key".into()),
            now_ms: NOW,
        }
    }

    /// A batch of so many rows that is queued: up to 32 as chunks of one row, and more as 32 chunks. `before` is called before each step.
    pub(crate) async fn submitted(store: &dyn Store, rows: u32, before: &dyn Fn()) -> StoreResult<Self> {
        let scene = Self::new();
        let tenant = &scene.tenant;
        before();
        store.create(tenant, scene.new_batch()).await?;
        before();
        store.open(scene.session, "worker").await?;
        let block = RowBlock { seq: 0, len: rows, bytes: Bytes::from_static(b"rows"), ids: Bytes::new() };
        before();
        store.put_rows(tenant, scene.batch, scene.upload, vec![block], NOW).await?;
        let part = PartCommit { part: 0, upload: scene.upload, blocks: 1, digest: [1; 32] };
        before();
        store.commit_part(tenant, scene.batch, part).await?;
        before();
        flow::submit(store, tenant, scene.batch, &lane(), NOW).await?;
        Ok(scene)
    }

    /// The same once all of its chunks are admitted.
    pub(crate) async fn running(store: &dyn Store, rows: u32, before: &dyn Fn()) -> StoreResult<Self> {
        let scene = Self::submitted(store, rows, before).await?;
        let len = largest_chunk(rows, scene.new_batch().spec.chunk_rows);
        let chunks: Vec<_> = (0..rows.div_ceil(len)).map(|n| scene.chunk(n)).collect();
        before();
        assert_eq!(store.admit(&chunks, NOW).await?, chunks);
        Ok(scene)
    }

    pub(crate) async fn lease(&self, store: &dyn Store, n: u32) -> Lease {
        let token = LeaseToken::from_bytes(rand::random());
        store.claim(self.session, &[(self.chunk(n), token)], NOW).await.unwrap().remove(0)
    }
}

/// The filter for all documents but those that stand between the states of heads.
pub(crate) fn but_fences() -> mongodb::bson::Document {
    mongodb::bson::doc! { "state": { "$not": { "$type": "double" } } }
}

pub(crate) fn lane() -> LaneId {
    LaneId::new("demo", "none")
}

/// A group that settles the first item of its chunk.
pub(crate) fn settling(lease: &Lease, body: impl Into<Bytes>) -> SettleGroup {
    let item = SettledItem { offset: 0, code: ItemCode::Succeeded };
    SettleGroup { settled: vec![(item, body.into())], ..group(lease) }
}

/// A group that settles these items of its chunk.
pub(crate) fn settling_all<B: Into<Bytes>>(
    lease: &Lease,
    seq: u32,
    bodies: impl IntoIterator<Item = (u32, B)>,
) -> SettleGroup {
    let settled = bodies
        .into_iter()
        .map(|(offset, body)| (SettledItem { offset, code: ItemCode::Succeeded }, body.into()))
        .collect();
    SettleGroup { settled, seq, ..group(lease) }
}

/// An empty group.
pub(crate) fn group(lease: &Lease) -> SettleGroup {
    SettleGroup {
        chunk: lease.head.chunk,
        token: lease.token,
        settled: Vec::new(),
        parked: Vec::new(),
        seq: 1,
        spent: Totals { calls: 1, ..Totals::default() },
        release: Release::Keep,
    }
}

/// Settles one group, and gives what it settled its place in the order.
pub(crate) async fn settle(store: &dyn Store, group: SettleGroup) -> StoreResult<Settled> {
    let settled = store.settle([group].into(), NOW).await?;
    store.order().await?;
    Ok(settled[0])
}
