//! A connection that does not wait for ever: not for the first bytes of a client, and not for a client that takes nothing of what is
//! written to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What every HTTP/2 connection begins with. While all that came is the beginning of it, nobody reads headers yet, so the time for headers
/// does not run yet either.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Fails with `TimedOut` when the client does not say in time which protocol it speaks, or when nothing could be written for long although
/// there is something to write.
pub(super) struct Patience<S> {
    stream: S,
    patience: Duration,
    /// Runs until the protocol is known, with how much of the preface came.
    opening: Option<(Pin<Box<Sleep>>, usize)>,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patience<S> {
    /// `for_opening` until the protocol is known, `for_writes` for each write.
    pub(super) fn new(stream: S, for_opening: Duration, for_writes: Duration) -> Self {
        let opening = Some((Box::pin(sleep(for_opening)), 0));
        Self { stream, patience: for_writes, opening, waiting: None }
    }

    /// `result`, or a timeout when writes have been pending for too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = None;
            return result;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        waiting.as_mut().reset(Instant::now() + patience);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patience<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let had = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some((deadline, came)) = &mut self.opening else {
            return result;
        };
        if result.is_pending() {
            ready!(deadline.as_mut().poll(cx));
            let words = "the client does not say what it speaks";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, words)));
        }
        let new = &buffer.filled()[had..];
        let is_preface = PREFACE[*came..].starts_with(new);
        *came += new.len();
        if !is_preface || *came == PREFACE.len() {
            self.opening = None;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patience<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut near = Patience::new(near, Duration::from_secs(10), Duration::from_secs(60));
        let slow = tokio::spawn(async move {
            let mut taken = [0; 1];
            for _ in 0..16 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                far.read_exact(&mut taken).await.unwrap();
            }
            far
        });
        near.write_all(&[0; 16]).await.unwrap();
        let _far = slow.await.unwrap();
        near.write_all(&[0; 8]).await.unwrap();
        let error = near.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_say_what_it_speaks_is_given_up() {
        for (sent, is_given_up) in [(&b""[..], true), (b"PRI * HT", true), (b"P0", false), (PREFACE, false)] {
            let (near, mut far) = tokio::io::duplex(64);
            let mut near = Patience::new(near, Duration::from_secs(10), Duration::from_secs(60));
            far.write_all(sent).await.unwrap();
            let mut taken = vec![0; sent.len()];
            near.read_exact(&mut taken).await.unwrap();
            let more = tokio::time::timeout(Duration::from_secs(1_000), near.read(&mut [0; 1])).await;
            assert_eq!(matches!(more, Ok(Err(_))), is_given_up, "{sent:?}");
        }
    }
}
