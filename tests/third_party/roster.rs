//! The clients, and where each leaves the HTML standard or goes its own way: one table, checked in both directions.

/// Where a client comes from, which says how it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// npm, run by the Node of this machine.
    Npm,
    /// npm, run by the newer Node that comes with `node/package.json`.
    NpmOnNewerNode,
    /// PyPI.
    Pypi,
    /// The crates registry.
    Crates,
    /// `curl -N`, parsed by our own parser.
    Curl,
}

/// After which a client may come back by itself or give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Situation {
    /// The connection is reset in the middle of the stream.
    Cut,
    /// The answer comes to its proper end: after a `sidestream.bye`, or at once, as in a soft refusal.
    Close,
    /// The connection ends before any answer.
    Down,
    /// The answer is 401.
    Final,
    /// The answer is 204, which the standard has for "stay away".
    NoContent,
}

/// What some clients take for an event. The first three are forms that the standard knows and sidestream therefore does not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `: comment` and a blank line.
    Comment,
    /// `retry: N` and a blank line.
    Retry,
    /// `id: X` and a blank line.
    Id,
    /// A piece of an event, whose end is still on its way; the event then comes without name and id. No server can help that.
    Piece,
}

/// What a client makes of the payload of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// What was published.
    Whole,
    /// Every line without its leading spaces.
    SpacesLost,
    /// Only the last line, trimmed.
    LastLine,
}

impl Reading {
    /// What arrives of a payload.
    pub fn of(self, data: &str) -> String {
        match self {
            Self::Whole => data.to_owned(),
            Self::SpacesLost => {
                data.split('\n').map(|line| line.trim_start_matches(' ')).collect::<Vec<_>>().join("\n")
            }
            Self::LastLine => data.rsplit('\n').next().unwrap_or_default().trim().to_owned(),
        }
    }
}

/// What surely comes in one piece.
const ONE_PIECE: usize = 4096;

/// One client.
#[derive(Debug)]
pub struct Client {
    /// As its program knows it; with the registry, it is unique.
    pub name: &'static str,
    /// Where it is from.
    pub origin: Origin,
    /// Where it gives up, so that the application has to start it anew.
    pub gives_up: &'static [Situation],
    /// What it hands to the application as an empty event.
    pub phantoms: &'static [Form],
    /// What it makes of payloads.
    pub reading: Reading,
}

impl Client {
    const fn new(name: &'static str, origin: Origin) -> Self {
        Self { name, origin, gives_up: STANDARD, phantoms: &[], reading: Reading::Whole }
    }

    const fn gives_up(mut self, at: &'static [Situation]) -> Self {
        self.gives_up = at;
        self
    }

    const fn phantoms(mut self, on: &'static [Form]) -> Self {
        self.phantoms = on;
        self
    }

    const fn reads(mut self, reading: Reading) -> Self {
        self.reading = reading;
        self
    }

    /// Whether it loses name and id of an event with this payload.
    pub fn maims(&self, data: &str) -> bool {
        self.phantoms.contains(&Form::Piece) && data.len() > ONE_PIECE
    }

    /// Its user, which is also what it asks for.
    pub fn user(&self) -> String {
        let registry = match self.origin {
            Origin::Npm | Origin::NpmOnNewerNode => "npm-",
            Origin::Pypi => "pypi-",
            Origin::Crates => "crates-",
            Origin::Curl => "",
        };
        format!("{registry}{}", self.name)
    }
}

use Form::{Comment, Id, Piece, Retry};
use Origin::{Crates, Curl, Npm, NpmOnNewerNode, Pypi};
use Reading::{LastLine, SpacesLost};
use Situation::{Close, Cut, Down, Final, NoContent};

/// As the standard has it: back after any loss, away after any answer other than 200.
const STANDARD: &[Situation] = &[Final, NoContent];
/// A reader of one answer: the application brings its own loop.
const READER: &[Situation] = &[Cut, Close, Down, Final, NoContent];

/// Everybody.
pub const CLIENTS: [Client; 18] = [
    Client::new("eventsource3", Npm),
    Client::new("eventsource4", Npm),
    Client::new("eventsource5", NpmOnNewerNode),
    Client::new("undici", Npm),
    Client::new("eventsource-client", Npm).gives_up(&[NoContent]),
    Client::new("launchdarkly-eventsource", Npm),
    // A cut is a proper end only by Node's doing: its fetch takes a reset for one where the answer has `Connection: close`.
    Client::new("microsoft-fetch-event-source", Npm).gives_up(&[Cut, Close]).phantoms(&[Comment, Retry, Id]),
    Client::new("sentool-fetch-event-source", Npm)
        .gives_up(READER)
        .phantoms(&[Comment, Retry, Id, Piece])
        .reads(LastLine),
    Client::new("fetch-event-stream", Npm).gives_up(READER).phantoms(&[Retry, Id]).reads(SpacesLost),
    Client::new("httpx-sse", Pypi).gives_up(READER).phantoms(&[Comment, Retry, Id]),
    Client::new("requests-sse", Pypi).reads(SpacesLost),
    Client::new("sseclient-py", Pypi).gives_up(READER),
    Client::new("launchdarkly-eventsource", Pypi).gives_up(&[]),
    Client::new("aiohttp-sse-client", Pypi).gives_up(&[Cut, Final, NoContent]).reads(SpacesLost),
    Client::new("aiohttp-sse-client2", Pypi).gives_up(&[Cut, Final, NoContent]).reads(SpacesLost),
    Client::new("eventsource-client", Crates).gives_up(&[]),
    Client::new("reqwest-eventsource", Crates),
    Client::new("curl", Curl).gives_up(READER),
];
