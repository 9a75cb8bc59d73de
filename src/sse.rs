//! A reader of event streams: bytes in, events out, by the HTML standard (section 9.2.6 "Interpreting an event stream").
//!
//! Used by `sidestream tail`, by the tests and by the benches; the server itself only writes. It keeps bytes that do not
//! make a whole line yet, bounded by what the caller feeds, and leaves connecting and reconnecting to [`crate::tail`].

// Reads what others send: nothing here may panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `message` where the stream named none.
    pub name: String,
    /// The data lines, joined by LF.
    pub data: String,
    /// The `id:` of this very event; `None` where it had no id line (the last event ID then stays as it was).
    pub id: Option<String>,
}

/// An incremental parser. Feed it pieces of any size.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    bom_checked: bool,
    name: String,
    data: String,
    id: Option<String>,
    /// The last event ID buffer: becomes the last event ID when an event is dispatched, not before, so that an event cut
    /// short does not count as received.
    id_buffer: String,
    last_event_id: String,
    retry: Option<u64>,
}

impl Parser {
    /// Reads a piece and calls `sink` for every event it completes.
    pub fn feed(&mut self, piece: &[u8], mut sink: impl FnMut(Event)) {
        for &byte in piece {
            let line_feed_of_crlf = self.after_cr && byte == b'\n';
            self.after_cr = byte == b'\r';
            match byte {
                b'\n' if line_feed_of_crlf => {}
                b'\r' | b'\n' => self.end_line(&mut sink),
                _ => self.line.push(byte),
            }
        }
    }

    /// The last event ID: what a reconnect sends.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The reconnection time the stream last asked for, in milliseconds.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Forgets an unfinished event, as a reader does when the connection ends; keeps the last event ID.
    pub fn end_of_stream(&mut self) {
        let kept = std::mem::take(self);
        self.id_buffer.clone_from(&kept.last_event_id);
        self.last_event_id = kept.last_event_id;
        self.retry = kept.retry;
    }

    fn end_line(&mut self, sink: &mut impl FnMut(Event)) {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let mut line = &*text;
        if !self.bom_checked {
            self.bom_checked = true;
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch(sink);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => {
                self.id = Some(value.to_owned());
                self.id_buffer = value.to_owned();
            }
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.retry = value.parse().ok();
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, sink: &mut impl FnMut(Event)) {
        let mut data = std::mem::take(&mut self.data);
        let mut name = std::mem::take(&mut self.name);
        let id = self.id.take();
        self.last_event_id.clone_from(&self.id_buffer);
        if data.pop().is_none() {
            return;
        }
        if name.is_empty() {
            name.push_str("message");
        }
        sink(Event { name, data, id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &str, step: usize) -> (Vec<Event>, Parser) {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in stream.as_bytes().chunks(step) {
            parser.feed(piece, |event| events.push(event));
        }
        (events, parser)
    }

    #[test]
    fn the_examples_of_the_standard() {
        for step in [1, 2, 1000] {
            let (events, _) = read("data: YHOO\ndata: +2\ndata: 10\n\n", step);
            assert_eq!(events[0].data, "YHOO\n+2\n10");

            let (events, parser) =
                read(": test\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n", step);
            let data: Vec<_> = events.iter().map(|e| e.data.as_str()).collect();
            assert_eq!(data, ["first event", "second event", " third event"]);
            assert_eq!(events[1].id.as_deref(), Some(""));
            assert_eq!(parser.last_event_id(), "");

            let (events, _) = read("data\n\ndata\ndata\n\ndata:", step);
            assert_eq!(events.iter().map(|e| e.data.as_str()).collect::<Vec<_>>(), ["", "\n"]);
        }
    }

    #[test]
    fn an_event_cut_short_does_not_move_the_last_event_id() {
        let (events, mut parser) = read("id: 1\ndata: a\n\nid: 2\ndata: b\n", 1);
        assert_eq!((events.len(), parser.last_event_id()), (1, "1"));
        parser.end_of_stream();
        parser.feed(b"data: c\n\n", |event| assert_eq!(event.data, "c"));
        assert_eq!(parser.last_event_id(), "1");
    }

    #[test]
    fn bom_line_ends_retry_and_nul_ids() {
        let (events, parser) = read("\u{feff}data: a\r\rdata: b\r\n\r\nretry: 12\nretry: x\nid: a\0b\ndata: c\n\n", 1);
        assert_eq!(events.iter().map(|e| e.data.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((parser.retry(), parser.last_event_id()), (Some(12), ""));
    }
}
