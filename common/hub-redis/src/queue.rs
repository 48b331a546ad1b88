//! Hints: one sorted set, the most urgent first.

use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use promptmill_domain::{BatchId, ChunkId};
use promptmill_ports::{HubError, Queue};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::hub::RedisHub;

/// A script stands in the way of everybody else's commands, so a push of many is many scripts.
const HINTS_A_SCRIPT: usize = 500;
/// A server waits no longer than that before it says that nothing came, so that one that is gone is noticed.
const WAITS_AT_A_TIME: Duration = Duration::from_secs(5);
/// What such an answer may take beyond.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// Scores of one priority, as the script that pushes has it.
const ARRIVALS: f64 = 137_438_953_472.0;
/// Connections that wait for hints and are kept for the next one who waits.
const KEPT_CONNECTIONS: usize = 8;

#[async_trait]
impl Queue for RedisHub {
    async fn push(&self, hints: &[(ChunkId, i16)]) -> Result<(), HubError> {
        let keys = [self.keys.hints.as_str(), self.keys.arrivals.as_str()];
        for part in hints.chunks(HINTS_A_SCRIPT) {
            let mut args: Vec<Vec<u8>> = Vec::with_capacity(2 * part.len());
            for (chunk, priority) in part {
                args.push(member(*chunk).to_vec());
                args.push(order(*priority).to_string().into_bytes());
            }
            let () = self.scripts.push.call(&self.link, &keys, &args).await?;
        }
        Ok(())
    }

    async fn pop(&self, limit: usize, wait: Duration) -> Result<Vec<(ChunkId, i16)>, HubError> {
        let deadline = Instant::now() + wait;
        let mut taken = self.take(limit).await?;
        if !taken.is_empty() || limit == 0 || wait.is_zero() {
            return Ok(taken);
        }
        let Some(first) = self.wait_for_hint(deadline).await? else { return Ok(taken) };
        taken.push(first);
        // What was taken must not be lost with an error of what could be taken besides.
        if limit > 1
            && let Ok(more) = self.take(limit - 1).await
        {
            taken.extend(more);
        }
        Ok(taken)
    }

    async fn depth(&self) -> Result<usize, HubError> {
        self.link.ask(redis::cmd("ZCARD").arg(&self.keys.hints)).await
    }
}

impl RedisHub {
    async fn take(&self, limit: usize) -> Result<Vec<(ChunkId, i16)>, HubError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let taken: Vec<(Vec<u8>, f64)> =
            self.link.ask(redis::cmd("ZPOPMIN").arg(&self.keys.hints).arg(limit)).await?;
        Ok(taken.iter().filter_map(|(member, score)| hint(member, *score)).collect())
    }

    /// Waits on a connection of its own, which is closed when the caller no longer waits.
    async fn wait_for_hint(&self, deadline: Instant) -> Result<Option<(ChunkId, i16)>, HubError> {
        let mut connection = self.waiting_connection().await?;
        loop {
            // Less than a millisecond would mean to some servers that they wait for ever.
            let left = deadline.duration_since(Instant::now()).max(Duration::from_millis(1));
            let wait = left.min(WAITS_AT_A_TIME);
            let mut command = redis::cmd("BZPOPMIN");
            command.arg(&self.keys.hints).arg(format!("{:.3}", wait.as_secs_f64()));
            let answer = connection.request(&command).await.map_err(|error| self.link.unavailable(&error))?;
            let came: Option<(Vec<u8>, Vec<u8>, f64)> = self.link.read(answer)?;
            let hint = came.and_then(|(_, member, score)| self::hint(&member, score));
            if hint.is_some() || left <= WAITS_AT_A_TIME {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() < KEPT_CONNECTIONS {
                    idle.push(connection);
                }
                return Ok(hint);
            }
        }
    }

    async fn waiting_connection(&self) -> Result<Connection, HubError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // One that broke while it lay idle would fail the first wait after every restart of the server.
        if let Some(mut connection) = idle
            && connection.request(&redis::cmd("PING")).await.is_ok()
        {
            return Ok(connection);
        }
        let answers_within = WAITS_AT_A_TIME + ANSWERS_WITHIN;
        self.link.target().connect(answers_within).await.map_err(|error| self.link.unavailable(&error))
    }
}

/// A chunk as it stands in the set.
fn member(chunk: ChunkId) -> [u8; 20] {
    let mut member = [0; 20];
    member[..16].copy_from_slice(chunk.batch.as_bytes());
    member[16..].copy_from_slice(&chunk.n.to_be_bytes());
    member
}

/// What is no chunk was put there by somebody else, and is nobody's hint.
fn chunk(member: &[u8]) -> Option<ChunkId> {
    let (batch, n) = member.split_first_chunk()?;
    Some(ChunkId { batch: BatchId::from_bytes(*batch), n: u32::from_be_bytes(n.try_into().ok()?) })
}

/// A hint as it stands in the set, with the priority in its score (see the script that pushes).
fn hint(member: &[u8], score: f64) -> Option<(ChunkId, i16)> {
    let order = (score / ARRIVALS).floor().clamp(0.0, u16::MAX.into());
    let priority = i32::from(i16::MAX) - order as i32;
    Some((chunk(member)?, i16::try_from(priority).unwrap_or(i16::MIN)))
}

/// Priorities from the most urgent, 0, to the least, 65535.
fn order(priority: i16) -> u32 {
    i16::MAX.abs_diff(priority).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_survives_its_place_in_the_set() {
        let hint = ChunkId { batch: BatchId::from_bytes([7; 16]), n: 0x0102_0304 };
        assert_eq!(chunk(&member(hint)), Some(hint));
        assert_eq!(chunk(b"somebody else's"), None);
        assert_eq!(chunk(&[0; 21]), None);
    }

    #[test]
    fn a_score_tells_the_priority_whatever_the_arrival() {
        let chunk = ChunkId { batch: BatchId::from_bytes([7; 16]), n: 1 };
        for priority in [i16::MAX, 100, 1, 0, -1, -5_000, i16::MIN] {
            for arrival in [0.0, 1.0, ARRIVALS - 1.0] {
                let score = f64::from(order(priority)) * ARRIVALS + arrival;
                assert_eq!(hint(&member(chunk), score), Some((chunk, priority)));
            }
        }
        assert_eq!(hint(b"somebody else's", 0.0), None);
    }

    #[test]
    fn a_larger_priority_has_a_smaller_order() {
        assert_eq!([i16::MAX, 1, 0, -1, i16::MIN].map(order), [0, 32_766, 32_767, 32_768, 65_535]);
    }
}
