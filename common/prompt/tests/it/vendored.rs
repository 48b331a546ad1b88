//! The vendored template engine is what was published, with our patch on top and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

#[test]
fn the_engine_without_our_patch_is_what_was_published() {
    let vendor = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vendor").canonicalize().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let engine = scratch.path().join("minijinja");
    copy(&vendor.join("minijinja"), &engine);

    let unpatched = Command::new("git")
        .args(["apply", "-R"])
        .arg(vendor.join("minijinja.patch"))
        .current_dir(&engine)
        .output();
    let unpatched = unpatched.expect("git is there");
    assert!(unpatched.status.success(), "{}", String::from_utf8_lossy(&unpatched.stderr));

    let sums = vendor.join("minijinja.sha256");
    let compared = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet"])
        .arg(&sums)
        .current_dir(&engine)
        .output();
    let compared = compared.expect("sha256sum is there");
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
    assert_eq!(
        files(&engine),
        fs::read_to_string(sums).unwrap().lines().count(),
        "files beside the published ones"
    );
}
