//! Inputs made to break a reader: endless, deep, binary, failing.

use std::io::{self, Cursor, Read};
use std::sync::Arc;

use promptmill_rowio::{ReadError, ReadRow, RowFormat, RowKinds, RowLimits, RowReader};
use proptest::prelude::*;

use crate::support::{open_template, read, read_within, template};

const MIB: u64 = 1024 * 1024;

/// Gives `left` times the same byte in pieces, never held in memory as a whole.
struct Endless {
    byte: u8,
    left: u64,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len()).min(10_000);
        buffer[..count].fill(self.byte);
        self.left -= count as u64;
        Ok(count)
    }
}

fn bad_lines<R: Read>(reader: RowReader<R>) -> Vec<u64> {
    let bad = |row: Result<ReadRow, ReadError>| match row.unwrap() {
        ReadRow::Bad(problems) => problems.line,
        ReadRow::Row(row) => panic!("line {} is good", row.line),
    };
    reader.map(bad).collect()
}

#[test]
fn a_line_of_100_mib_is_one_bad_row() {
    let line = Endless { byte: b'x', left: 100 * MIB };
    let rows = RowReader::new(line, RowFormat::Ndjson, template(), RowLimits::default());
    assert_eq!(bad_lines(rows), [1]);
    let tail = Endless { byte: b' ', left: 3 * MIB }.chain(&b"\n{\"product\":\"a\"}\n"[..]);
    let mut rows = RowReader::new(tail, RowFormat::Ndjson, template(), RowLimits::default());
    assert!(matches!(rows.next_row(), Ok(Some(ReadRow::Bad(bad))) if bad.line == 1));
    assert!(matches!(rows.next_row(), Ok(Some(ReadRow::Row(row))) if row.line == 2));
    assert!(matches!(rows.next_row(), Ok(None)));
}

#[test]
fn a_csv_record_of_100_mib_is_one_bad_row() {
    for opening in ["product\n\"", "product\n"] {
        let rows = opening.as_bytes().chain(Endless { byte: b'x', left: 100 * MIB });
        let rows = RowReader::new(rows, RowFormat::Csv, template(), RowLimits::default());
        assert_eq!(bad_lines(rows), [2], "{opening:?}");
    }
    let commas = b"product\n".chain(Endless { byte: b',', left: 30 * MIB });
    assert_eq!(bad_lines(RowReader::new(commas, RowFormat::Csv, template(), RowLimits::default())), [2]);
    // A header without end fits no row.
    let header = Endless { byte: b'x', left: 10 * MIB };
    let mut rows = RowReader::new(header, RowFormat::Csv, template(), RowLimits::default());
    assert!(matches!(rows.next_row(), Err(ReadError::Header(_))));
}

#[test]
fn a_row_of_exactly_the_limit_is_taken() {
    let limits = RowLimits { row_bytes: 40, ..RowLimits::default() };
    let row = |len: usize| format!("{{\"product\":\"{}\"}}", "x".repeat(len - 14));
    for end in ["", "\n", "\r\n"] {
        let fits = format!("{}{end}", row(40));
        assert_eq!(read_within(fits.as_bytes(), RowFormat::Ndjson, &template(), limits).good().len(), 1);
        let long = format!("{}{end}", row(41));
        let problems = read_within(long.as_bytes(), RowFormat::Ndjson, &template(), limits).only_bad();
        assert_eq!(problems[0].to_string(), "longer than 40 bytes");
    }
}

#[test]
fn deep_and_wide_rows_are_bad_rows() {
    let deep = format!("{{\"text\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(read(deep.as_bytes(), RowFormat::Ndjson, &open_template()).only_bad().len(), 1);
    let names: Vec<String> = (0..60_000).map(|n| format!("\"k{n}\":1")).collect();
    let wide = format!("{{{}}}", names.join(","));
    let problems = read(wide.as_bytes(), RowFormat::Ndjson, &template()).only_bad();
    assert!(problems.len() <= 51, "{}", problems.len());
    let long_name = format!("{{\"{}\":1}}", "k".repeat(500_000));
    for problem in read(long_name.as_bytes(), RowFormat::Ndjson, &template()).only_bad() {
        assert!(problem.to_string().len() < 1000);
    }
}

#[test]
fn values_that_json_would_change_are_problems_and_others_survive() {
    for lost in ["1e400", "123456789012345678901234567890", "18446744073709551616", "NaN", "Infinity", "-"] {
        let row = format!("{{\"text\":{lost}}}");
        assert!(!read(row.as_bytes(), RowFormat::Ndjson, &open_template()).only_bad().is_empty(), "{lost}");
    }
    for kept in
        ["18446744073709551615", "-9223372036854775808", "\"a\\u0000b\"", "\"\u{2028}\u{202e}\"", "0.1"]
    {
        let row = format!("{{\"text\":{kept}}}");
        let stored = read(row.as_bytes(), RowFormat::Ndjson, &open_template()).good()[0].to_stored();
        let (left, right): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&row).unwrap(), serde_json::from_str(stored.content.as_json()).unwrap());
        assert_eq!(left, right);
    }
}

#[test]
fn bytes_that_are_not_text_are_told_by_line_or_by_kind() {
    let told = read(b"{\"product\":\"a\"}\n{\"product\":\"\xff\"}\n", RowFormat::Ndjson, &template()).told();
    assert_eq!(told[1], "line 2: not UTF-8 at byte 13");
    for format in [RowFormat::Ndjson, RowFormat::Csv] {
        let error = read(b"\x1f\x8b\x08\x00rest", format, &template()).error.unwrap();
        assert!(matches!(error, ReadError::NotText(_)) && error.to_string().contains("gzip"), "{error}");
        assert!(matches!(read(b"\xff\xfe{\0", format, &template()).error, Some(ReadError::NotText(_))));
    }
}

#[test]
fn a_failing_source_ends_the_reading_with_its_error() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    for (format, begin) in
        [(RowFormat::Ndjson, "{\"product\":\"a\"}\n{\"pro"), (RowFormat::Csv, "product\na\nb")]
    {
        let source = Cursor::new(begin).chain(Failing);
        let mut rows = RowReader::new(source, format, template(), RowLimits::default());
        assert!(matches!(rows.next_row(), Ok(Some(ReadRow::Row(_)))), "{format:?}");
        assert!(
            matches!(rows.next_row(), Err(ReadError::Io(error)) if error.to_string() == "the disk is gone")
        );
        assert!(matches!(rows.next_row(), Ok(None)));
    }
}

#[test]
fn an_interrupted_read_is_tried_again() {
    struct Stuttering<'a>(&'a [u8], bool);
    impl Read for Stuttering<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(&mut buffer[..1]) }
        }
    }
    for (format, rows) in
        [(RowFormat::Ndjson, "{\"product\":\"a\"}\n"), (RowFormat::Csv, "product\r\n\r\n\"a\"\r\n")]
    {
        let source = Stuttering(rows.as_bytes(), false);
        let rows = RowReader::new(source, format, template(), RowLimits::default());
        assert_eq!(rows.filter(|row| matches!(row, Ok(ReadRow::Row(_)))).count(), 1, "{format:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), limit in 0..100usize) {
        for format in [RowFormat::Ndjson, RowFormat::Csv] {
            read_within(&bytes, format, &open_template(), RowLimits { row_bytes: limit, rows: 20 });
        }
    }

    #[test]
    fn no_text_near_json_makes_a_reader_panic(text in "[{}\\[\\]\",:\\\\a1 eE.\\-\r\nu0d8]{0,120}") {
        for format in [RowFormat::Ndjson, RowFormat::Csv] {
            read(text.as_bytes(), format, &open_template());
        }
    }

    #[test]
    fn no_row_near_an_envelope_makes_a_reader_panic(
        keys in proptest::collection::vec("custom_id|variables|messages|text|v\\\\u0061riables", 0..5),
        values in proptest::collection::vec("null|1|\"x\"|\\{\\}|\\{\"text\":\"é\"\\}|\\[\\]|\\[\\{\"role\":\"user\",\"content\":\"é\"\\}\\]", 5),
        blanks in "[ \t]{0,3}",
    ) {
        let members: Vec<String> =
            keys.iter().zip(&values).map(|(k, v)| format!("{blanks}\"{k}\"{blanks}:{blanks}{v}{blanks}")).collect();
        let row = format!("{{{}}}", members.join(","));
        for kinds in [RowKinds::Variables, RowKinds::Either, RowKinds::Messages] {
            let template = Arc::clone(&open_template());
            let mut reader = RowReader::new(row.as_bytes(), RowFormat::Ndjson, template, RowLimits::default()).accepting(kinds);
            prop_assert!(matches!(reader.next_row(), Ok(Some(_))));
            prop_assert!(matches!(reader.next_row(), Ok(None)));
        }
    }
}
