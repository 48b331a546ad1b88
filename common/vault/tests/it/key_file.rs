//! The key file of a data folder.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use promptmill_vault::{Vault, VaultError};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

const NAME: &str = "master.key";

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn mode(folder: &TempDir) -> u32 {
    fs::metadata(folder.path().join(NAME)).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_first_opening_makes_a_key_for_its_owner_only_and_the_next_finds_it() {
    let folder = folder();
    let sealed = Vault::open_or_create(folder.path()).unwrap().seal("context", b"secret").unwrap();
    assert_eq!(mode(&folder), 0o600);
    let before = fs::read(folder.path().join(NAME)).unwrap();
    let again = Vault::open_or_create(folder.path()).unwrap();
    assert_eq!(again.open("context", &sealed).unwrap().expose_secret(), b"secret");
    assert_eq!(fs::read(folder.path().join(NAME)).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn every_folder_has_a_key_of_its_own() {
    let (one, two) = (folder(), folder());
    let sealed = Vault::open_or_create(one.path()).unwrap().seal("context", b"secret").unwrap();
    assert!(Vault::open_or_create(two.path()).unwrap().open("context", &sealed).is_err());
}

#[test]
fn those_who_open_at_once_end_with_one_key() {
    let folder = folder();
    let open = || Vault::open_or_create(folder.path()).unwrap();
    let vaults: Vec<Vault> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sealed = vaults[0].seal("context", b"secret").unwrap();
    for vault in &vaults {
        assert_eq!(vault.open("context", &sealed).unwrap().expose_secret(), b"secret");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let folder = folder();
    Vault::open_or_create(folder.path()).unwrap();
    for exposed in [0o640, 0o604, 0o620, 0o666] {
        fs::set_permissions(folder.path().join(NAME), fs::Permissions::from_mode(exposed)).unwrap();
        let refused = Vault::open_or_create(folder.path()).unwrap_err();
        assert!(matches!(refused, VaultError::Exposed { .. }), "{exposed:o}: {refused}");
    }
    fs::set_permissions(folder.path().join(NAME), fs::Permissions::from_mode(0o400)).unwrap();
    Vault::open_or_create(folder.path()).unwrap();
}

#[test]
fn a_file_without_a_keyring_is_refused_and_kept() {
    let folder = folder();
    let path = folder.path().join(NAME);
    let huge = "#".repeat(100_000);
    for text in ["", "not a keyring", &huge] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let refused = Vault::open_or_create(folder.path()).unwrap_err();
        assert!(matches!(refused, VaultError::InvalidKeys(_)), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_folder_that_is_not_there_is_unavailable() {
    let folder = folder();
    let refused = Vault::open_or_create(&folder.path().join("missing")).unwrap_err();
    assert!(matches!(refused, VaultError::Unavailable { .. }), "{refused}");
}
