//! The line that closes JSON Lines, so that a reader can tell all there was from a connection that broke.

use serde::Serialize;

/// What the closing line says; serialised, it is that line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ResultsEnd<'a> {
    /// How many outcomes stand before it.
    pub count: u64,
    /// The batch's state when the last of them was read.
    pub state: &'a str,
    /// Whether these are all there will ever be of what was asked for.
    pub complete: bool,
    /// Where to read on, where outcomes come in the order in which they settle.
    pub cursor: Option<&'a str>,
}

/// The line as it is written: `_end` first, by which it is told from an outcome.
#[derive(Serialize)]
pub(super) struct EndLine<'a> {
    #[serde(rename = "_end")]
    pub(super) is_end: bool,
    #[serde(flatten)]
    pub(super) end: ResultsEnd<'a>,
}
