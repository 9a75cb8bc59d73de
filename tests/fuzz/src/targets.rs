//! All targets.

mod claims;
mod config;
mod forwarded;
mod http1;
mod http2;
mod identity;
mod last_event_id_and_query;
mod nats;
mod proxy_protocol;
mod sse;
mod subjects;
mod target;
mod tls_records;

use crate::Target;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

pub const TARGETS: &[Target] = &[
    Target { name: "identity", run: identity::run, bytes_max: 256 * KIB },
    Target { name: "claims", run: claims::run, bytes_max: 512 * KIB },
    Target { name: "last_event_id_and_query", run: last_event_id_and_query::run, bytes_max: 256 * KIB },
    Target { name: "target", run: target::run, bytes_max: 2 * MIB },
    Target { name: "subjects", run: subjects::run, bytes_max: MIB },
    Target { name: "forwarded", run: forwarded::run, bytes_max: 256 * KIB },
    Target { name: "proxy_protocol", run: proxy_protocol::run, bytes_max: 256 * KIB },
    Target { name: "sse", run: sse::run, bytes_max: 2 * MIB },
    Target { name: "config", run: config::run, bytes_max: 8 * MIB },
    Target { name: "http1", run: http1::run, bytes_max: MIB },
    Target { name: "http2", run: http2::run, bytes_max: MIB },
    Target { name: "tls_records", run: tls_records::run, bytes_max: MIB },
    Target { name: "nats", run: nats::run, bytes_max: 8 * MIB },
];
