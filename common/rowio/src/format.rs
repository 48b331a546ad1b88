//! The two forms rows come in, and how a file name or a flag tells which.

use std::path::Path;
use std::str::FromStr;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowFormat {
    /// One JSON object per line (NDJSON, also called JSON Lines).
    Ndjson,
    /// Comma separated values (RFC 4180) with a header row of variable names.
    Csv,
}

/// A file name or word that does not tell one of our formats.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {FORMATS}{hint}")]
pub struct UnknownFormat {
    what: String,
    hint: &'static str,
}

const FORMATS: &str =
    "jsonl or ndjson (one JSON object per line) or csv (comma separated, with a header row)";

impl RowFormat {
    /// The format a file name's extension (`.jsonl`, `.ndjson`, `.csv`, in any case) tells.
    ///
    /// # Errors
    /// Any other extension, or none; the text lists the extensions and, for common mistakes, the way out.
    pub fn from_path(path: &Path) -> Result<Self, UnknownFormat> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        extension.parse().map_err(|unknown: UnknownFormat| {
            let name = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
            UnknownFormat { what: format!("the name {name:?} does not tell the format"), hint: unknown.hint }
        })
    }

    /// The format a media type names, with or without its parameters.
    pub fn from_media_type(kind: &str) -> Option<Self> {
        match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Self::Ndjson),
            "text/csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// The usual file extension, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Ndjson => "jsonl",
            Self::Csv => "csv",
        }
    }
}

impl FromStr for RowFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hint = match text {
            "jsonl" | "ndjson" => return Ok(Self::Ndjson),
            "csv" => return Ok(Self::Csv),
            "json" => "; a JSON array becomes rows with one object per line",
            "tsv" | "tab" => "; tab separated values are not read, save them with commas",
            "xls" | "xlsx" | "ods" => "; save the sheet as CSV (UTF-8)",
            "gz" | "zst" | "zip" | "bz2" | "xz" => "; unpack the file first",
            _ => "",
        };
        let shown: String = text.chars().take(40).collect();
        Err(UnknownFormat { what: format!("{shown:?} is not a format of rows"), hint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_tells_the_format_by_its_extension() {
        for (name, format) in [
            ("rows.jsonl", RowFormat::Ndjson),
            ("a.b/rows.NDJSON", RowFormat::Ndjson),
            ("rows.csv", RowFormat::Csv),
            ("rows.x.CSV", RowFormat::Csv),
        ] {
            assert_eq!(RowFormat::from_path(Path::new(name)), Ok(format), "{name}");
        }
    }

    #[test]
    fn a_media_type_tells_the_format_whatever_its_parameters() {
        assert_eq!(RowFormat::from_media_type("text/csv; charset=utf-8"), Some(RowFormat::Csv));
        assert_eq!(RowFormat::from_media_type(" Application/X-NDJSON "), Some(RowFormat::Ndjson));
        for other in ["", "text/plain", "application/json", "text/csvx"] {
            assert_eq!(RowFormat::from_media_type(other), None, "{other}");
        }
    }

    #[test]
    fn an_unknown_extension_is_answered_with_the_known_ones() {
        let text = |name: &str| RowFormat::from_path(Path::new(name)).unwrap_err().to_string();
        for name in ["rows", "rows.txt", ".csv", "", "rows."] {
            let text = text(name);
            assert!(["jsonl", "ndjson", "csv"].iter().all(|e| text.contains(e)), "{text}");
        }
        assert!(text("rows.json").contains("one object per line"));
        assert!(text("rows.xlsx").contains("save the sheet as CSV"));
        assert!(text("rows.csv.gz").contains("unpack"));
    }
}
