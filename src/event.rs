//! What a NATS message is to us once it has been read: where it stands, its subject, and its frames.
//!
//! Made once per message by the feed; every shard and client then holds references. How a frame looks is
//! [`crate::frame`]'s business.

use crate::cursor::Position;
use crate::frame::Frame;
use crate::frame::notice::GapReason;

/// One message, ready to be sent to anyone who may hear it.
#[derive(Debug)]
pub struct Event {
    /// Its place in the stream; [`Position::START`] for core subjects, which have none.
    pub at: Position,
    /// The subject on the wire; empty for a hole in the stream ([`Hole`]), which concerns everyone. Bytes that are not UTF-8
    /// stand as U+FFFD.
    pub subject: Box<str>,
    /// Its bytes.
    pub frames: Frames,
}

/// The frame of a message for each format that some route of its source uses.
#[derive(Debug)]
pub enum Frames {
    /// All listeners share one frame: the usual case.
    Shared(Frame),
    /// One per format, by index into the route table's formats.
    PerFormat(Box<[(u8, Frame)]>),
    /// Messages that the stream has no more.
    Hole(Box<Hole>),
}

/// Messages that are gone from a stream, up to the place of their event.
#[derive(Debug)]
pub struct Hole {
    /// The last sequence before them, and when the last message before them was stored, if that is known.
    pub after: Position,
    /// What can have removed them.
    pub cause: Cause,
    /// What tells of all of them, in every format.
    pub frame: Frame,
}

/// What can have removed the messages of one hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// A limit in number or size.
    pub by_size: bool,
    /// Age, of messages stored before this time, nanoseconds since 1970; 0 is none.
    pub aged: u64,
}

impl Cause {
    /// No limit.
    pub const SOMEBODY: Self = Self { by_size: false, aged: 0 };

    /// What clients are told. `before`: when the last message before the missing ones was stored; 0 is not known.
    pub fn reason(self, before: u64) -> GapReason {
        if self.by_size || before < self.aged { GapReason::Retention } else { GapReason::Purged }
    }
}

impl Event {
    /// The hole, if it is one.
    pub fn hole(&self) -> Option<&Hole> {
        match &self.frames {
            Frames::Hole(hole) => Some(hole),
            Frames::Shared(_) | Frames::PerFormat(_) => None,
        }
    }
}

impl Frames {
    /// Builds one frame for each of `formats`.
    pub fn build<E>(formats: &[u8], mut encode: impl FnMut(u8) -> Result<Frame, E>) -> Result<Self, E> {
        match formats {
            [only] => encode(*only).map(Self::Shared),
            several => several
                .iter()
                .map(|f| encode(*f).map(|frame| (*f, frame)))
                .collect::<Result<_, _>>()
                .map(Self::PerFormat),
        }
    }

    /// The frame for a format. `None` only for a format that the source was not built for.
    pub fn get(&self, format: u8) -> Option<&Frame> {
        match self {
            Self::Shared(frame) => Some(frame),
            Self::PerFormat(frames) => frames.iter().find(|(f, _)| *f == format).map(|(_, frame)| frame),
            Self::Hole(hole) => Some(&hole.frame),
        }
    }

    /// Bytes held, for the history's bound.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Shared(frame) => frame.wire().len(),
            Self::PerFormat(frames) => frames.iter().map(|(_, frame)| frame.wire().len()).sum(),
            Self::Hole(hole) => hole.frame.wire().len() + size_of::<Hole>(),
        }
    }
}
