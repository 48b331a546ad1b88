//! Reading what stands at a URL that a tenant named, as far and as long as the caller wants it.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap};
use tokio::time::{Instant, timeout_at};

use crate::client::{GuardedClient, SendError, classified};
use crate::policy::vet_url;

/// The slowest a server may send on the long run, bytes a second: one that drips holds a place of others.
const LEAST_PACE: u64 = 1024;

/// How long a reading may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From one sign of life to the next: the headers, and each piece of the body.
    pub idle: Duration,
    /// From the start to the end of the body.
    pub total: Duration,
}

/// An answer whose body is read while it comes. Dropping it closes the connection.
#[derive(Debug)]
pub struct Fetched {
    response: Response,
    patience: Patience,
    deadline: Instant,
    /// When the headers came.
    headed: Instant,
    bytes: u64,
}

impl GuardedClient {
    /// Asks for what stands at `url`. Any status is an answer; redirects are not followed. The body may come packed with gzip or zstd, and is handed on as it comes.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn get(&self, url: &str, headers: HeaderMap, patience: Patience) -> Result<Fetched, SendError> {
        let started = Instant::now();
        // Again at every call: the policy may be stricter than on the day the URL was stored.
        let url = vet_url(url, self.policy())?;
        let request = self.client().get(url).headers(headers).header(ACCEPT_ENCODING, "gzip, zstd");
        let by = started + patience.total.min(patience.idle);
        match timeout_at(by, request.send()).await {
            Ok(Ok(response)) => {
                let (deadline, headed) = (started + patience.total, Instant::now());
                Ok(Fetched { response, patience, deadline, headed, bytes: 0 })
            }
            Ok(Err(error)) => Err(classified(&error)),
            Err(_) => Err(SendError::Timeout),
        }
    }
}

impl Fetched {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The headers of the answer.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// When all of the body must have come.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// `Timeout` when none came in time, or all together come too slowly, `Protocol` when the connection broke before the end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, SendError> {
        let now = Instant::now();
        let paced = self.headed + 2 * self.patience.idle + Duration::from_secs(self.bytes / LEAST_PACE);
        let by = self.deadline.min(now + self.patience.idle).min(paced);
        // A piece that is there already would come in time for any deadline.
        if now >= by {
            return Err(SendError::Timeout);
        }
        match timeout_at(by, self.response.chunk()).await {
            Ok(Ok(piece)) => {
                self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
                Ok(piece)
            }
            Ok(Err(error)) => Err(classified(&error)),
            Err(_) => Err(SendError::Timeout),
        }
    }
}
