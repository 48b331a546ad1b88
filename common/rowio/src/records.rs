//! Records of a CSV stream, read in bounded memory.
//!
//! The `csv` crate's own reader collects a record of any length; an unclosed quote would make it hold the rest of the
//! stream. So its parsing core (`csv-core`) is driven here directly: a record above the limit is read to its end
//! and thrown away on the way, and a quote that is open at the end of the stream is told.

use std::io::{self, BufRead, ErrorKind, Read};
use std::ops::Range;

use csv_core::ReadRecordResult;

use crate::input::{Input, input};

/// The most fields a record is split into; further ones are only counted.
pub(crate) const MAX_FIELDS: usize = 10_000;

/// What [`Records::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// A whole record; see [`Records::fields`].
    Whole,
    /// A record above the limit of bytes; it was passed over to its end.
    TooLong,
    /// The last record: the stream ended inside its quotes.
    Unclosed,
    /// No record is left.
    End,
}

/// Records of an input, each of at most `limit` bytes as written. Empty lines between them are passed over.
pub(crate) struct Records<R> {
    input: Input<R>,
    core: csv_core::Reader,
    limit: usize,
    text: Vec<u8>,
    text_len: usize,
    ends: Vec<usize>,
    count: usize,
    next_line: u64,
    line: u64,
}

impl<R: Read> Records<R> {
    pub(crate) fn new(source: R, limit: usize) -> Self {
        let mut core = csv_core::Reader::new();
        // The first bytes it sees: else it would take off a byte order mark wherever it begins to read, and only where the mark comes in
        // one piece. The one at the beginning is taken off by the input.
        core.read_record(b"\n", &mut [0], &mut [0]);
        Self {
            input: input(source),
            core,
            limit,
            text: vec![0; 4096],
            text_len: 0,
            ends: vec![0; 32],
            count: 0,
            next_line: 1,
            line: 1,
        }
    }

    /// The 1-based line on which the record read last begins.
    pub(crate) const fn line(&self) -> u64 {
        self.line
    }

    /// How many fields the record read last has.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The fields of a whole record (the first [`MAX_FIELDS`]); `None` when they are not all UTF-8.
    pub(crate) fn fields(&self) -> Option<Vec<&str>> {
        let text = std::str::from_utf8(&self.text[..self.text_len]).ok()?;
        let ends = &self.ends[..self.count.min(MAX_FIELDS)];
        let begins = std::iter::once(0).chain(ends.iter().copied());
        // `get` also refuses a field that ends within a character the next one seems to complete.
        begins.zip(ends).map(|(begin, end)| text.get(Range { start: begin, end: *end })).collect()
    }

    /// Reads the next record.
    pub(crate) fn read(&mut self) -> io::Result<Record> {
        if !self.skip_line_ends()? {
            return Ok(Record::End);
        }
        self.line = self.next_line;
        (self.text_len, self.count) = (0, 0);
        let (mut raw, mut ends_len, mut too_long) = (0_usize, 0, false);
        loop {
            let buffered = fill(&mut self.input)?;
            // At the end of the stream a line feed is put in: it ends every record, except inside quotes.
            let ended = buffered.is_empty();
            let chunk = if ended { b"\n" } else { buffered };
            let (result, taken, written, split) =
                self.core.read_record(chunk, &mut self.text[self.text_len..], &mut self.ends[ends_len..]);
            if !ended {
                self.next_line += count_line_feeds(&chunk[..taken]);
                self.input.consume(taken);
                raw = raw.saturating_add(taken);
            }
            self.text_len += written;
            ends_len += split;
            self.count += split;
            // A record that ends brings the one byte of its line end along.
            too_long |= raw > self.limit.saturating_add(usize::from(!ended));
            match result {
                ReadRecordResult::Record if too_long => return Ok(Record::TooLong),
                ReadRecordResult::Record => return Ok(Record::Whole),
                ReadRecordResult::End => return Ok(Record::End),
                _ if ended && taken > 0 => {
                    return Ok(if too_long { Record::TooLong } else { Record::Unclosed });
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if too_long => {}
                ReadRecordResult::OutputFull => {
                    let larger = self.text.len() * 2;
                    self.text.resize(larger, 0);
                }
                ReadRecordResult::OutputEndsFull if self.ends.len() < MAX_FIELDS => {
                    let larger = (self.ends.len() * 2).min(MAX_FIELDS);
                    self.ends.resize(larger, 0);
                }
                ReadRecordResult::OutputEndsFull => ends_len = MAX_FIELDS - 1,
            }
            if too_long {
                (self.text_len, ends_len) = (0, 0);
            }
        }
    }

    /// Passes over line ends; false when nothing comes after them.
    fn skip_line_ends(&mut self) -> io::Result<bool> {
        loop {
            let buffered = fill(&mut self.input)?;
            let ends = buffered.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
            if ends == 0 {
                return Ok(!buffered.is_empty());
            }
            self.next_line += count_line_feeds(&buffered[..ends]);
            self.input.consume(ends);
        }
    }
}

fn fill<R: Read>(input: &mut Input<R>) -> io::Result<&[u8]> {
    // `fill_buf` gives the same bytes again until they are consumed, so looking twice costs nothing.
    while let Err(error) = input.fill_buf() {
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
    input.fill_buf()
}

fn count_line_feeds(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Found = (u64, Result<Vec<String>, Record>);

    fn records(bytes: &[u8], limit: usize) -> Vec<Found> {
        let mut records = Records::new(bytes, limit);
        let mut found = Vec::new();
        loop {
            match records.read().unwrap() {
                Record::End => return found,
                Record::Whole => {
                    let fields = records.fields().expect("UTF-8").into_iter().map(str::to_owned).collect();
                    found.push((records.line(), Ok(fields)));
                }
                other => found.push((records.line(), Err(other))),
            }
        }
    }

    fn whole(line: u64, fields: &[&str]) -> Found {
        (line, Ok(fields.iter().map(|field| (*field).to_owned()).collect()))
    }

    #[test]
    fn records_know_the_line_they_begin_on() {
        let text = b"\xef\xbb\xbfa,b\r\n\r\n\"x\ny\",\"\"\"q\"\"\"\n\n\n1,2";
        let expected = [whole(1, &["a", "b"]), whole(3, &["x\ny", "\"q\""]), whole(7, &["1", "2"])];
        assert_eq!(records(text, 100), expected);
        assert_eq!(records(b"a\rb\r", 100), [whole(1, &["a"]), whole(1, &["b"])]);
        assert!(records(b"", 100).is_empty() && records(b"\r\n\n", 100).is_empty());
    }

    #[test]
    fn only_the_first_byte_order_mark_is_taken_off() {
        assert_eq!(records(b"\xef\xbb\xbfa\n", 100), [whole(1, &["a"])]);
        assert_eq!(records(b"\n\xef\xbb\xbfa\n", 100), [whole(2, &["\u{feff}a"])]);
        assert_eq!(records(b"\xef\xbb\xbf\xef\xbb\xbfa\n", 100), [whole(1, &["\u{feff}a"])]);
    }

    #[test]
    fn a_quote_left_open_is_told_and_a_stray_one_is_not() {
        assert_eq!(records(b"a\n\"b,c\nd\n", 100), [whole(1, &["a"]), (2, Err(Record::Unclosed))]);
        assert_eq!(records(b"\"", 100), [(1, Err(Record::Unclosed))]);
        assert_eq!(records(b"12\" pipe", 100), [whole(1, &["12\" pipe"])]);
        assert_eq!(records(b"\"a\"", 100), [whole(1, &["a"])]);
    }

    #[test]
    fn a_record_above_the_limit_is_passed_over_to_its_end() {
        let long = "x".repeat(50_000);
        let text = format!("a\n\"{long}\n\",{long}\nb\n");
        assert_eq!(
            records(text.as_bytes(), 10),
            [whole(1, &["a"]), (2, Err(Record::TooLong)), whole(4, &["b"])]
        );
        let open = format!("a\n\"{long}");
        assert_eq!(records(open.as_bytes(), 10), [whole(1, &["a"]), (2, Err(Record::TooLong))]);
        assert_eq!(records(text.as_bytes(), 200_000).len(), 3);
        for end in ["\n", "\r\n", ""] {
            assert_eq!(records(format!("ab,c{end}").as_bytes(), 4), [whole(1, &["ab", "c"])], "{end:?}");
            assert_eq!(records(format!("ab,cd{end}").as_bytes(), 4), [(1, Err(Record::TooLong))], "{end:?}");
        }
    }

    #[test]
    fn fields_beyond_the_most_are_counted_in_bounded_memory() {
        let text = format!("{}\nb\n", ",".repeat(25_000));
        let mut records = Records::new(text.as_bytes(), 100_000);
        assert_eq!(records.read().unwrap(), Record::Whole);
        assert_eq!(records.count(), 25_001);
        assert!(records.ends.len() <= MAX_FIELDS);
        assert_eq!(records.read().unwrap(), Record::Whole);
        assert_eq!(records.fields().unwrap(), ["b"]);
    }

    #[test]
    fn a_character_cut_in_two_by_a_comma_is_not_utf8() {
        let mut records = Records::new(&b"\xc3,\xa9\n"[..], 100);
        assert_eq!(records.read().unwrap(), Record::Whole);
        assert_eq!(records.fields(), None);
    }

    proptest! {
        #[test]
        fn the_fields_are_those_of_the_csv_crate(text in "[a\"\r\n, é]{0,60}") {
            let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
            let expected: Vec<Vec<String>> =
                reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect();
            let found = records(text.as_bytes(), 1000);
            let unclosed = found.iter().any(|(_, record)| *record == Err(Record::Unclosed));
            let read: Vec<Vec<String>> = found.into_iter().filter_map(|(_, record)| record.ok()).collect();
            prop_assert_eq!(&read[..], &expected[..expected.len() - usize::from(unclosed)]);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), limit in 0..40usize) {
            let mut records = Records::new(&bytes[..], limit);
            while records.read().unwrap() != Record::End {
                let _ = records.fields();
            }
        }
    }
}
