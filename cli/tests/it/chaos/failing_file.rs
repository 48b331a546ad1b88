//! A disk whose writes or syncs fail on demand: a small library that is loaded before the C library of the server under test.
//!
//! SQLite's file layer is the same as ever; only the system calls it makes are answered as a broken disk answers them.

use std::path::PathBuf;
use std::process::Command;

use super::scene::wait_until;
use crate::support::Desk;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    /// `fsync` and `fdatasync`, with EIO.
    Sync,
    /// Writes, with EIO.
    Write,
    /// Writes, with ENOSPC: as on a full disk whose free space nobody reports.
    Space,
}

/// The library, and the file by which it is told.
pub(crate) struct FailingFile {
    control: PathBuf,
}

impl FailingFile {
    /// Compiles the library and has every process of the desk load it; nothing fails yet.
    pub(crate) fn install(desk: &mut Desk) -> Self {
        let (source, library) = (desk.path("failing_file.c"), desk.path("failing_file.so"));
        std::fs::write(&source, include_str!("failing_file.c")).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source);
        let done = compiler.arg("-ldl").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let control = desk.path("failing");
        std::fs::write(&control, "").unwrap();
        desk.set("LD_PRELOAD", library.to_str().unwrap());
        desk.set("FAILING_FILE", control.to_str().unwrap());
        Self { control }
    }

    /// From now on this fails.
    pub(crate) fn fail(&self, what: Fails) {
        let word = match what {
            Fails::Sync => "sync",
            Fails::Write => "write",
            Fails::Space => "space",
        };
        self.tell(word);
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&self) {
        self.tell("");
    }

    /// How many calls have failed.
    pub(crate) fn hits(&self) -> u64 {
        std::fs::metadata(self.control.with_extension("hits")).map_or(0, |hits| hits.len())
    }

    /// Waits until some more calls have failed.
    pub(crate) fn wait_for_hits(&self, more: u64) {
        let from = self.hits();
        wait_until("the disk to fail", || self.hits() >= from + more);
    }

    fn tell(&self, word: &str) {
        // A reader sees the old word or the new one.
        let next = self.control.with_extension("next");
        std::fs::write(&next, word).unwrap();
        std::fs::rename(next, &self.control).unwrap();
    }
}
