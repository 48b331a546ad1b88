//! Server-sent events in pieces of any size (WHATWG HTML, section 9.2.6), as far as providers use them: the `data` of each event.
//!
//! Comments (keep-alives), event names, ids and retry times are skipped.

/// The most bytes of one line and of the data of one event.
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

/// Something that is larger than we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventTooLarge;

/// Cuts a stream into events.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// The data of the event so far; several `data` lines are joined by line feeds.
    data: Vec<u8>,
    begun: bool,
}

impl EventReader {
    /// Takes a piece of the stream and hands the data of each event it completes to `each`, until that answers something.
    pub(crate) fn push<T>(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, EventTooLarge> {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, tail) = (&rest[..end], &rest[end + 1..]);
            rest = tail;
            let answer = if self.partial.is_empty() {
                self.line(line, &mut each)?
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, &mut each)?
            };
            if answer.is_some() {
                return Ok(answer);
            }
        }
        if self.partial.len() + rest.len() > MAX_EVENT_BYTES {
            return Err(EventTooLarge);
        }
        self.partial.extend_from_slice(rest);
        Ok(None)
    }

    /// Takes the end of the stream: a last event may lack its empty line.
    pub(crate) fn finish<T>(&mut self, mut each: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let last = std::mem::take(&mut self.partial);
        // Without an end a line is within its limit, and an event too large for it is none.
        self.line(&last, &mut each).ok().flatten().or_else(|| self.dispatch(&mut each))
    }

    fn line<T>(
        &mut self,
        line: &[u8],
        each: &mut impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, EventTooLarge> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Ok(self.dispatch(each));
        }
        let Some(value) = line.strip_prefix(b"data:") else {
            return Ok(None);
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if self.data.len() + value.len() > MAX_EVENT_BYTES {
            return Err(EventTooLarge);
        }
        if std::mem::replace(&mut self.begun, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        Ok(None)
    }

    fn dispatch<T>(&mut self, each: &mut impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        if !std::mem::take(&mut self.begun) {
            return None;
        }
        let answer = each(&self.data);
        self.data.clear();
        answer
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = EventReader::default();
        let mut events = Vec::new();
        let mut note = |data: &[u8]| {
            events.push(String::from_utf8_lossy(data).into_owned());
            None::<()>
        };
        for piece in pieces {
            assert_eq!(reader.push(piece, &mut note), Ok(None));
        }
        reader.finish(&mut note);
        events
    }

    const STREAM: &str = ": keep-alive\n\ndata: {\"a\":1}\r\n\r\nevent: x\nid: 7\ndata:b\ndata:  c\n\n\n\nretry: 1\n\ndata\n\ndata: end";

    #[test]
    fn the_data_of_each_event_is_given_and_nothing_else() {
        assert_eq!(events(&[STREAM.as_bytes()]), ["{\"a\":1}", "b\n c", "end"]);
    }

    #[test]
    fn a_stream_split_at_any_byte_reads_the_same() {
        let bytes = STREAM.as_bytes();
        let whole = events(&[bytes]);
        for at in 0..=bytes.len() {
            assert_eq!(events(&[&bytes[..at], &bytes[at..]]), whole, "{at}");
        }
        assert_eq!(events(&bytes.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn reading_ends_with_the_first_answer() {
        let mut reader = EventReader::default();
        let mut seen = 0;
        let answer = reader.push(b"data: 1\n\ndata: 2\n\ndata: 3\n\n", |data| {
            seen += 1;
            (data == b"2").then_some("two")
        });
        assert_eq!((answer, seen), (Ok(Some("two")), 2));
    }

    #[test]
    fn a_line_and_an_event_without_end_are_given_up_at_eight_mebibytes() {
        let piece = vec![b'x'; 1024 * 1024];
        let mut line = EventReader::default();
        assert_eq!(line.push(b"data: ", |_| None::<()>), Ok(None));
        let taken = (0..9).take_while(|_| line.push(&piece, |_| None::<()>).is_ok()).count();
        assert_eq!(taken, 7);
        let mut event = EventReader::default();
        let data = [b"data:", piece.as_slice(), b"\n"].concat();
        let taken = (0..9).take_while(|_| event.push(&data, |_| None::<()>).is_ok()).count();
        assert_eq!(taken, 7);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(pieces in proptest::collection::vec("[dat: \r\n\u{0}x]{0,20}", 0..10)) {
            events(&pieces.iter().map(String::as_bytes).collect::<Vec<_>>());
        }
    }
}
