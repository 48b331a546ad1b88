//! The text of a reply as it comes in pieces: kept up to its limit, and told to whoever wants to see it come.

use crate::chat::{Delta, DeltaSink};
use crate::reply;

/// A reply's text so far.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    content: String,
    cut: bool,
    deltas: Option<DeltaSink>,
}

impl Gathered {
    /// Nothing yet; every piece that is kept goes to `deltas` as well.
    pub(crate) fn telling(deltas: Option<DeltaSink>) -> Self {
        Self { deltas, ..Self::default() }
    }

    /// Adds a piece. What is told over all pieces is exactly what is kept.
    pub(crate) fn push(&mut self, piece: &str) {
        // What is not kept is not gathered either; the stream is still read to its end for the counts.
        if self.cut || piece.is_empty() {
            return;
        }
        let before = self.content.len();
        self.content.push_str(piece);
        self.cut = reply::cut(&mut self.content);
        if let Some(deltas) = &self.deltas
            && self.content.len() > before
        {
            deltas.send(Delta::Text(&self.content[before..]));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// The text, and whether its end is missing.
    pub(crate) fn take(&mut self) -> (String, bool) {
        (std::mem::take(&mut self.content), self.cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_REPLY_CONTENT_BYTES;
    use crate::tests_support::listening;

    #[test]
    fn what_is_told_is_what_is_kept() {
        let (sink, told) = listening();
        let mut gathered = Gathered::telling(Some(sink));
        let piece = "äöü".repeat(100_000);
        for piece in ["", &piece, "x", &piece, "never"] {
            gathered.push(piece);
        }
        let (content, cut) = gathered.take();
        assert!(
            cut && content.len() <= MAX_REPLY_CONTENT_BYTES && content.len() > MAX_REPLY_CONTENT_BYTES - 2
        );
        assert_eq!(told.lock().unwrap().concat(), content);
    }
}
