//! Reading rows, storing them, reading them back.
//!
//! The first byte of the input chooses what the rows are read against, the rest are the rows.

use std::io::{self, Read};
use std::sync::{Arc, LazyLock};

use promptmill_prompt::Template;
use promptmill_rowio::{
    BlockBuilder, ReadRow, RowFormat, RowKinds, RowLimits, RowReader, StoredRow, decode_block, decode_range,
};

/// Rows are short here, so that a fuzzer finds what happens above the limit.
const LIMITS: RowLimits = RowLimits { row_bytes: 512, rows: 64 };

/// Templates that take any name, declare types, and take the reserved names for themselves.
static TEMPLATES: LazyLock<[Arc<Template>; 3]> = LazyLock::new(|| {
    [
        r#""messages":[{"role":"user","content":"{{ text }}"}]"#,
        r#""messages":[{"role":"user","content":"{{ s }}{{ n }}{{ i }}{{ b }}{{ a }}{{ o }}"}],"variables":{
            "s":{"type":"string","max_length":40,"pattern":"^[^x]*$"},"n":{"type":"number","default":0.5},
            "i":{"type":"integer","minimum":-5,"default":7},"b":{"type":"boolean","default":false},
            "a":{"type":"array","default":[],"max_items":3},"o":{"type":"object","default":{}}}"#,
        r#""messages":[{"role":"user","content":"{{ custom_id }}{{ messages }}"}],"variables":{
            "custom_id":{"enum":["a",1,null,[1]],"default":"a"},"messages":{"default":1}}"#,
    ]
    .map(|members| {
        let parsed = Template::parse(&format!(r#"{{"name":"fuzz",{members}}}"#));
        Arc::new(parsed.expect("the templates of this target are valid"))
    })
});

/// Rows as JSON lines.
///
/// # Panics
/// When a promise of this crate's rows does not hold; see [`rows`](self).
pub fn ndjson(input: &[u8]) {
    target(input, RowFormat::Ndjson);
}

/// Rows as CSV.
///
/// # Panics
/// As [`ndjson`].
pub fn csv(input: &[u8]) {
    target(input, RowFormat::Csv);
}

/// Rows are the same however their bytes come in; what is told of bad ones is bounded; good ones are stored and read back, and are the
/// same rows when they are written as JSON lines.
fn target(input: &[u8], format: RowFormat) {
    let Some((choice, bytes)) = input.split_first() else { return };
    let template = &TEMPLATES[usize::from(*choice) % 3];
    let kinds = match choice % 4 {
        0 => RowKinds::Variables,
        1 => RowKinds::Messages,
        _ => RowKinds::Either,
    };
    let reader = |limits| (template.clone(), kinds, limits);
    let told = read(bytes, format, reader(LIMITS));
    let piecewise = Pieces { bytes, size: usize::from(choice / 16) + 1 };
    assert!(told == read(piecewise, format, reader(LIMITS)), "rows that come in pieces are others");
    let good: Vec<StoredRow> = told.into_iter().filter_map(|told| told.row).collect();
    check_stored(&good);
    for row in good.iter().filter(|row| matches!(row.content, promptmill_rowio::RowContent::Variables(_))) {
        let id = serde_json::to_string(&row.custom_id).expect("an id is written into memory");
        let line = format!(r#"{{"custom_id":{id},"variables":{}}}"#, row.content.as_json());
        let again = read(line.as_bytes(), RowFormat::Ndjson, reader(RowLimits::default()));
        let again: Vec<Option<StoredRow>> = again.into_iter().map(|told| told.row).collect();
        assert_eq!(again, [Some(row.clone())], "a row that is written as JSON is another");
    }
}

/// A row as it was read, or what was told of it.
#[derive(Debug, PartialEq)]
struct Told {
    line: u64,
    row: Option<StoredRow>,
    problems: String,
}

type Against = (Arc<Template>, RowKinds, RowLimits);

/// Reads to the end; an error that ends the reading is told as one more bad row.
fn read(source: impl Read, format: RowFormat, (template, kinds, limits): Against) -> Vec<Told> {
    let mut reader = RowReader::new(source, format, template, limits).accepting(kinds).rendering();
    let mut told = Vec::new();
    let mut last = 0;
    loop {
        let (line, row, problems) = match reader.next_row() {
            Ok(None) => return told,
            Ok(Some(ReadRow::Row(row))) => {
                assert!(row.rendered.is_some(), "a good row renders");
                (row.line, Some(row.to_stored()), String::new())
            }
            Ok(Some(ReadRow::Bad(bad))) => {
                assert!((1..=52).contains(&bad.problems.len()), "{} problems", bad.problems.len());
                (bad.line, None, bad.to_string())
            }
            Err(error) => (u64::MAX, None, error.to_string()),
        };
        // Records that a lone CR ends stand on one line.
        assert!(line > last || (format == RowFormat::Csv && line == last), "lines go on");
        assert!(row.is_some() || (!problems.is_empty() && problems.len() <= 256 << 10), "{}", problems.len());
        last = line;
        told.push(Told { line, row, problems });
    }
}

/// What is stored is read back, as a whole and in part.
fn check_stored(rows: &[StoredRow]) {
    let mut builder = BlockBuilder::with_rows(5);
    let mut blocks: Vec<_> = rows.iter().filter_map(|row| builder.push(row)).collect();
    blocks.extend(builder.finish());
    let mut back = Vec::new();
    for block in &blocks {
        let rows = decode_block(&block.bytes).expect("a block of ours is read back");
        assert_eq!((rows.len(), back.len()), (block.len as usize, block.first_offset as usize));
        let last = decode_range(&block.bytes, rows.len() - 1, 1).expect("it has a last row");
        assert_eq!(last[..], rows[rows.len() - 1..]);
        back.extend(rows);
    }
    assert!(back == rows, "rows changed in the store");
}

/// Gives at most `size` bytes at once.
struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.size.min(buffer.len());
        self.bytes.read(&mut buffer[..most])
    }
}
