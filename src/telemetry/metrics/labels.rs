//! The closed sets that labels are taken from.

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client left.
    Client,
    /// A slow reader: its backlog passed the bound, or it took nothing for too long.
    Slow,
    /// Shutting down.
    Drain,
    /// `server.max_age`.
    Age,
    /// The identity expired.
    Expired,
    /// Somebody asked for it.
    Kicked,
    /// The client sent what it may not send.
    Protocol,
    /// Memory was short, and its queue among the largest.
    Memory,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 8] =
        [Self::Client, Self::Slow, Self::Drain, Self::Age, Self::Expired, Self::Kicked, Self::Protocol, Self::Memory];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Slow => "slow",
            Self::Drain => "drain",
            Self::Age => "age",
            Self::Expired => "expired",
            Self::Kicked => "kicked",
            Self::Protocol => "protocol",
            Self::Memory => "memory",
        }
    }
}

/// How far a stream was when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its feeds had not answered yet, or its head could not be written for what the peer had not read before.
    Opening,
    /// It was getting what it had missed, or had fallen behind and read on from the log.
    Replay,
    /// It heard what came.
    Live,
}

impl Phase {
    /// Every one.
    pub(super) const ALL: [Self; 3] = [Self::Opening, Self::Replay, Self::Live];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Replay => "replay",
            Self::Live => "live",
        }
    }
}

/// The protocol of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, on a socket of our own.
    Http1,
    /// A stream of an HTTP/2 connection.
    Http2,
}

impl Protocol {
    /// Every one.
    pub(super) const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
        }
    }
}

/// Why a proxy is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Its uid, on the unix socket.
    Uid,
    /// Its certificate.
    Certificate,
    /// The shared secret.
    Secret,
    /// Its address, as the operator says that is enough.
    Address,
}

impl Proof {
    /// Every one.
    pub(super) const ALL: [Self; 4] = [Self::Uid, Self::Certificate, Self::Secret, Self::Address];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::Certificate => "certificate",
            Self::Secret => "secret",
            Self::Address => "address",
        }
    }
}

/// Codes of final refusals (`http::reject`); what label they have in the metrics.
pub const REFUSAL_CODES: [&str; 22] = [
    "not_found",
    "method_not_allowed",
    "not_acceptable",
    "unknown_host",
    "http_version",
    "bad_host",
    "bad_path",
    "bad_query",
    "target_too_long",
    "headers_too_large",
    "body_not_allowed",
    "bad_cursor",
    "origin_denied",
    "untrusted_peer",
    "identity_missing",
    "identity_ambiguous",
    "header_alias",
    "hop_by_hop_identity",
    "identity_invalid",
    "identity_expired",
    "subject_denied",
    "internal",
];

/// Soft refusals, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// `limits.connections`.
    Connections,
    /// `limits.connections_per_user`.
    User,
    /// `limits.connections_per_address`.
    Address,
    /// `limits.connects_per_second*`.
    Rate,
    /// Shutting down.
    Drain,
    /// NATS has not been seen yet.
    Nats,
    /// `limits.memory`.
    Memory,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Connections, Self::User, Self::Address, Self::Rate, Self::Drain, Self::Nats, Self::Memory];

    /// The label, also the value of `Sidestream-Refused`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::User => "user",
            Self::Address => "address",
            Self::Rate => "rate",
            Self::Drain => "drain",
            Self::Nats => "nats",
            Self::Memory => "memory",
        }
    }
}

/// How a stream goes on, by [`crate::frame::notice::Resume`].
pub(super) const RESUMES: [&str; 3] = ["new", "exact", "gap"];
