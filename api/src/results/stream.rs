//! The body of an answer: pulled by the connection, so a slow reader holds one page and one step's pieces, and nothing else. One that takes
//! too long for a piece holds nothing: a connection lives on while its reader takes a byte now and then.
//!
//! An error in the middle breaks the connection off; a body that ends as the protocol says is whole.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use promptmill_domain::BatchId;
use promptmill_ports::StoreError;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::cursor::{self, Position};
use super::encode::{ChunkIds, EncodeError, Encoder, End, Step};
use super::source::{Shelf, Source, SourcePage};
use crate::heavy::holding;
use crate::problem::chain;

/// What an answer is made of.
pub(super) struct Answer {
    /// The batch it is about.
    pub(super) batch: BatchId,
    /// Where its lines come from.
    pub(super) source: Source,
    /// By whom rows are looked up; the batch is that of the line.
    pub(super) shelf: Shelf,
    /// What was read before the answer began.
    pub(super) page: SourcePage,
    /// Outcomes that may be written.
    pub(super) left: u64,
    /// How it is closed, where a closing line is asked for.
    pub(super) closing: Option<Closing>,
}

/// What a closing line says of the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    /// The name of its state when the reading began.
    pub(super) state: &'static str,
    /// Whether that is a final one.
    pub(super) is_final: bool,
    /// What its cursors count.
    pub(super) kind: Position,
}

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the outcomes cannot be read")]
    Store(#[from] StoreError),
    #[error("a stored outcome cannot be written")]
    Encode(#[from] EncodeError),
    #[error("the encoder died")]
    Died(#[from] tokio::task::JoinError),
}

/// The bytes of an answer.
pub(super) fn bytes(
    answer: Answer,
    encoder: Encoder,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let batch = answer.batch;
    let producer =
        Producer { answer, encoder: Some(encoder), ids: ChunkIds::default(), ready: VecDeque::new() };
    stream::unfold(Some(producer), move |producer| async move {
        let mut producer = producer?;
        match producer.next().await {
            Ok(piece) => piece.map(|piece| (Ok(piece), Some(producer))),
            Err(broken) => {
                tracing::error!(batch.id = %batch, error = chain(&broken), "an answer with outcomes broke off");
                // Whoever reads sees the connection end early; the cause is for our log alone.
                Some((Err(io::Error::other("the answer broke off")), None))
            }
        }
    })
}

/// `bytes`, made by a task of their own that ends when nobody takes a piece within `patience`; what it holds goes with it, `held` too. An answer
/// that was given up breaks off.
pub(super) fn given_up_when_stalled<T: Send + 'static>(
    bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    patience: Duration,
    held: T,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (send, pieces) = mpsc::channel(1);
    tokio::spawn(async move {
        let _held = held;
        let mut bytes = std::pin::pin!(bytes);
        loop {
            let piece = bytes.next().await;
            let goes_on = matches!(piece, Some(Ok(_)));
            if !matches!(timeout(patience, send.send(piece)).await, Ok(Ok(()))) || !goes_on {
                return;
            }
        }
    });
    stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Some(Some(Err(error))) => Some((Err(error), None)),
            Some(None) => None,
            None => Some((Err(io::Error::other("the answer was given up")), None)),
        }
    })
}

struct Producer {
    answer: Answer,
    /// Gone once the stream of bytes is finished.
    encoder: Option<Encoder>,
    ids: ChunkIds,
    ready: VecDeque<Bytes>,
}

impl Producer {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            let Some(encoder) = self.encoder.take() else { return Ok(None) };
            if self.answer.left > 0 && self.answer.page.lines.is_empty() && !self.answer.page.last {
                self.encoder = Some(encoder);
                self.answer.page = self.answer.source.next().await?;
            } else if self.answer.left == 0 || self.answer.page.lines.is_empty() {
                let end = self.answer.end_line(&encoder);
                let Shelf { turns, tenant, .. } = &self.answer.shelf;
                self.ready = turns.work(tenant, move || encoder.finish(end.as_ref())).await??.into();
            } else {
                self.step(encoder).await?;
            }
        }
    }

    async fn step(&mut self, mut encoder: Encoder) -> Result<(), Broken> {
        let mut lines = std::mem::take(&mut self.answer.page.lines);
        let ids = std::mem::take(&mut self.ids);
        let most = self.answer.left;
        let before = encoder.written();
        let Shelf { store, tenant, turns, .. } = &self.answer.shelf;
        let (encoder, lines, ids, step) = turns
            .work(tenant, move || {
                let step = encoder.step(&mut lines, most, &ids);
                (encoder, lines, ids, step)
            })
            .await?;
        self.answer.left -= encoder.written() - before;
        self.ready.extend(encoder.pieces());
        (self.answer.page.lines, self.ids, self.encoder) = (lines, ids, Some(encoder));
        if let Step::NeedsRow { batch, index } = step? {
            let turn = turns.page(tenant).await;
            let block = store.rows(tenant, batch, index).await?;
            let read = holding(turn, move || ChunkIds::read(batch, &block)).await?;
            self.ids = read.map_err(EncodeError::from)?;
            if self.ids.get(batch, index).is_none() {
                return Err(StoreError::Corrupt("a chunk without the row it was found by".to_owned()).into());
            }
        }
        Ok(())
    }
}

impl Answer {
    fn end_line(&self, encoder: &Encoder) -> Option<End> {
        let Closing { state, is_final, kind } = self.closing?;
        let cut = !(self.page.last && self.page.lines.is_empty());
        let position = if cut { encoder.after() } else { self.source.position() };
        // In the order of the rows there is nothing to go on from once the end is reached.
        let goes_on = cut || kind == Position::Settled;
        let cursor = goes_on.then(|| cursor::encode(self.batch, kind, position));
        Some(End { state, complete: is_final && !cut, cursor })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pieces(n: usize) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::iter((0..n).map(|_| Ok(Bytes::from_static(b"piece"))))
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_for_too_long_holds_nothing_and_is_told_that_it_broke_off() {
        let patience = Duration::from_secs(60);
        let held = Arc::new(());
        let mut slow = Box::pin(given_up_when_stalled(pieces(9), patience, held.clone()));
        for _ in 0..9 {
            tokio::time::sleep(Duration::from_secs(59)).await;
            assert!(matches!(slow.next().await, Some(Ok(_))));
        }
        assert!(slow.next().await.is_none());

        let mut stalled = Box::pin(given_up_when_stalled(pieces(9), patience, held.clone()));
        assert!(matches!(stalled.next().await, Some(Ok(_))));
        tokio::time::sleep(2 * patience).await;
        assert_eq!(Arc::strong_count(&held), 1);
        let rest: Vec<_> = stalled.collect().await;
        assert!(rest.last().is_some_and(Result::is_err));
    }
}
