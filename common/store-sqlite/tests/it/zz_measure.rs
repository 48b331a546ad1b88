//! Temporary.
use std::time::Instant;
use bytes::Bytes;
use promptmill_domain::*;
use promptmill_ports::{Admission as _, BatchFilter, Close as _, Control as _, Intake as _, NewBatch, PageLimit, PartCommit, Read as _, Retention as _, RowBlock, Rows as _, Sessions as _, SettleGroup, SettledCursor, Work as _, flow};
use crate::TemporaryStore;
const NOW: u64 = 1_790_000_000_000;
fn t() -> TenantId { TenantId::default_tenant() }
fn id(n: u32) -> BatchId { let mut b=[0u8;16]; b[..4].copy_from_slice(&n.to_be_bytes()); BatchId::from_bytes(b) }
fn lane() -> LaneId { LaneId::new("demo","none") }
fn spec(template: usize) -> BatchSpec { BatchSpec::new("x".repeat(template), "demo:any".parse().unwrap(), lane()) }
async fn timed<T>(what: &str, f: impl Future<Output=T>) -> T { let s=Instant::now(); let r=f.await; eprintln!("{what}: {:?}", s.elapsed()); r }
fn wal(s: &TemporaryStore) -> u64 { std::fs::metadata(s.path().join("promptmill.db-wal")).map_or(0,|m| m.len()) / 1024 / 1024 }

#[tokio::test] #[ignore]
async fn many_batches() {
    let s = std::sync::Arc::new(TemporaryStore::new());
    timed("make 10000 open", async {
        let mut set = tokio::task::JoinSet::new();
        for n in 1..=10_000u32 {
            let s = s.clone();
            set.spawn(async move {
                let b = id(n);
                let mut sp = spec(4000);
                if n % 10 == 0 { sp.name = Some(format!("name{}", n%7)); sp.labels.insert("k".into(), "v".into()); }
                s.create(&t(), NewBatch{id:b, spec: sp, limits: BatchLimits::default(), idem_key: None, now_ms: NOW + u64::from(n)}).await.unwrap();
                let up = UploadId::from_bytes(*b.as_bytes());
                s.put_rows(&t(), b, up, vec![RowBlock{seq:0,len:256,bytes:vec![1;3000].into(),ids:Bytes::new()}], NOW).await.unwrap();
                s.commit_part(&t(), b, PartCommit{part:0,upload:up,blocks:1,digest:[0;32]}).await.unwrap();
                flow::submit(&**s, &t(), b, &lane(), NOW).await.unwrap();
            });
            if set.len() == 100 { while set.join_next().await.is_some() {} }
        }
        while set.join_next().await.is_some() {}
    }).await;
    for _ in 0..3 { timed("open_batches", s.open_batches()).await.unwrap(); }
    timed("ready none", s.ready(None, 256)).await.unwrap();
    timed("list 50", s.batches(&t(), &BatchFilter::default(), None, 50)).await.unwrap();
    timed("list created_from none", s.batches(&t(), &BatchFilter{created_before_ms: Some(NOW-5), ..BatchFilter::default()}, None, 50)).await.unwrap();
    timed("list label+state none", s.batches(&t(), &BatchFilter{labels: vec![("k".into(),"v".into())], state: Some("failed".into()), ..BatchFilter::default()}, None, 50)).await.unwrap();
    for n in 1..=10_000u32 { s.steer(&t(), id(n), BatchEvent::Cancel, NOW).await.unwrap(); while s.seal(&t(), id(n), 100, NOW).await.unwrap()>0 {} s.close(&t(), id(n), NOW).await.unwrap(); }
    timed("outlived none", s.outlived(NOW+1, 1000, 0, 16)).await.unwrap();
    timed("outlived 16", s.outlived(NOW+100000, 1000, 0, 16)).await.unwrap();
    timed("open_batches empty", s.open_batches()).await.unwrap();
    for n in 10_001..=20_000u32 { s.create(&t(), NewBatch{id:id(n), spec: spec(4000), limits: BatchLimits::default(), idem_key: None, now_ms: NOW}).await.unwrap(); }
    timed("outlived drafts none", s.outlived(NOW+1, 1000, NOW-1, 16)).await.unwrap();
    timed("outlived drafts 16", s.outlived(NOW+1, 1000, NOW+1, 16)).await.unwrap();
}

#[tokio::test] #[ignore]
async fn many_rows() {
    let s = TemporaryStore::new();
    let b = id(1);
    let up = UploadId::from_bytes([7;16]);
    s.create(&t(), NewBatch{id:b, spec: spec(4000), limits: BatchLimits::default(), idem_key: None, now_ms: NOW}).await.unwrap();
    const BLOCKS: u32 = 39_063;
    timed("put 10M rows", async {
        let mut seq = 0;
        while seq < BLOCKS {
            let n = 64.min(BLOCKS-seq);
            let blocks = (seq..seq+n).map(|seq| RowBlock{seq,len:256,bytes:vec![3;8000].into(), ids: vec![9;2048].into()}).collect();
            s.put_rows(&t(), b, up, blocks, NOW).await.unwrap();
            seq += n;
        }
    }).await;
    let s = timed("reopen", async { s.reopen() }).await;
    timed("commit_part", s.commit_part(&t(), b, PartCommit{part:0,upload:up,blocks:BLOCKS,digest:[0;32]})).await.unwrap();
    timed("commit_part again", s.commit_part(&t(), b, PartCommit{part:0,upload:up,blocks:BLOCKS,digest:[0;32]})).await.unwrap();
    timed("block_ids all", async { let mut after=None; loop { let p = s.block_ids(&t(), b, after, 256).await.unwrap(); let Some(l)=p.last() else {break}; after=Some((l.part,l.seq)); } }).await;
    timed("begin_submit", s.begin_submit(&t(), b)).await.unwrap();
    timed("submit", flow::submit(&*s, &t(), b, &lane(), NOW)).await.unwrap();
    timed("progress", s.progress(&t(), b)).await.unwrap();
    timed("progress", s.progress(&t(), b)).await.unwrap();
    timed("waiting 256", s.waiting(b, 256)).await.unwrap();
    let session = SessionId::from_bytes([3;16]);
    s.open(session, "w").await.unwrap();
    // Settle 200k items.
    timed("settle 800 chunks", async {
        for _ in 0..100 {
            let chunks = s.waiting(b, 8).await.unwrap();
            s.admit(&chunks, NOW).await.unwrap();
            let toks: Vec<_> = chunks.iter().map(|c| (*c, LeaseToken::from_bytes([1;16]))).collect();
            for lease in s.claim(session, &toks, NOW).await.unwrap() {
                for k in 0..4u32 {
                    let settled = (0..64).map(|o| (SettledItem{offset: k*64+o, code: ItemCode::Succeeded}, Bytes::from(vec![5;300]))).collect();
                    s.settle(vec![SettleGroup{chunk: lease.head.chunk, token: lease.token, settled, parked: vec![], seq: k+1, spent: Totals::default(), release: Release::Keep}], NOW).await.unwrap();
                }
            }
        }
    }).await;
    timed("settled all 200k", async { let mut after=SettledCursor::default(); let mut n=0; loop { let p = s.settled(&t(), b, after, PageLimit{items:1000,bytes:4<<20}).await.unwrap(); n+=p.outcomes.len(); after=p.next; if p.caught_up {break} } eprintln!("{n}"); }).await;
    timed("outcomes tail", s.outcomes(&t(), b, 300_000, PageLimit{items:1000,bytes:4<<20})).await.unwrap();
    s.steer(&t(), b, BatchEvent::Cancel, NOW).await.unwrap();
    timed("seal all", async { while s.seal(&t(), b, 500, NOW).await.unwrap()>0 {} }).await;
    timed("close", s.close(&t(), b, NOW)).await.unwrap();
    let start=Instant::now(); let mut steps=0; let mut worst=std::time::Duration::ZERO; loop { let a=Instant::now(); let gone=s.delete(&t(), b).await.unwrap(); worst=worst.max(a.elapsed()); steps+=1; if gone {break} }
    eprintln!("delete: {:?} in {steps} steps, worst {worst:?}", start.elapsed());
}

#[tokio::test] #[ignore]
async fn large_bodies() {
    let s = TemporaryStore::new();
    let b = id(1);
    let up = UploadId::from_bytes([7;16]);
    s.create(&t(), NewBatch{id:b, spec: spec(4000), limits: BatchLimits::default(), idem_key: None, now_ms: NOW}).await.unwrap();
    s.put_rows(&t(), b, up, (0..4).map(|seq| RowBlock{seq,len:256,bytes:vec![3;8000].into(), ids: Bytes::new()}).collect(), NOW).await.unwrap();
    s.commit_part(&t(), b, PartCommit{part:0,upload:up,blocks:4,digest:[0;32]}).await.unwrap();
    flow::submit(&*s, &t(), b, &lane(), NOW).await.unwrap();
    let session = SessionId::from_bytes([3;16]);
    s.open(session, "w").await.unwrap();
    let chunks = s.waiting(b, 100).await.unwrap();
    s.admit(&chunks, NOW).await.unwrap();
    let toks: Vec<_> = chunks.iter().map(|c| (*c, LeaseToken::from_bytes([1;16]))).collect();
    for lease in s.claim(session, &toks, NOW).await.unwrap() {
        let len = lease.head.len();
        for o in 0..len {
            let settled = vec![(SettledItem{offset: o, code: ItemCode::Succeeded}, Bytes::from(vec![5;512*1024]))];
            s.settle(vec![SettleGroup{chunk: lease.head.chunk, token: lease.token, settled, parked: vec![], seq: o+1, spent: Totals::default(), release: Release::Keep}], NOW).await.unwrap();
        }
    }
    s.close(&t(), b, NOW).await.unwrap().unwrap();
    eprintln!("wal before {} MiB", wal(&s));
    loop { let gone = timed("delete step", s.delete(&t(), b)).await.unwrap(); eprintln!("wal {} MiB", wal(&s)); if gone {break} }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] #[ignore]
async fn log_under_readers() {
    let s = std::sync::Arc::new(TemporaryStore::new());
    let b = id(1);
    let up = UploadId::from_bytes([7;16]);
    s.create(&t(), NewBatch{id:b, spec: spec(4000), limits: BatchLimits::default(), idem_key: None, now_ms: NOW}).await.unwrap();
    s.put_rows(&t(), b, up, (0..64).map(|seq| RowBlock{seq,len:256,bytes:vec![3;8000].into(), ids: vec![1;2048].into()}).collect(), NOW).await.unwrap();
    s.commit_part(&t(), b, PartCommit{part:0,upload:up,blocks:64,digest:[0;32]}).await.unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..4 { let (s, stop) = (s.clone(), stop.clone()); readers.push(tokio::spawn(async move { let mut n=0u64; while !stop.load(std::sync::atomic::Ordering::Relaxed) { s.block_ids(&t(), b, None, 64).await.unwrap(); n+=1; } n })); }
    let start = Instant::now();
    let up2 = UploadId::from_bytes([8;16]);
    for seq in 0..4000u32 {
        s.put_rows(&t(), b, up2, vec![RowBlock{seq,len:256,bytes:vec![3;200_000].into(), ids: Bytes::new()}], NOW).await.unwrap();
        if seq % 500 == 0 { eprintln!("{seq} written {} MB, wal {} MiB, {:?}", seq/5, wal(&s), start.elapsed()); }
    }
    eprintln!("end wal {} MiB", wal(&s));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for r in readers { eprintln!("reads {}", r.await.unwrap()); }
}
