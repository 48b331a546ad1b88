//! What is no whole archive, and stores that take none.

use std::io::Write as _;

use promptmill_archive::{ArchiveError, ArchiveReader};
use promptmill_ports::{Generation, StoreError, Tenant};
use promptmill_store_sqlite::{SqliteOptions, SqliteStore};

use sha2::{Digest as _, Sha256};

use crate::scene::{NOW, Scene, see, tenant};
use crate::stores::{Kind, Place, archive_of, import_from};

pub(crate) fn lines_of(archive: &[u8]) -> Vec<String> {
    let text = String::from_utf8(zstd::decode_all(archive).unwrap()).unwrap();
    text.lines().map(|line| format!("{line}\n")).collect()
}

/// The lines between header and end, with the end that they should have.
pub(crate) fn whole(header: &str, records: &[String]) -> Vec<u8> {
    let digest = Sha256::digest(records.concat());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let end = format!("{{\"archive_end\":{{\"records\":{},\"sha256\":\"{digest}\"}}}}\n", records.len());
    pack(&[&[header.to_owned()], records, &[end]].concat())
}

fn pack(lines: &[String]) -> Vec<u8> {
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    lines.iter().for_each(|line| packed.write_all(line.as_bytes()).unwrap());
    packed.finish().unwrap()
}

/// The lines of a small archive.
async fn lines() -> Vec<String> {
    let place = Place::new(Kind::Sqlite);
    let store = place.open().await.unwrap();
    store.add_tenant(&Tenant { id: tenant("acme"), created_ms: NOW }).await.unwrap();
    lines_of(&archive_of(&*store).await.0)
}

pub(crate) async fn error_of(lines: &[String]) -> ArchiveError {
    let place = Place::new(Kind::Sqlite);
    let store = place.open().await.unwrap();
    import_from(&*store, &pack(lines)).await.unwrap_err()
}

#[tokio::test]
async fn what_is_no_whole_archive_is_told() {
    let place = Place::new(Kind::Sqlite);
    let store = place.open().await.unwrap();
    for other in [&b""[..], b"PK\x03\x04", b"{\"promptmill_archive\":1}\n"] {
        let error = import_from(&*store, other).await.unwrap_err();
        assert!(matches!(error, ArchiveError::NoArchive), "{error:?}");
    }
    let lines = lines().await;
    let error = error_of(&["{\"a\":1}\n".to_owned()]).await;
    assert!(matches!(error, ArchiveError::NoArchive), "{error:?}");
    let newer = lines[0].replace("\"promptmill_archive\":1", "\"promptmill_archive\":9");
    let error = error_of(&[newer]).await;
    assert_eq!(
        error.to_string(),
        "the archive has format 9, and this promptmill knows up to 1; use a newer promptmill"
    );
    let error = error_of(&lines[..2]).await;
    assert!(matches!(error, ArchiveError::CutOff(2)), "{error:?}");
    let renamed = [lines[0].clone(), lines[1].replace("acme", "acne"), lines[2].clone()];
    let error = error_of(&renamed).await;
    assert!(matches!(error, ArchiveError::Damaged), "{error:?}");
    let unknown = [lines[0].clone(), "{\"other\":{}}\n".to_owned(), lines[2].clone()];
    let error = error_of(&unknown).await;
    assert_eq!(error.to_string(), "line 2 of the archive: it is no record of this format");
}

#[tokio::test]
async fn a_record_that_stands_where_it_may_not_is_told() {
    let lines = lines().await;
    let (header, acme) = (&lines[0], &lines[1]);
    let id = promptmill_domain::TemplateId::at(NOW, rand::random());
    let template = format!("{{\"template\":{{\"id\":\"{id}\",\"name\":\"a\"}}}}\n");
    let version = "{\"version\":{\"source\":\"{}\",\"created_ms\":1}}\n".to_owned();
    let label =
        |version| format!("{{\"label\":{{\"label\":\"b\",\"version\":{version},\"changed_ms\":1}}}}\n");
    let cases = [
        (vec![header.clone(), "\"gone\"\n".to_owned()], "it is of no tenant"),
        (vec![header.clone(), acme.clone(), "\"gone\"\n".to_owned()], "it is of no batch"),
        (vec![header.clone(), acme.clone(), version.clone()], "it is of no template"),
        (
            vec![header.clone(), acme.clone(), label(1)],
            "it is of no template, or of a version that is not there",
        ),
        (
            vec![header.clone(), acme.clone(), template, version, label(2)],
            "it is of no template, or of a version that is not there",
        ),
    ];
    for (lines, what) in cases {
        let error = error_of(&lines).await;
        assert_eq!(error.to_string(), format!("line {} of the archive: {what}", lines.len()));
    }
}

#[tokio::test]
async fn an_archive_that_is_cut_anywhere_is_told_to_be() {
    let from = Place::new(Kind::Sqlite);
    let store = from.open().await.unwrap();
    Scene::small(&*store).await;
    // More than one block of zstd's.
    let id = promptmill_domain::GenerationId::at(NOW, rand::random());
    let mut noise = vec![0; 600_000];
    rand::fill(&mut noise[..]);
    let (tenant, request, outcome) = (tenant("zeta"), noise.into(), None);
    let owner = promptmill_domain::SessionId::at(NOW, rand::random());
    store.put_generation(&Generation { id, tenant, request, outcome, created_ms: NOW, owner }).await.unwrap();
    let archive = archive_of(&*store).await.0;
    let mut cut_off = 0;
    for len in (0..archive.len() - 4).step_by(archive.len() / 60) {
        match ArchiveReader::new(&archive[..len]) {
            // Not even its header is there.
            Err(ArchiveError::NoArchive) => assert!(len < archive.len() / 3, "{len} of {}", archive.len()),
            Err(error) => panic!("{len} of {}: {error:?}", archive.len()),
            Ok(_) => {
                let to = Place::new(Kind::Sqlite);
                let error = import_from(&*to.open().await.unwrap(), &archive[..len]).await.unwrap_err();
                assert!(matches!(error, ArchiveError::CutOff(_)), "{len} of {}: {error:?}", archive.len());
                cut_off += 1;
            }
        }
    }
    assert!(cut_off > 10);
}

#[tokio::test]
async fn a_batch_that_was_deleted_while_it_was_told_is_none() {
    for kind in [Kind::Sqlite, Kind::Mongo] {
        let (from, to) = (Place::new(Kind::Sqlite), Place::new(kind));
        let source = from.open().await.unwrap();
        let scene = Scene::of(&*source).await;
        let (archive, summary) = archive_of(&*source).await;
        let lines = lines_of(&archive);
        let mut records = Vec::new();
        let mut told = Vec::new();
        for line in &lines[1..lines.len() - 1] {
            if line.starts_with("{\"batch\"") {
                told.clear();
            }
            told.push(line.clone());
            records.push(line.clone());
            if line.starts_with("{\"end\"") {
                // Told before, cut at each third of its lines and at its end, and then gone each time.
                let again = std::mem::take(&mut told);
                let at = records.len() - again.len();
                let before = (1..=3).flat_map(|n| {
                    let some = again[..(again.len() - 1) * n / 3].iter().cloned();
                    let some: Vec<_> = again[..1].iter().cloned().chain(some.skip(1)).collect();
                    some.into_iter().chain(["\"gone\"\n".to_owned()])
                });
                let before: Vec<_> = before.collect();
                records.splice(at..at, before);
            }
        }
        let target = to.open().await.unwrap();
        let imported = import_from(&*target, &whole(&lines[0], &records)).await.unwrap();
        assert_eq!(imported, summary);
        assert_eq!(archive_of(&*target).await.1, summary);
        for batch in &scene.batches {
            let (then, now) =
                (see(&*source, &scene.tenant, *batch).await, see(&*target, &scene.tenant, *batch).await);
            assert_eq!(now, then);
        }
    }
}

#[tokio::test]
async fn deaths_that_make_no_sense_and_endless_blocks_are_refused() {
    let from = Place::new(Kind::Sqlite);
    let source = from.open().await.unwrap();
    Scene::of(&*source).await;
    let lines = lines_of(&archive_of(&*source).await.0);
    let changes = [
        ("\"killers\":[1]", "\"killers\":[1,1]"),
        ("\"killers\":[1]", "\"killers\":[4000000000]"),
        ("\"kills\":5", "\"kills\":4000000000"),
        ("{\"block\":{\"len\":40", "{\"block\":{\"len\":4294967295"),
        ("{\"block\":{\"len\":40", "{\"block\":{\"len\":0"),
    ];
    for (was, is) in changes {
        let records: Vec<_> = lines[1..lines.len() - 1].iter().map(|line| line.replace(was, is)).collect();
        assert_ne!(records.concat(), lines[1..lines.len() - 1].concat(), "{was}");
        let to = Place::new(Kind::Sqlite);
        let error = import_from(&*to.open().await.unwrap(), &whole(&lines[0], &records)).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Differs(..)), "{is}: {error:?}");
    }
}

async fn only_an_empty_store_is_filled(kind: Kind) {
    let place = Place::new(kind);
    let store = place.open().await.unwrap();
    Scene::small(&*store).await;
    let archive = archive_of(&*store).await.0;
    // The sessions of the scene are silent, so nobody works on it.
    let error = import_from(&*store, &archive).await.unwrap_err();
    assert!(
        matches!(&error, ArchiveError::Store(StoreError::Conflict(words)) if words == "the store is not empty"),
        "{error:?}"
    );
}

async fn what_an_import_left_half_way_is_opened_by_nobody(kind: Kind) {
    let (from, to) = (Place::new(kind), Place::new(kind));
    let source = from.open().await.unwrap();
    Scene::small(&*source).await;
    let lines = lines_of(&archive_of(&*source).await.0);
    let target = to.open().await.unwrap();
    let error = import_from(&*target, &pack(&lines[..lines.len() / 2])).await.unwrap_err();
    assert!(matches!(error, ArchiveError::CutOff(_)), "{error:?}");
    drop(target);
    let refused = to.open().await.err().unwrap();
    assert!(refused.to_string().starts_with("an import into this store has not ended"), "{refused}");
}

async fn a_store_that_somebody_works_on_takes_no_import(kind: Kind) {
    let (from, to) = (Place::new(Kind::Sqlite), Place::new(kind));
    let source = from.open().await.unwrap();
    Scene::small(&*source).await;
    let archive = archive_of(&*source).await.0;
    let store = to.open().await.unwrap();
    let session = promptmill_domain::SessionId::at(NOW, rand::random());
    store.open(session, "scheduler on host-1").await.unwrap();
    let beats = async {
        for beat in 1.. {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            store.beat(session, beat, None).await.unwrap();
        }
    };
    let error = tokio::select! {
        imported = import_from(&*store, &archive) => imported.unwrap_err(),
        () = beats => unreachable!("it beats for ever"),
    };
    assert!(matches!(&error, ArchiveError::InUse(label) if label == "scheduler on host-1"), "{error:?}");
}

macro_rules! of_both {
    ($($case:ident)*) => {
        mod sqlite {
            use super::*;
            $(#[tokio::test] async fn $case() { super::$case(Kind::Sqlite).await; })*
        }
        mod mongo {
            use super::*;
            $(#[tokio::test] async fn $case() { super::$case(Kind::Mongo).await; })*
        }
    };
}

of_both! {
    only_an_empty_store_is_filled
    what_an_import_left_half_way_is_opened_by_nobody
    a_store_that_somebody_works_on_takes_no_import
}

#[tokio::test]
async fn a_folder_is_exported_beside_the_process_that_uses_it() {
    let place = Place::new(Kind::Sqlite);
    let store = place.open().await.unwrap();
    Scene::small(&*store).await;
    let reader = SqliteStore::open_to_read(&place.folder(), SqliteOptions::default()).unwrap();
    assert_eq!(archive_of(&reader).await.1, archive_of(&*store).await.1);
    // What is written afterwards is read, too, and while it is.
    let writes = async {
        for n in 0..200 {
            let tenant = Tenant { id: tenant(&format!("t{n}")), created_ms: NOW };
            store.add_tenant(&tenant).await.unwrap();
        }
    };
    let reads = async {
        let (mut counted, mut reads) = (0, 0);
        while counted < 201 {
            let now = archive_of(&reader).await.1.tenants;
            assert!(now >= counted);
            (counted, reads) = (now, reads + 1);
        }
        reads
    };
    let ((), reads) = tokio::join!(writes, reads);
    assert!(reads > 1);
    let other = Tenant { id: tenant("other"), created_ms: NOW };
    let refused = promptmill_ports::Accounts::add_tenant(&reader, &other).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));
    let nowhere = tempfile::tempdir().unwrap();
    let refused = SqliteStore::open_to_read(nowhere.path(), SqliteOptions::default()).unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(_)), "{refused:?}");
    assert_eq!(std::fs::read_dir(nowhere.path()).unwrap().count(), 0);
}
