//! Cases about row sets.

use bytes::Bytes;
use promptmill_domain::{RowSetId, TenantId, UploadId};

use super::scene::*;
use crate::{Read, Records, RowBlock, RowSet, RowSetVersion};

fn upload() -> UploadId {
    UploadId::at(NOW, rand::random())
}

/// Blocks of ten bytes and a hash each.
fn blocks(count: u32) -> Vec<RowBlock> {
    let block = |seq: u32| RowBlock {
        seq,
        len: 3,
        bytes: Bytes::from(vec![u8::try_from(seq).unwrap(); 10]),
        ids: Bytes::from_static(&[7; 24]),
    };
    (0..count).map(block).collect()
}

fn version(version: u32, upload: UploadId, blocks: u32) -> RowSetVersion {
    let (rows, bytes) = (u64::from(blocks) * 3, u64::from(blocks) * 10);
    RowSetVersion {
        version,
        upload,
        blocks,
        rows,
        bytes,
        digest: "ab".repeat(32),
        created_ms: NOW,
        origin: None,
    }
}

fn set(tenant: &TenantId, name: Option<&str>, versions: Vec<RowSetVersion>) -> RowSet {
    let id = RowSetId::at(NOW, rand::random());
    let name = name.map(str::to_owned);
    RowSet { id, tenant: tenant.clone(), name, versions, created_ms: NOW, ver: 1 }
}

async fn seqs(store: &dyn Records, set: &RowSet, upload: UploadId) -> Vec<u32> {
    let found = store.set_blocks(&set.tenant, set.id, upload, 0, usize::MAX).await.unwrap();
    found.iter().map(|block| block.seq).collect()
}

/// As they were given, a part at a time.
pub async fn blocks_of_a_set_come_back_as_they_were_given(store: &(impl Records + Read)) {
    let (tenant, upload) = (fresh_tenant(), upload());
    let set = set(&tenant, Some("cities, Zürich"), vec![version(1, upload, 5)]);
    let given = blocks(5);
    store.put_set_blocks(&tenant, set.id, upload, given[3..].to_vec(), NOW).await.unwrap();
    store.put_set_blocks(&tenant, set.id, upload, given[..4].to_vec(), NOW).await.unwrap();
    assert!(store.put_row_set(&set, NOW).await.unwrap());
    assert_eq!(store.row_set(&tenant, set.id).await.unwrap(), set);
    let told = |blocks: &[RowBlock]| {
        let told = blocks.iter().map(|block| (block.seq, block.len, block.bytes.clone(), block.ids.clone()));
        told.collect::<Vec<_>>()
    };
    let found = store.set_blocks(&tenant, set.id, upload, 1, usize::MAX).await.unwrap();
    assert_eq!(told(&found), told(&given[1..]));
    // At least one, and as many as fit.
    let some = store.set_blocks(&tenant, set.id, upload, 1, 1).await.unwrap();
    assert_eq!(told(&some), told(&given[1..2]));
    let some = store.set_blocks(&tenant, set.id, upload, 1, 3 * 34 - 1).await.unwrap();
    assert_eq!(told(&some), told(&given[1..3]));
    assert!(store.set_blocks(&tenant, set.id, upload, 5, 99).await.unwrap().is_empty());
    assert!(store.set_blocks(&fresh_tenant(), set.id, upload, 0, 99).await.unwrap().is_empty());
    check_not_found(store.row_set(&fresh_tenant(), set.id).await);
    assert_eq!(store.usage(&tenant, NOW).await.unwrap().bytes, 50);
}

/// Only by who knows its version, and only to rows that are there.
pub async fn a_row_set_is_changed_only_by_who_knows_its_version(store: &(impl Records + Read)) {
    let (tenant, one, two) = (fresh_tenant(), upload(), upload());
    let first = set(&tenant, Some("a"), vec![version(1, one, 2)]);
    check_conflict(store.put_row_set(&first, NOW).await);
    store.put_set_blocks(&tenant, first.id, one, blocks(1), NOW).await.unwrap();
    check_conflict(store.put_row_set(&first, NOW).await);
    store.put_set_blocks(&tenant, first.id, one, blocks(2), NOW).await.unwrap();
    check_conflict(store.put_row_set(&RowSet { tenant: fresh_tenant(), ..first.clone() }, NOW).await);
    assert!(store.put_row_set(&first, NOW).await.unwrap());
    assert!(!store.put_row_set(&first, NOW).await.unwrap());
    store.put_set_blocks(&tenant, first.id, two, blocks(3), NOW).await.unwrap();
    let versions = vec![version(1, one, 2), version(2, two, 3)];
    let second = RowSet { versions, ver: 2, ..first.clone() };
    assert!(!store.put_row_set(&RowSet { ver: 3, ..second.clone() }, NOW).await.unwrap());
    assert!(store.put_row_set(&second, NOW).await.unwrap());
    assert!(!store.put_row_set(&RowSet { ver: 2, ..first }, NOW).await.unwrap());
    assert_eq!(store.row_set(&tenant, second.id).await.unwrap(), second);
    let (one, two) = (seqs(store, &second, one).await, seqs(store, &second, two).await);
    assert_eq!((one.len(), two.len()), (2, 3));
}

/// Of its tenant alone, by id, and only those with a name.
pub async fn row_sets_come_page_by_page_and_those_without_a_name_do_not(store: &(impl Records + Read)) {
    let (tenant, stranger) = (fresh_tenant(), fresh_tenant());
    let mut named = Vec::new();
    for (tenant, name) in
        [(&tenant, Some("a")), (&tenant, None), (&stranger, Some("b")), (&tenant, Some("c"))]
    {
        let upload = upload();
        let set = set(tenant, name, vec![version(1, upload, 1)]);
        store.put_set_blocks(tenant, set.id, upload, blocks(1), NOW).await.unwrap();
        assert!(store.put_row_set(&set, NOW).await.unwrap());
        named.extend((set.tenant != stranger && set.name.is_some()).then_some(set));
    }
    named.sort_by_key(|set| set.id);
    assert_eq!(store.row_sets(&tenant, None, 9).await.unwrap(), named);
    assert_eq!(store.row_sets(&tenant, None, 1).await.unwrap(), named[..1]);
    assert_eq!(store.row_sets(&tenant, Some(named[0].id), 9).await.unwrap(), named[1..]);
}

/// What nobody names goes when it is old, and nothing else does.
pub async fn rows_that_no_version_is_are_swept_when_they_are_old(store: &(impl Records + Read)) {
    let tenant = fresh_tenant();
    let (kept, given_up, young, old) = (upload(), upload(), upload(), upload());
    let first = set(&tenant, Some("a"), vec![version(1, given_up, 3), version(2, kept, 2)]);
    for (upload, count, at) in [(kept, 2, 0), (given_up, 3, 0), (young, 4, 90), (old, 5, 10)] {
        store.put_set_blocks(&tenant, first.id, upload, blocks(count), NOW + at).await.unwrap();
    }
    // One that sends still is as young as its last block.
    store.put_set_blocks(&tenant, first.id, young, blocks(1), NOW + 95).await.unwrap();
    assert!(store.put_row_set(&first, NOW + 20).await.unwrap());
    let second = RowSet { versions: vec![version(2, kept, 2)], ver: 2, ..first.clone() };
    assert!(store.put_row_set(&second, NOW + 30).await.unwrap());
    let mut removed = 0;
    loop {
        match store.drop_set_uploads(NOW + 91, 2).await.unwrap() {
            0 => break,
            some => removed += some,
        }
    }
    assert!(removed >= 5, "{removed}");
    for (upload, count) in [(kept, 2), (given_up, 0), (young, 4), (old, 0)] {
        assert_eq!(seqs(store, &first, upload).await.len(), count);
    }
    assert_eq!(store.usage(&tenant, NOW).await.unwrap().bytes, 60);
    check_conflict(store.put_row_set(&RowSet { ver: 3, ..first.clone() }, NOW).await);
    assert!(!store.delete_row_set(&fresh_tenant(), first.id).await.unwrap());
    assert!(store.delete_row_set(&tenant, first.id).await.unwrap());
    assert!(!store.delete_row_set(&tenant, first.id).await.unwrap());
    check_not_found(store.row_set(&tenant, first.id).await);
    while store.drop_set_uploads(NOW + 96, 100).await.unwrap() > 0 {}
    assert_eq!(seqs(store, &first, kept).await.len(), 0);
    assert_eq!(store.usage(&tenant, NOW).await.unwrap().bytes, 0);
}
