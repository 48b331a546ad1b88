//! The bytes of an upload on the blocking side: pieces of a body become a [`Read`], unpacked as its `Content-Encoding` says.
//!
//! Nothing here holds more than one piece and a decoder's window. What breaks is told as a [`Broken`] inside the `io::Error`, so that a
//! body that was cut is never taken for one that ended.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use crate::refused::{Broken, MAX_RATIO, RATIO_FROM};

/// The largest zstd window, as a power of two: 8 MiB, what RFC 8878 asks every decoder to take.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Identity,
    /// gzip, of any number of members.
    Gzip,
    /// zstd, of any number of frames.
    Zstd,
}

impl Packing {
    /// What a `Content-Encoding` names; `None` where it is none of these.
    pub fn named(coding: &str) -> Option<Self> {
        let known = [
            ("identity", Self::Identity),
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("zstd", Self::Zstd),
        ];
        known.into_iter().find_map(|(name, packing)| coding.eq_ignore_ascii_case(name).then_some(packing))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// A piece of a body on its way to the blocking side.
pub enum Piece {
    /// Its next bytes.
    Data(Bytes),
    /// It is complete. A channel that closes without this was cut.
    End,
}

/// The unpacked bytes of the body whose pieces come through `pieces`.
///
/// # Errors
/// When no decoder can be made.
pub fn unpacked(pieces: mpsc::Receiver<Piece>, packing: Packing) -> io::Result<Box<dyn Read + Send>> {
    let taken = Arc::new(AtomicU64::new(0));
    let pieces = Pieces { pieces, at_hand: Bytes::new(), ended: false, taken: taken.clone() };
    let unpacking: Box<dyn Read + Send> = match packing {
        Packing::Identity => return Ok(Box::new(pieces)),
        Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(pieces)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(pieces)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Guarded { unpacking, packing, taken, given: 0 }))
}

/// Pieces as a reader.
struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    at_hand: Bytes,
    ended: bool,
    /// Bytes given so far, for whoever guards what they unfold to.
    taken: Arc<AtomicU64>,
}

impl Read for Pieces {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        while self.at_hand.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(bytes)) => self.at_hand = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(Broken::Cut.into()),
            }
        }
        let len = target.len().min(self.at_hand.len());
        self.at_hand.copy_to_slice(&mut target[..len]);
        self.taken.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// A decoder that is stopped when it makes too much of too little.
struct Guarded {
    unpacking: Box<dyn Read + Send>,
    packing: Packing,
    taken: Arc<AtomicU64>,
    given: u64,
}

impl Read for Guarded {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let len = match self.unpacking.read(target) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<Broken>()).is_some();
                return Err(if ours { error } else { Broken::Corrupt(self.packing.name()).into() });
            }
        };
        self.given += len as u64;
        let most = self.taken.load(Ordering::Relaxed).saturating_mul(MAX_RATIO);
        if self.given > RATIO_FROM && self.given > most {
            return Err(Broken::Bomb.into());
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
