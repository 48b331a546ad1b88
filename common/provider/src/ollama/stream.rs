//! Reads the stream of `POST /api/chat`: newline-delimited JSON in pieces of any size.
//!
//! Each line is tested for `error` first. The reply is whole only with a line that says `done: true`: a stream can end
//! without one, with status 200 and no error (a broken connection, a model that repeats itself).

use std::borrow::Cow;

use promptmill_domain::Tokens;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chat::{DeltaSink, Finish};
use crate::error_body::ErrorFacts;
use crate::gathered::Gathered;
use crate::surrogates;

/// What the official client reads at most as one line.
const MAX_LINE_BYTES: usize = 8 * 1024 * 1024;

/// Gathers a stream; feed it with pieces until it says something else than [`Progress::More`].
#[derive(Debug, Default)]
pub(super) struct StreamReader {
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    gathered: Gathered,
    surrogates_replaced: bool,
}

/// How far a stream is.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing decided yet; at the end of the stream it means that the stream was cut.
    More,
    /// The reply is whole.
    Done(Whole),
    /// The server told an error in the stream.
    Error(ErrorFacts),
    /// A line of so many bytes is not the JSON the protocol says.
    Malformed(usize),
    /// A line passed its limit.
    TooLarge,
}

/// A whole reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) content: String,
    pub(super) finish: Finish,
    pub(super) usage: Option<Tokens>,
    pub(super) surrogates_replaced: bool,
    pub(super) cut: bool,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<LineMessage<'a>>,
    #[serde(default)]
    done: bool,
    #[serde(default)]
    done_reason: Option<String>,
    #[serde(default)]
    prompt_eval_count: Option<u64>,
    #[serde(default)]
    eval_count: Option<u64>,
}

#[derive(Deserialize)]
struct LineMessage<'a> {
    #[serde(borrow, default)]
    content: Cow<'a, str>,
}

impl StreamReader {
    /// A reader that hands every piece of text on as well.
    pub(super) fn telling(deltas: Option<DeltaSink>) -> Self {
        Self { gathered: Gathered::telling(deltas), ..Self::default() }
    }

    /// Takes a piece of the stream.
    pub(super) fn push(&mut self, piece: &[u8]) -> Progress {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let (line, tail) = (&rest[..end], &rest[end + 1..]);
            rest = tail;
            if self.partial.len() + line.len() > MAX_LINE_BYTES {
                return Progress::TooLarge;
            }
            let progress = if self.partial.is_empty() {
                self.line(line)
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole)
            };
            if !matches!(progress, Progress::More) {
                return progress;
            }
        }
        if self.partial.len() + rest.len() > MAX_LINE_BYTES {
            return Progress::TooLarge;
        }
        self.partial.extend_from_slice(rest);
        Progress::More
    }

    /// Takes the end of the stream; a last line may lack its line feed.
    pub(super) fn finish(&mut self) -> Progress {
        let last = std::mem::take(&mut self.partial);
        match self.line(&last) {
            // A line that was cut is a cut stream, not a foreign protocol, unless nothing else ever came.
            Progress::Malformed(_) if !self.gathered.is_empty() => Progress::More,
            progress => progress,
        }
    }

    fn line(&mut self, line: &[u8]) -> Progress {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Progress::More;
        }
        if let Ok(line) = serde_json::from_slice::<Line<'_>>(line) {
            return self.take(&line);
        }
        let Some(mended) = surrogates::replace_lone(line) else {
            return Progress::Malformed(line.len());
        };
        match serde_json::from_slice::<Line<'_>>(&mended) {
            Ok(line) => {
                self.surrogates_replaced = true;
                self.take(&line)
            }
            Err(_) => Progress::Malformed(line.len()),
        }
    }

    fn take(&mut self, line: &Line<'_>) -> Progress {
        if let Some(error) = line.error {
            return Progress::Error(ErrorFacts::from_error(error.get()));
        }
        if let Some(message) = &line.message {
            self.gathered.push(&message.content);
        }
        if !line.done {
            return Progress::More;
        }
        // Zero counters are left out, so one of them is enough to know that the server counts.
        let counted = line.prompt_eval_count.is_some() || line.eval_count.is_some();
        let (content, cut) = self.gathered.take();
        Progress::Done(Whole {
            content,
            finish: Finish::from_wire(line.done_reason.as_deref()),
            usage: counted.then(|| Tokens {
                prompt: line.prompt_eval_count.unwrap_or(0),
                completion: line.eval_count.unwrap_or(0),
            }),
            surrogates_replaced: self.surrogates_replaced,
            cut,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = concat!(
        r#"{"model":"m","message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
        "\n",
        r#"{"model":"m","message":{"role":"assistant","content":"{\"ci"},"done":false}"#,
        "\r\n\n",
        r#"{"model":"m","message":{"role":"assistant","content":"ty\":\"Tromsø \ud83d\ude00\"}"},"done":false}"#,
        "\n",
        r#"{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":58,"eval_count":12}"#,
        "\n",
    );

    fn read(pieces: &[&[u8]]) -> Progress {
        let mut reader = StreamReader::default();
        for piece in pieces {
            match reader.push(piece) {
                Progress::More => {}
                other => return other,
            }
        }
        reader.finish()
    }

    fn expected() -> Whole {
        Whole {
            content: "{\"city\":\"Tromsø 😀\"}".to_owned(),
            finish: Finish::Stop,
            usage: Some(Tokens { prompt: 58, completion: 12 }),
            surrogates_replaced: false,
            cut: false,
        }
    }

    #[track_caller]
    fn check_whole(progress: Progress) {
        match progress {
            Progress::Done(whole) => assert_eq!(whole, expected()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stream_cut_at_any_byte_never_succeeds() {
        let bytes = STREAM.as_bytes();
        // The last line feed says nothing that the closed object before it does not.
        for cut in 0..bytes.len() - 1 {
            let progress = read(&[&bytes[..cut]]);
            assert!(matches!(progress, Progress::More | Progress::Malformed(_)), "{cut}: {progress:?}");
        }
        check_whole(read(&[&bytes[..bytes.len() - 1]]));
    }

    #[test]
    fn a_stream_split_at_any_byte_reads_the_same() {
        let bytes = STREAM.as_bytes();
        for at in 0..=bytes.len() {
            check_whole(read(&[&bytes[..at], &bytes[at..]]));
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        check_whole(read(&single));
    }

    #[test]
    fn an_error_line_ends_the_stream_whatever_else_it_says() {
        let stream = b"{\"message\":{\"content\":\"a\"}}\n{\"error\":\"boom\",\"done\":true}\n";
        match read(&[stream]) {
            Progress::Error(facts) => assert_eq!(facts.message, "boom"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn half_surrogates_in_a_line_are_replaced() {
        match read(&[b"{\"message\":{\"content\":\"a\\ud83d\"},\"done\":true,\"done_reason\":\"length\"}"]) {
            Progress::Done(whole) => {
                assert_eq!((whole.content.as_str(), whole.finish), ("a\u{fffd}", Finish::Length));
                assert!(whole.surrogates_replaced && whole.usage.is_none());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_without_end_is_given_up_at_eight_mebibytes() {
        let mut reader = StreamReader::default();
        let piece = vec![b'x'; 1024 * 1024];
        let pieces = std::iter::repeat_with(|| reader.push(&piece)).take(9);
        let taken = pieces.take_while(|progress| matches!(progress, Progress::More)).count();
        assert_eq!(taken, 8);
    }

    #[test]
    fn content_over_a_mebibyte_is_cut_and_the_stream_read_to_its_end() {
        let line = format!("{{\"message\":{{\"content\":\"{}\"}}}}\n", "x".repeat(600 * 1024));
        let done = b"{\"done\":true,\"eval_count\":9}\n";
        let Progress::Done(whole) = read(&[line.as_bytes(), line.as_bytes(), line.as_bytes(), done]) else {
            panic!("the stream is whole");
        };
        assert!(whole.cut && whole.content.len() == 1024 * 1024 && whole.usage.is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..20)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = read(&pieces);
        }
    }
}
