//! Rows that a server gives: asked for with the tag of those that are known, and handed on while they come.

use std::path::Path;

use promptmill_domain::schedule::HttpFormat;
use promptmill_egress::{Fetched, GuardedClient, HeaderMap, Patience, SendError, Url};
use promptmill_rowio::RowFormat;
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use crate::inflate::{Packing, Piece};

/// The longest entity tag that is kept.
const TAG_BYTES: usize = 1024;

/// What a server is asked for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Where the rows are.
    pub url: &'a str,
    /// Headers of the request beside the usual.
    pub headers: HeaderMap,
    /// How the rows are written; what the answer says where this does not.
    pub format: Option<HttpFormat>,
    /// The tag of the rows that are known.
    pub known: Option<&'a str>,
}

/// Rows on their way from a server.
#[derive(Debug)]
pub struct ServedRows {
    /// How they are written.
    pub format: RowFormat,
    /// How they are packed.
    pub packing: Packing,
    /// Their entity tag.
    pub etag: Option<String>,
    body: Fetched,
}

/// Why a server gave no rows. The words may be shown to whoever named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRows {
    /// It did not answer, or not to the end.
    #[error(transparent)]
    Unanswered(#[from] SendError),
    /// It answered with another status than 200.
    #[error("the server of the rows answered {0} (200 is needed; redirects are not followed)")]
    Status(u16),
    /// Neither its answer nor the URL says how they are written.
    #[error(
        "neither the Content-Type of the answer nor the end of the URL says how the rows are written; name the format, ndjson or csv"
    )]
    Format,
    /// There are more bytes of them than are read.
    #[error("there are more than {0} bytes of rows")]
    TooLarge(u64),
    /// They are packed in a way that was not asked for.
    #[error("the rows are packed otherwise than with gzip or zstd")]
    Packing,
}

impl NoRows {
    /// Whether asking again may help.
    pub const fn may_pass(self) -> bool {
        match self {
            Self::Unanswered(SendError::Refused(_)) | Self::Format | Self::TooLarge(_) | Self::Packing => {
                false
            }
            Self::Unanswered(_) | Self::Status(_) => true,
        }
    }
}

/// Asks a server for rows; `None` where they are those that are known.
///
/// # Errors
/// See [`NoRows`].
pub async fn served_rows(
    client: &GuardedClient,
    asked: Asked<'_>,
    patience: Patience,
) -> Result<Option<ServedRows>, NoRows> {
    use promptmill_egress::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
    let Asked { url, mut headers, format, known } = asked;
    headers.insert(
        ACCEPT,
        "application/x-ndjson, application/jsonl, text/csv, */*;q=0.5".parse().expect("it is plain"),
    );
    if let Some(known) = known.and_then(|known| known.parse().ok()) {
        headers.insert(IF_NONE_MATCH, known);
    }
    let is_conditional = headers.contains_key(IF_NONE_MATCH);
    let body = client.get(url, headers, patience).await?;
    match body.status() {
        200 => {}
        304 if is_conditional => return Ok(None),
        other => return Err(NoRows::Status(other)),
    }
    let told = |name| body.headers().get(name).and_then(|value| value.to_str().ok());
    let format = match format {
        Some(HttpFormat::Ndjson) => RowFormat::Ndjson,
        Some(HttpFormat::Csv) => RowFormat::Csv,
        None => format_of(told(CONTENT_TYPE), url).ok_or(NoRows::Format)?,
    };
    let packing = match told(CONTENT_ENCODING) {
        None => Packing::Identity,
        Some(coding) => Packing::named(coding.trim()).ok_or(NoRows::Packing)?,
    };
    let etag = told(ETAG).filter(|tag| tag.len() <= TAG_BYTES).map(str::to_owned);
    Ok(Some(ServedRows { format, packing, etag, body }))
}

/// How rows are written, by the answer's media type or by the end of the URL's path.
fn format_of(kind: Option<&str>, url: &str) -> Option<RowFormat> {
    if let Some(format) = kind.and_then(RowFormat::from_media_type) {
        return Some(format);
    }
    let url = Url::parse(url).ok()?;
    RowFormat::from_path(Path::new(url.path())).ok()
}

/// How far a body was handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedOn {
    /// To its end, which was handed on too.
    Whole,
    /// As far as somebody took it: whoever did knows why no further.
    Unwanted,
    /// As many bytes as were to be.
    Cut,
}

impl ServedRows {
    /// Hands the body on until it ends, or nobody takes it, or more than `most` bytes of it came.
    ///
    /// # Errors
    /// When it broke off or came too slowly, or whoever takes it did until the time was over.
    pub async fn hand_on(mut self, to: mpsc::Sender<Piece>, most: u64) -> Result<HandedOn, NoRows> {
        let deadline = self.body.deadline();
        let mut bytes: u64 = 0;
        while let Some(piece) = self.body.piece().await? {
            bytes += piece.len() as u64;
            match timeout_at(deadline, to.send(Piece::Data(piece))).await {
                Ok(Ok(())) if bytes > most => return Ok(HandedOn::Cut),
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(HandedOn::Unwanted),
                Err(_) => return Err(SendError::Timeout.into()),
            }
        }
        Ok(if to.send(Piece::End).await.is_ok() { HandedOn::Whole } else { HandedOn::Unwanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_how_rows_are_written_and_the_url_where_it_does_not() {
        let (json, csv) = (Some(RowFormat::Ndjson), Some(RowFormat::Csv));
        let told = |kind, url| format_of(kind, url);
        assert_eq!(told(Some("text/csv; charset=utf-8"), "https://a.example/rows.jsonl"), csv);
        assert_eq!(told(Some("application/jsonl"), "https://a.example/"), json);
        assert_eq!(told(Some("text/plain"), "https://a.example/a/rows.CSV?day=1.jsonl"), csv);
        assert_eq!(told(None, "https://a.example/rows.jsonl#x"), json);
        assert_eq!(told(Some("application/json"), "https://a.example/rows"), None);
    }
}
