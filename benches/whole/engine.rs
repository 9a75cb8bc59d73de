//! Those who are measured, with one face: they run, have readers, and deliver.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bench::Bench;
use crate::floor::{Floor, Opening};
use crate::framing;
use crate::nchan::Nchan;
use crate::readers::{Readers, Target};
use crate::support::process::{Process, SERVER_CORE};
use crate::support::sidecar::{Limits, Setup, Sidecar};
use crate::wire::Wire;

/// What a reader speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1.
    Plain,
    /// HTTP/1.1 over TLS 1.3.
    Tls,
    /// HTTP/2 over TLS 1.3, one stream for each connection.
    H2,
    /// HTTP/2 without TLS: what of HTTP/2's cost is not TLS's.
    H2c,
}

impl Protocol {
    /// Whether it runs over TLS.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::H2)
    }
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Floor,
    Sidecar(Protocol),
    Nchan(Protocol),
}

impl Kind {
    const ALL: [(&'static str, Self); 8] = [
        ("floor", Self::Floor),
        ("plain", Self::Sidecar(Protocol::Plain)),
        ("tls", Self::Sidecar(Protocol::Tls)),
        ("h2", Self::Sidecar(Protocol::H2)),
        ("h2c", Self::Sidecar(Protocol::H2c)),
        ("nchan", Self::Nchan(Protocol::Plain)),
        ("nchan-tls", Self::Nchan(Protocol::Tls)),
        ("nchan-h2", Self::Nchan(Protocol::H2)),
    ];

    /// By its name on the command line.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Its name, also first token of its subjects.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Floor => Protocol::Plain,
            Self::Sidecar(protocol) | Self::Nchan(protocol) => protocol,
        }
    }
}

/// What its readers hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// What is for everybody, without saying who they are.
    Everybody,
    /// What is for one user.
    Users,
}

/// One that runs.
pub struct Engine {
    pub kind: Kind,
    server: Server,
    certificate: String,
}

enum Server {
    Floor(Floor),
    Sidecar { sidecar: Sidecar, wire: Wire },
    Nchan(Nchan),
}

/// By then a process has done what it does after its last write, and the kernel has booked it.
const REST: Duration = Duration::from_millis(20);
/// Seconds without an event after which a stream shows that it lives; longer than any bench that does not ask for it.
const SILENCE: u64 = 3600;

impl Engine {
    /// Starts one that sends no heartbeats while it is measured.
    pub fn start(kind: Kind, bench: &Bench) -> Self {
        Self::with_heartbeats(kind, bench, SILENCE)
    }

    /// Starts a sidecar by another program, such as one that watches it.
    pub fn under(kind: Kind, bench: &Bench, program: &[String]) -> Self {
        Self::with(kind, bench, SILENCE, program)
    }

    /// Starts one with so many seconds between heartbeats; the floor has none.
    pub fn with_heartbeats(kind: Kind, bench: &Bench, seconds: u64) -> Self {
        Self::with(kind, bench, seconds, &[])
    }

    fn with(kind: Kind, bench: &Bench, seconds: u64, under: &[String]) -> Self {
        let directory = bench.directory.path();
        let server = match kind {
            Kind::Floor => Server::Floor(Floor::start()),
            Kind::Sidecar(protocol) => {
                let setup = Setup {
                    name: kind.name(),
                    core: Some(SERVER_CORE),
                    under,
                    certificate: protocol.is_encrypted().then_some(&bench.certificate),
                    h2c: protocol == Protocol::H2c,
                    limits: Limits::Wide,
                    history: "64MiB",
                    heartbeat: &format!("{seconds}s"),
                };
                let sidecar = Sidecar::start(directory, bench.nats.port, &setup);
                Server::Sidecar { sidecar, wire: Wire::connect(bench.nats.port) }
            }
            Kind::Nchan(protocol) => Server::Nchan(Nchan::start(directory, protocol, &bench.certificate, seconds)),
        };
        Self { kind, server, certificate: bench.certificate.chain.display().to_string() }
    }

    /// The process.
    pub fn process(&self) -> &Process {
        match &self.server {
            Server::Floor(floor) => &floor.child.process,
            Server::Sidecar { sidecar, .. } => &sidecar.process,
            Server::Nchan(nchan) => &nchan.process,
        }
    }

    /// CPU seconds that something takes the process, until it rests again.
    pub fn cost<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> (f64, T) {
        std::thread::sleep(REST);
        let before = self.process().cpu();
        let done = work(self);
        std::thread::sleep(REST);
        (self.process().cpu() - before, done)
    }

    /// Opens readers.
    pub fn connect(&mut self, connections: usize, audience: Audience) -> Readers {
        let mut target = self.target(connections, audience);
        // The floor knows users by the order in which they come.
        target.at_once = if self.kind == Kind::Floor && audience == Audience::Users { 1 } else { 32 };
        self.open(&target, Opening::Silent)
    }

    /// Opens readers in another way; what the floor does then is told.
    pub fn open(&mut self, target: &Target, opening: Opening) -> Readers {
        let Server::Floor(floor) = &mut self.server else { return Readers::open(target) };
        floor.expect(opening, target.connections);
        let readers = Readers::open(target);
        floor.accepted();
        readers
    }

    /// What readers are told.
    pub fn target(&self, connections: usize, audience: Audience) -> Target {
        let (port, path, ready) = match &self.server {
            Server::Floor(floor) => (floor.port, "/", None),
            Server::Sidecar { sidecar, .. } => {
                let path = if audience == Audience::Users { "/mine" } else { "/events" };
                (sidecar.port, path, Some("sidestream.connected"))
            }
            Server::Nchan(nchan) => {
                let path = if audience == Audience::Users { "/sub?id={user}" } else { "/sub?id=broadcast" };
                (nchan.port, path, Some(": hi"))
            }
        };
        Target {
            protocol: self.kind.protocol(),
            port,
            path: path.to_owned(),
            ready: ready.map(str::to_owned),
            cursor: None,
            certificate: self.certificate.clone(),
            connections,
            at_once: 32,
        }
    }

    /// Sends so many events to everybody, without a pause; the floor sends one.
    pub fn broadcast(&mut self, events: u64) {
        match &mut self.server {
            Server::Floor(floor) => floor.write(&framing::payload()),
            Server::Sidecar { wire, .. } => {
                let subject = format!("{}.broadcast.x", self.kind.name());
                wire.store((0..events).map(|_| (subject.as_str(), framing::payload())));
            }
            Server::Nchan(nchan) => nchan.publish((0..events).map(|_| ("broadcast", framing::payload()))),
        }
    }

    /// Sends so many events to everybody and does not wait for more than it must.
    pub fn fire(&mut self, events: u64) {
        match &mut self.server {
            Server::Floor(_) => (0..events).for_each(|_| self.broadcast(1)),
            Server::Nchan(nchan) => (0..events).for_each(|_| nchan.fire("broadcast", &framing::payload())),
            Server::Sidecar { wire, .. } => {
                let subject = format!("{}.broadcast.x", self.kind.name());
                (0..events).for_each(|_| wire.publish(&subject, &framing::payload()));
                wire.flush();
            }
        }
    }

    /// Ends what readers have left, so that nothing of it is counted later.
    pub fn close(&mut self) {
        match &mut self.server {
            Server::Floor(floor) => floor.close(),
            Server::Sidecar { sidecar, .. } => sidecar.is_empty(),
            Server::Nchan(nchan) => nchan.is_empty(),
        }
    }

    /// Sends each of these users an event. The floor reads NATS for that; see `follow`.
    pub fn send(&mut self, users: &[usize], publisher: &mut Wire) {
        match &mut self.server {
            Server::Floor(_) | Server::Sidecar { .. } => {
                let subjects: Vec<String> =
                    users.iter().map(|user| format!("{}.user.u{user}.x", self.kind.name())).collect();
                publisher.store(subjects.iter().map(|subject| (subject.as_str(), framing::payload())));
            }
            Server::Nchan(nchan) => {
                let channels: Vec<String> = users.iter().map(|user| format!("u{user}")).collect();
                nchan.publish(channels.iter().map(|channel| (channel.as_str(), framing::payload())));
            }
        }
    }

    /// The floor reads NATS from now on; the others do so anyway or never.
    pub fn follow(&mut self, nats: u16) {
        if let Server::Floor(floor) = &mut self.server {
            floor.follow(nats, Kind::Floor.name());
        }
    }

    /// The sidecar, where it is one.
    pub fn sidecar(&self) -> Option<&Sidecar> {
        match &self.server {
            Server::Sidecar { sidecar, .. } => Some(sidecar),
            _ => None,
        }
    }

    /// Write calls for event streams so far, by the sidecar's own counter; on HTTP/2 hyper makes them, and nobody counts.
    pub fn writes(&self) -> Option<f64> {
        let counted = matches!(self.kind.protocol(), Protocol::Plain | Protocol::Tls);
        self.sidecar().filter(|_| counted).map(|sidecar| sidecar.metric("sidestream_writes_total"))
    }
}
