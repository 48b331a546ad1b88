//! The lines of an archive: written and read one at a time, with a digest over the records.

use std::io::{BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::ArchiveError;
use crate::record::Record;
use crate::summary::Summary;

/// The format that this program writes.
const FORMAT: u32 = 1;
/// zstd's level: the bodies inside are compressed already.
const LEVEL: i32 = 3;
/// The longest line: a body or a template of the largest kind as base64, and what stands around it.
const LONGEST: u64 = 256 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    promptmill_archive: u32,
    version: String,
    made_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    archive_end: Total,
}

#[derive(Debug, Serialize, Deserialize)]
struct Total {
    records: u64,
    sha256: String,
}

/// What the last line begins with, and no record.
const FOOTER: &[u8] = b"{\"archive_end\"";

/// The digest and the numbers of what records tell, as they are written or read.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    hash: Sha256,
    summary: Summary,
    /// Both before the batch, schedule or row set that is being told: one that is gone at its end was never there.
    before: Option<(Sha256, Summary)>,
}

impl Tally {
    /// Adds a record, whose line is put into `line`.
    pub(crate) fn add(&mut self, record: &Record, line: &mut Vec<u8>) -> Result<(), ArchiveError> {
        line.clear();
        serde_json::to_writer(&mut *line, record).map_err(std::io::Error::from)?;
        line.push(b'\n');
        let begins = match record {
            Record::Batch(_) | Record::Schedule(_) => true,
            // That of a schedule goes with it.
            Record::RowSet(set) => set.name.is_some(),
            _ => false,
        };
        if begins {
            self.before = Some((self.hash.clone(), self.summary.clone()));
        }
        match record {
            Record::End(_) => self.before = None,
            Record::Gone => {
                if let Some((hash, summary)) = self.before.take() {
                    (self.hash, self.summary) = (hash, summary);
                }
                return Ok(());
            }
            _ => {}
        }
        self.hash.update(&line);
        self.summary.count(record);
        Ok(())
    }

    /// The numbers, and the digest.
    pub(crate) fn finish(self) -> Summary {
        Summary { digest: hex(self.hash), ..self.summary }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where an export goes.
pub(crate) trait Sink {
    /// Takes the next record.
    fn put(&mut self, record: &Record) -> Result<(), ArchiveError>;
}

/// Counts and hashes records, and keeps none.
#[derive(Default)]
pub(crate) struct Digesting {
    tally: Tally,
    line: Vec<u8>,
}

impl Digesting {
    /// The numbers, and the digest.
    pub(crate) fn finish(self) -> Summary {
        self.tally.finish()
    }
}

impl Sink for Digesting {
    fn put(&mut self, record: &Record) -> Result<(), ArchiveError> {
        self.tally.add(record, &mut self.line)
    }
}

/// Writes an archive.
pub struct ArchiveWriter<W: Write> {
    out: zstd::stream::Encoder<'static, W>,
    hash: Sha256,
    records: u64,
    tally: Tally,
    line: Vec<u8>,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive, made at `now_ms` (Unix milliseconds) by the promptmill of this version.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(out: W, version: &str, now_ms: u64) -> Result<Self, ArchiveError> {
        let mut out = zstd::stream::Encoder::new(out, LEVEL)?;
        // A checksum of zstd's own tells of damage where it is.
        out.include_checksum(true)?;
        let header = Header { promptmill_archive: FORMAT, version: version.to_owned(), made_ms: now_ms };
        serde_json::to_writer(&mut out, &header).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
        Ok(Self { out, hash: Sha256::new(), records: 0, tally: Tally::default(), line: Vec::new() })
    }

    /// Ends the archive; answers what it holds, and what it was written to.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> Result<(Summary, W), ArchiveError> {
        let summary = self.tally.finish();
        let footer = Footer { archive_end: Total { records: self.records, sha256: hex(self.hash) } };
        serde_json::to_writer(&mut self.out, &footer).map_err(std::io::Error::from)?;
        self.out.write_all(b"\n")?;
        let mut out = self.out.finish()?;
        out.flush()?;
        Ok((summary, out))
    }
}

impl<W: Write> Sink for ArchiveWriter<W> {
    fn put(&mut self, record: &Record) -> Result<(), ArchiveError> {
        self.tally.add(record, &mut self.line)?;
        self.hash.update(&self.line);
        self.records += 1;
        Ok(self.out.write_all(&self.line)?)
    }
}

/// Reads an archive.
pub struct ArchiveReader<R: Read> {
    lines: BufReader<zstd::stream::Decoder<'static, BufReader<R>>>,
    /// The line that was read last, from 1.
    line: u64,
    text: Vec<u8>,
    hash: Sha256,
    records: u64,
    /// What the records are as this program writes them: the digest of a store that holds them.
    tally: Tally,
    again: Vec<u8>,
    ended: bool,
}

impl<R: Read> ArchiveReader<R> {
    /// Begins to read an archive.
    ///
    /// # Errors
    /// `NoArchive` when it is something else, `Newer` when a later release wrote it.
    pub fn new(from: R) -> Result<Self, ArchiveError> {
        let lines = BufReader::new(zstd::stream::Decoder::new(from)?);
        let mut reader = Self {
            lines,
            line: 0,
            text: Vec::new(),
            hash: Sha256::new(),
            records: 0,
            tally: Tally::default(),
            again: Vec::new(),
            ended: false,
        };
        let header = match reader.read_line() {
            Ok(true) => serde_json::from_slice::<Header>(&reader.text).ok(),
            Ok(false) | Err(_) => None,
        };
        match header.ok_or(ArchiveError::NoArchive)?.promptmill_archive {
            1..=FORMAT => Ok(reader),
            0 => Err(ArchiveError::NoArchive),
            newer => Err(ArchiveError::Newer(newer, FORMAT)),
        }
    }

    /// The next record; `None` at the end of an archive that is whole.
    ///
    /// # Errors
    /// When a line cannot be read, the archive is cut off, or its digest is wrong.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        if !self.read_line()? {
            return Err(ArchiveError::CutOff(self.line));
        }
        let not_ours = |_| self.wrong("it is no record of this format");
        if !self.text.starts_with(FOOTER) {
            let record = serde_json::from_slice(&self.text).map_err(not_ours)?;
            self.hash.update(&self.text);
            self.records += 1;
            self.tally.add(&record, &mut self.again)?;
            return Ok(Some(record));
        }
        let Footer { archive_end } = serde_json::from_slice(&self.text).map_err(not_ours)?;
        if archive_end.records != self.records || archive_end.sha256 != hex(self.hash.clone()) {
            return Err(ArchiveError::Damaged);
        }
        self.ended = true;
        Ok(None)
    }

    /// What was read, with the digest of a store that holds it.
    pub(crate) fn summary(&self) -> Summary {
        self.tally.clone().finish()
    }

    /// That the line that was read last is wrong.
    pub(crate) fn wrong(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Line { line: self.line, what: what.into() }
    }

    /// Reads a line with its end; answers whether there was one.
    fn read_line(&mut self) -> Result<bool, ArchiveError> {
        self.text.clear();
        let read = (&mut self.lines).take(LONGEST).read_until(b'\n', &mut self.text);
        match read {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            // What zstd says of a stream that ends too early.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if self.text.last() != Some(&b'\n') {
            let whole = self.text.len() as u64 >= LONGEST;
            self.line += 1;
            return Err(if whole { self.wrong("it is too long") } else { ArchiveError::CutOff(self.line) });
        }
        self.line += 1;
        Ok(true)
    }
}
