//! The bytes a row reader reads: a leading byte order mark is taken off, what is plainly not UTF-8 text is refused
//! before its first row, and lines are cut off the stream in bounded memory.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

/// Bytes read from the source at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// What the input is instead of UTF-8 text, told by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotText(&'static str);

impl fmt::Display for NotText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NotText {}

const SIGNATURES: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "the rows are compressed with gzip; unpack them first"),
    (b"\x28\xb5\x2f\xfd", "the rows are compressed with zstd; unpack them first"),
    (b"PK\x03\x04", "the rows are a zip archive or a spreadsheet file; save them as CSV (UTF-8)"),
    (b"\xff\xfe", "the rows are UTF-16 text; save them as UTF-8"),
    (b"\xfe\xff", "the rows are UTF-16 text; save them as UTF-8"),
    (b"\x00\x00\xfe\xff", "the rows are UTF-32 text; save them as UTF-8"),
];

/// A buffered source of text.
pub(crate) type Input<R> = BufReader<Opened<R>>;

/// Begins reading text from `source`; nothing is read before the first row is asked for.
pub(crate) fn input<R: Read>(source: R) -> Input<R> {
    BufReader::with_capacity(BUFFER_BYTES, Opened { source, head: [0; 4], begin: 0, end: 0, opened: false })
}

/// A source whose first bytes were looked at.
pub(crate) struct Opened<R> {
    source: R,
    head: [u8; 4],
    begin: usize,
    end: usize,
    opened: bool,
}

impl<R: Read> Opened<R> {
    fn open(&mut self) -> io::Result<()> {
        while let Some(room) = self.head.get_mut(self.end..).filter(|room| !room.is_empty()) {
            match self.source.read(room) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.opened = true;
        let head = &self.head[..self.end];
        if let Some((_, what)) = SIGNATURES.iter().find(|(signature, _)| head.starts_with(signature)) {
            return Err(io::Error::new(ErrorKind::InvalidData, NotText(what)));
        }
        if head.starts_with(b"\xef\xbb\xbf") {
            self.begin = 3;
        }
        Ok(())
    }
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.opened {
            self.open()?;
        }
        let head = &self.head[self.begin..self.end];
        if head.is_empty() {
            return self.source.read(buffer);
        }
        let count = head.len().min(buffer.len());
        buffer[..count].copy_from_slice(&head[..count]);
        self.begin += count;
        Ok(count)
    }
}

/// What [`Lines::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line that is not empty; its bytes are in [`Lines::bytes`].
    Text,
    /// A line above the limit; it was passed over to its end.
    TooLong,
    /// No line is left.
    End,
}

/// Lines of an input, each of at most `limit` bytes without its end (LF or CRLF).
pub(crate) struct Lines<R> {
    input: Input<R>,
    bytes: Vec<u8>,
    limit: usize,
    number: u64,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(source: R, limit: usize) -> Self {
        Self { input: input(source), bytes: Vec::new(), limit, number: 0 }
    }

    /// The 1-based number of the line read last; empty lines count.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// The line read last, without its end.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads on to the next line that holds more than blanks.
    pub(crate) fn read(&mut self) -> io::Result<Line> {
        loop {
            self.bytes.clear();
            // Two bytes more than the limit: a line of exactly the limit ends in CRLF within them.
            let most = u64::try_from(self.limit).unwrap_or(u64::MAX).saturating_add(2);
            if self.input.by_ref().take(most).read_until(b'\n', &mut self.bytes)? == 0 {
                return Ok(Line::End);
            }
            self.number += 1;
            let ended = self.bytes.last() == Some(&b'\n');
            if ended {
                self.bytes.pop();
                if self.bytes.last() == Some(&b'\r') {
                    self.bytes.pop();
                }
            }
            if self.bytes.len() > self.limit {
                if !ended {
                    self.input.skip_until(b'\n')?;
                }
                return Ok(Line::TooLong);
            }
            if !self.bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(Line::Text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, as a slow pipe may.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match (self.0.split_first(), buffer.first_mut()) {
                (Some((byte, rest)), Some(slot)) => {
                    *slot = *byte;
                    self.0 = rest;
                    Ok(1)
                }
                _ => Ok(0),
            }
        }
    }

    fn lines(bytes: &[u8], limit: usize) -> Vec<(u64, Result<String, Line>)> {
        let mut lines = Lines::new(Trickle(bytes), limit);
        let mut found = Vec::new();
        loop {
            match lines.read().unwrap() {
                Line::End => return found,
                Line::Text => {
                    let text = String::from_utf8_lossy(lines.bytes()).into_owned();
                    found.push((lines.number(), Ok(text)));
                }
                Line::TooLong => found.push((lines.number(), Err(Line::TooLong))),
            }
        }
    }

    #[test]
    fn every_line_end_is_taken_off_and_blank_lines_only_count() {
        let found = lines(b"\xef\xbb\xbfa\r\n\r\n  \nb\nc", 10);
        assert_eq!(found, [(1, Ok("a".into())), (4, Ok("b".into())), (5, Ok("c".into()))]);
        assert!(lines(b"", 10).is_empty());
        assert!(lines(b"\xef\xbb\xbf", 10).is_empty());
        assert!(lines(b"\n\n", 10).is_empty());
    }

    #[test]
    fn the_limit_counts_the_bytes_before_the_line_end() {
        for end in ["\n", "\r\n", ""] {
            let fits = format!("1234{end}");
            assert_eq!(lines(fits.as_bytes(), 4), [(1, Ok("1234".into()))], "{end:?}");
            let long = format!("12345{end}");
            assert_eq!(lines(long.as_bytes(), 4), [(1, Err(Line::TooLong))], "{end:?}");
        }
        let found = lines(b"123456789012345\nab\n", 4);
        assert_eq!(found, [(1, Err(Line::TooLong)), (2, Ok("ab".into()))]);
    }

    #[test]
    fn what_is_plainly_not_text_is_refused_by_name() {
        for (bytes, word) in [
            (&b"\x1f\x8b\x08\x00"[..], "gzip"),
            (b"PK\x03\x04zip", "zip"),
            (b"\xff\xfea\0", "UTF-16"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
        ] {
            let error = Lines::new(Trickle(bytes), 10).read().unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert!(error.downcast::<NotText>().is_ok());
        }
    }
}
