//! A connection that can be reset on purpose and that knows when a reply has been handed to the kernel.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::ledger::RunningCall;

/// What a connection and the replies on it share.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Closing sends a reset.
    pub(crate) reset: AtomicBool,
    /// The call whose reply is complete in hyper's buffer.
    leaving: Mutex<Option<RunningCall>>,
}

impl Line {
    /// The write that empties hyper's buffer delivers the reply of `call`.
    pub(crate) fn deliver_with_next_write(&self, call: RunningCall) {
        *self.leaving.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    line: Arc<Line>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, line: Arc<Line>) -> Self {
        Self { stream, line }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    /// Without vectored writes hyper hands over its whole buffer, so a write that takes all of it takes the reply.
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut leaving = this.line.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(call) = leaving.take() else {
            drop(leaving);
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        };
        let (unfinished, written) = call.deliver(|| {
            let written = Pin::new(&mut this.stream).poll_write(context, bytes);
            (matches!(written, Poll::Ready(Ok(length)) if length == bytes.len()), written)
        });
        *leaving = unfinished;
        drop(leaving);
        Poll::Ready(ready!(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.line.reset.load(Ordering::Relaxed) {
            // An orderly end first would be all the caller sees.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.line.reset.load(Ordering::Relaxed) {
            // Closing with zero linger time is what makes TCP send a reset; without it the caller sees an early end.
            let _ = self.stream.set_zero_linger();
        }
    }
}
