//! The body of an upload, handed to the blocking side piece by piece as fast as that takes them.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use promptmill_intake::Piece;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::App;
use crate::extract::cut_off;
use crate::problem::{Problem, ProblemId};

/// Pieces on their way.
const PIECES_IN_FLIGHT: usize = 8;

/// Bytes that are read and dropped behind an error, so that a client which first sends everything gets to read the answer.
const DROPPED_BYTES: u64 = 256 << 20;

/// The slowest a client may send on the long run, bytes a second: behind that, rows would hold a place for days.
const LEAST_PACE: u64 = 1024;

/// Patience with a client: with each wait, and with all of them together for what it sent.
struct Patience {
    idle: Duration,
    waited: Duration,
    bytes: u64,
}

impl Patience {
    fn new(app: &App) -> Self {
        Self { idle: app.config().upload_idle, waited: Duration::ZERO, bytes: 0 }
    }

    /// The next bytes of the body, `None` at its end. Only the time that the client takes counts, not what others make it wait.
    async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, Problem> {
        let all = self.idle + Duration::from_secs(self.bytes / LEAST_PACE);
        let left = all.saturating_sub(self.waited).min(self.idle);
        let begun = Instant::now();
        let frame = timeout(left, body.frame()).await.map_err(|_| too_slow())?;
        self.waited += begun.elapsed();
        let Some(frame) = frame else { return Ok(None) };
        let data = frame.map_err(|_| cut_off())?.into_data().unwrap_or_default();
        self.bytes += data.len() as u64;
        Ok(Some(data))
    }
}

/// A channel of the length that fits [`feed`].
pub(crate) fn channel() -> (mpsc::Sender<Piece>, mpsc::Receiver<Piece>) {
    mpsc::channel(PIECES_IN_FLIGHT)
}

/// Hands the whole body on. When nobody takes it any more, what follows is dropped; that is no error, whoever took it knows why.
///
/// The end is told only behind a body that was complete: a handler that is dropped with its connection tells none.
///
/// # Errors
/// `payload_too_large` beyond the most bytes of a part, `request_timeout` when the client is too slow, `bad_request` when it
/// breaks off.
pub(crate) async fn feed(app: &App, mut body: Body, pieces: mpsc::Sender<Piece>) -> Result<(), Problem> {
    let mut patience = Patience::new(app);
    let mut dropped = 0;
    while let Some(data) = patience.next(&mut body).await? {
        let len = data.len() as u64;
        if patience.bytes > app.config().part_bytes {
            return Err(too_large(app));
        }
        if data.is_empty() || pieces.send(Piece::Data(data)).await.is_ok() {
            continue;
        }
        dropped += len;
        if dropped > DROPPED_BYTES {
            return Ok(());
        }
    }
    // Nobody takes it when reading failed before.
    let _ = pieces.send(Piece::End).await;
    Ok(())
}

/// Reads and drops the body of an upload that is refused before any of it was read, within the same bounds. A client that waits to be told
/// to send (`Expect`) is left waiting, and reads the refusal at once.
pub(crate) async fn drop_rest(app: &App, headers: &HeaderMap, mut body: Body) {
    let mut patience = Patience::new(app);
    while patience.bytes < DROPPED_BYTES && !headers.contains_key(header::EXPECT) {
        if !matches!(patience.next(&mut body).await, Ok(Some(_))) {
            return;
        }
    }
}

fn too_slow() -> Problem {
    Problem::new(ProblemId::RequestTimeout).detail("the body came too slowly; nothing was stored")
}

/// What is said of a part with too many bytes on the wire.
pub(crate) fn too_large(app: &App) -> Problem {
    let most = app.config().part_bytes;
    Problem::new(ProblemId::PayloadTooLarge).detail(format!("a part has at most {most} bytes as it is sent"))
}

#[cfg(test)]
mod tests;
