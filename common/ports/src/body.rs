//! The stored form of an outcome and of a kept reply: a byte that names the coding, then JSON, compressed where it pays.
//!
//! Stores treat it as opaque bytes, so both of them can be read by the same code.

use std::borrow::Cow;
use std::io::Read as _;

use bytes::Bytes;
use promptmill_domain::{Ending, Outcome, Output};

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Bodies shorter than this are not compressed: a frame of its own saves little there and costs an eighth of the CPU of an item.
const COMPRESS_FROM: usize = 1024;

/// About what an outcome of one call takes beside its output.
const BESIDE_OUTPUT: usize = 384;

/// The most bytes a body may unfold to. A reply is kept up to 1 MiB and a history up to 4 MiB.
const MAX_BODY: u64 = 16 * 1024 * 1024;

/// A stored body that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored outcome cannot be read")]
pub struct CorruptBody;

thread_local! {
    // Creating a compressor costs more than compressing a small body with it.
    static COMPRESSOR: std::cell::RefCell<Option<zstd::bulk::Compressor<'static>>> = const { std::cell::RefCell::new(None) };
}

/// Encodes an outcome for storage.
pub fn encode_outcome(outcome: &Outcome) -> Bytes {
    let output = match &outcome.ending {
        Ending::Succeeded { output: Output::Json(json), .. } => json.get().len(),
        Ending::Succeeded { output: Output::Text(text), .. } => text.len(),
        _ => 0,
    };
    encode_body(output + BESIDE_OUTPUT, |body| {
        serde_json::to_writer(body, outcome)
            .expect("an outcome has string keys only, and a vector takes every write");
    })
}

/// Encodes what `write` writes, about `len` bytes, for storage.
pub fn encode_body(len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut body = Vec::with_capacity(len + 1);
    body.push(PLAIN);
    write(&mut body);
    match compress(&body[1..]) {
        Some(frame) => {
            let mut coded = Vec::with_capacity(frame.len() + 1);
            coded.push(ZSTD);
            coded.extend_from_slice(&frame);
            coded.into()
        }
        None => body.into(),
    }
}

/// A zstd frame of these bytes, where there are enough of them that it is shorter.
pub fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < COMPRESS_FROM {
        return None;
    }
    let frame = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(1).ok();
        }
        slot.as_mut().and_then(|compressor| compressor.compress(bytes).ok())
    });
    frame.filter(|frame| frame.len() < bytes.len())
}

/// The bytes of such a frame, which are `len`.
///
/// # Errors
/// It is none, or has another number of bytes.
pub fn decompress(frame: &[u8], len: usize) -> Result<Vec<u8>, CorruptBody> {
    let bytes = zstd::bulk::decompress(frame, len).map_err(|_| CorruptBody)?;
    if bytes.len() == len { Ok(bytes) } else { Err(CorruptBody) }
}

/// Decodes a stored outcome.
pub fn decode_outcome(body: &[u8]) -> Result<Outcome, CorruptBody> {
    serde_json::from_slice(&decode_body(body)?).map_err(|_| CorruptBody)
}

/// What was written to a stored body.
///
/// # Errors
/// It is none.
pub fn decode_body(body: &[u8]) -> Result<Cow<'_, [u8]>, CorruptBody> {
    match body.split_first() {
        Some((&PLAIN, written)) => Ok(written.into()),
        Some((&ZSTD, frame)) => {
            let decoder = zstd::stream::read::Decoder::new(frame).map_err(|_| CorruptBody)?;
            let mut written = Vec::new();
            decoder.take(MAX_BODY).read_to_end(&mut written).map_err(|_| CorruptBody)?;
            Ok(written.into())
        }
        _ => Err(CorruptBody),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use promptmill_domain::{Ending, Output};

    fn outcome(text: &str) -> Outcome {
        let json = serde_json::value::to_raw_value(text).unwrap();
        Outcome {
            custom_id: Some("a".into()),
            ending: Ending::Succeeded { output: Output::Json(json), repaired: false },
            attempts: vec![],
            cut: promptmill_domain::Totals::default(),
            flags: vec![],
        }
    }

    #[test]
    fn an_outcome_survives_storage_small_and_large() {
        for text in ["x".to_owned(), "long ".repeat(10_000)] {
            let outcome = outcome(&text);
            let body = encode_outcome(&outcome);
            assert_eq!(decode_outcome(&body).unwrap(), outcome);
        }
        assert!(encode_outcome(&outcome(&"long ".repeat(10_000))).len() < 1_000);
    }

    #[test]
    fn a_frame_gives_its_bytes_and_no_others() {
        assert_eq!(compress(b"short"), None);
        let bytes = b"much the same ".repeat(1_000);
        let frame = compress(&bytes).unwrap();
        assert!(frame.len() < 100);
        assert_eq!(decompress(&frame, bytes.len()).unwrap(), bytes);
        for wrong in [bytes.len() - 1, bytes.len() + 1, 0] {
            assert!(decompress(&frame, wrong).is_err(), "{wrong}");
        }
        assert!(decompress(&frame[1..], bytes.len()).is_err());
    }

    #[test]
    fn damaged_bodies_are_told_apart_from_good_ones() {
        for bad in [&b""[..], b"\x07{}", b"\x00{", b"\x01garbage"] {
            assert!(decode_outcome(bad).is_err());
        }
    }
}
