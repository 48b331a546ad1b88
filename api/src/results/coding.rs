//! Content codings: which one a client wants, and a writer that encodes into memory which the reader takes away as it grows.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flate2::Compression;
use flate2::write::GzEncoder;

const ZSTD_LEVEL: i32 = 1;
/// 128 KiB; with the window of the level every reading would hold a mebibyte more.
const ZSTD_WINDOW_LOG: u32 = 17;

/// A content coding we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// The name in `Content-Encoding`; `None` where the header is left out.
    pub(crate) const fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// The coding that the values of `Accept-Encoding` like best (RFC 9110, 12.5.3): by weight, and among equals zstd, then
    /// gzip. `None` when none of ours is acceptable.
    pub(crate) fn choose<'a>(accept: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let (mut gzip, mut zstd, mut identity, mut any) = (None, None, None, None);
        for part in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut pieces = part.split(';').map(str::trim);
            let name = pieces.next().unwrap_or_default().to_ascii_lowercase();
            let weight = pieces.find_map(weight).unwrap_or(1000);
            match name.as_str() {
                "gzip" | "x-gzip" => gzip = Some(weight),
                "zstd" => zstd = Some(weight),
                "identity" => identity = Some(weight),
                "*" => any = Some(weight),
                _ => {}
            }
        }
        // What is not named weighs what `*` says; identity stays acceptable unless it is refused.
        let gzip = gzip.or(any).unwrap_or(0);
        let zstd = zstd.or(any).unwrap_or(0);
        let identity_refused = identity.or(any) == Some(0);
        let identity = identity.unwrap_or(0);
        let best = gzip.max(zstd).max(identity);
        if best == 0 {
            return (!identity_refused).then_some(Self::Identity);
        }
        Some(if zstd == best {
            Self::Zstd
        } else if gzip == best {
            Self::Gzip
        } else {
            Self::Identity
        })
    }
}

/// A weight `q=0.5` in thousandths; `None` for another parameter. What is no number weighs nothing.
pub(crate) fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value = value.trim().parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
    Some((value * 1000.0) as u16)
}

/// Memory that one side writes and the other empties.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pipe(Arc<Mutex<PipeState>>);

#[derive(Debug, Default)]
struct PipeState {
    bytes: Vec<u8>,
    entered: u64,
}

impl Pipe {
    /// What was written since the last time, coded.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.state().bytes)
    }

    /// How much was ever written, before it was coded.
    pub(crate) fn entered(&self) -> u64 {
        self.state().entered
    }

    fn state(&self) -> MutexGuard<'_, PipeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.state().bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Encodes what is written to it. Call [`Encoded::finish`], or the end is missing.
pub(crate) struct Encoded {
    pipe: Pipe,
    coder: Coder,
}

enum Coder {
    Identity(Pipe),
    Gzip(GzEncoder<Pipe>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Pipe>>),
}

impl Encoded {
    /// A writer whose output comes out of `pipe`.
    ///
    /// # Errors
    /// When there is no memory for the coding's window.
    pub(crate) fn new(coding: Coding, pipe: Pipe) -> io::Result<Self> {
        let to = pipe.clone();
        let coder = match coding {
            Coding::Identity => Coder::Identity(to),
            Coding::Gzip => Coder::Gzip(GzEncoder::new(to, Compression::fast())),
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(to, ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW_LOG)?;
                Coder::Zstd(Box::new(encoder))
            }
        };
        Ok(Self { pipe, coder })
    }

    /// Writes what the coding has still to write.
    ///
    /// # Errors
    /// The coding's.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self.coder {
            Coder::Identity(_) => {}
            Coder::Gzip(encoder) => drop(encoder.finish()?),
            Coder::Zstd(encoder) => drop(encoder.finish()?),
        }
        Ok(())
    }
}

impl Write for Encoded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.coder {
            Coder::Identity(pipe) => pipe.write(bytes),
            Coder::Gzip(encoder) => encoder.write(bytes),
            Coder::Zstd(encoder) => encoder.write(bytes),
        }?;
        self.pipe.state().entered += written as u64;
        Ok(written)
    }

    /// Nothing: a flush in the middle would cost compression, and whoever reads waits for the end anyway.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
