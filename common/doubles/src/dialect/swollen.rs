//! Bodies that are no replies any more: far too large, packed, or with a number that is none.

use std::io::Write as _;
use std::sync::OnceLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::ledger::Delivery;
use crate::wire::{Answer, JSON};

/// Bytes of one piece; the pieces of a body share them.
const PIECE: usize = 1_000_000;
/// Pieces of a body.
const PIECES: usize = 100;

/// 100 MB that begin like a reply and never come to its end.
pub(super) fn huge(chance: u64) -> Answer {
    static FILLING: OnceLock<Bytes> = OnceLock::new();
    let filling = FILLING.get_or_init(|| vec![b'x'; PIECE].into());
    let mut pieces = vec![Bytes::from_static(br#"{"id":"huge","message":{"content":""#)];
    pieces.extend(std::iter::repeat_n(filling.clone(), PIECES));
    Answer { pieces, sized: chance.is_multiple_of(2), ..Answer::whole(200, JSON, Bytes::new()) }
}

/// The same size in blanks, a thousandth of it on the wire: gzip takes members one after the other for one text.
pub(super) fn gzip_bomb() -> Answer {
    static MEMBER: OnceLock<Bytes> = OnceLock::new();
    let member = MEMBER.get_or_init(|| {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        let packed = packer.write_all(&vec![b' '; PIECE]).and_then(|()| packer.finish());
        packed.expect("a vector takes every write").into()
    });
    let body = member.repeat(PIECES);
    Answer::whole(200, JSON, body).header("content-encoding", "gzip")
}

/// The answer with `NaN` for its count of prompt tokens.
pub(super) fn not_a_number(mut answer: Answer) -> Answer {
    for piece in &mut answer.pieces {
        let text = String::from_utf8_lossy(piece);
        for name in [r#""prompt_tokens":"#, r#""prompt_eval_count":"#] {
            if let Some((before, behind)) = text.split_once(name) {
                let rest = behind.trim_start_matches(|c: char| c.is_ascii_digit());
                *piece = format!("{before}{name}NaN{rest}").into();
                break;
            }
        }
    }
    answer.delivery = Delivery { ok: true, ..Delivery::default() };
    answer
}
