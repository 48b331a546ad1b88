//! What a power cut may do to a data folder, and what not.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, RngCore as _};

/// A disk writes sectors; one of them is never half old and half new.
const SECTOR: u64 = 512;

/// SQLite's own limit here after which the log is written from its beginning again (4,000 pages with their headers).
const LOG_LIMIT: u64 = 4_000 * (4_096 + 24);

/// The database of a data folder.
pub(crate) fn database(data: &Path) -> PathBuf {
    data.join("promptmill.db")
}

/// The log in which commits are made durable.
pub(crate) fn log_of(data: &Path) -> PathBuf {
    data.join("promptmill.db-wal")
}

/// How long the log is. As long as it was never begun anew, that is also where the next commit goes.
pub(crate) fn log_length(data: &Path) -> u64 {
    let length = fs::metadata(log_of(data)).map_or(0, |found| found.len());
    assert!(length < LOG_LIMIT, "the log may have begun anew, and then nothing can be said about its tail");
    length
}

/// Cuts a file to this length.
pub(crate) fn truncate(path: &Path, length: u64) {
    File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// What happens to the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tear {
    /// Everything that was written had reached the disk.
    Kept,
    /// The file was never made so long.
    Truncated,
    /// The file's length reached the disk, its content from some place on did not.
    Zeroed,
    /// Sectors reached the disk in no order, and some hold noise; so does the index of the log, which nobody ever syncs.
    Garbled,
    /// A frame more than was written, with noise in it.
    Extended,
}

impl Tear {
    pub(crate) const ALL: [Self; 5] =
        [Self::Kept, Self::Truncated, Self::Zeroed, Self::Garbled, Self::Extended];

    /// Tears the log of a copied folder behind its first `synced` bytes.
    pub(crate) fn tear(self, data: &Path, synced: u64, dice: &mut StdRng) {
        let path = log_of(data);
        let length = log_length(data);
        let mut file = File::options().write(true).open(&path).unwrap();
        // The commits nearest to the last acknowledged one are the ones that matter most.
        let half = synced + (length - synced) / 2;
        match self {
            Self::Kept => {}
            Self::Truncated => file.set_len(dice.random_range(synced..=half)).unwrap(),
            Self::Zeroed => {
                // A sector that holds synced bytes keeps them: what lies behind them in it is at the mercy of the cut.
                let from = dice.random_range(synced..=half);
                file.set_len(from).unwrap();
                file.set_len(length).unwrap();
            }
            Self::Garbled => {
                let mut sector = synced.next_multiple_of(SECTOR);
                while sector < length {
                    if dice.random_bool(0.3) {
                        let mut noise = vec![0; usize::try_from(SECTOR.min(length - sector)).unwrap()];
                        dice.fill_bytes(&mut noise);
                        file.seek(SeekFrom::Start(sector)).unwrap();
                        file.write_all(&noise).unwrap();
                    }
                    sector += SECTOR;
                }
                let index = data.join("promptmill.db-shm");
                let mut noise = vec![0; 32 * 1024];
                dice.fill_bytes(&mut noise);
                fs::write(index, noise).unwrap();
            }
            Self::Extended => {
                let mut noise = vec![0; dice.random_range(1..9_000)];
                dice.fill_bytes(&mut noise);
                file.seek(SeekFrom::End(0)).unwrap();
                file.write_all(&noise).unwrap();
            }
        }
    }
}
