//! The proxies that are tried: the files in `conf/` as they are, one of them with another protocol to its upstream, and three
//! configurations that were written wrongly.

use crate::session::Session;
use crate::support::edge::{Proxy, replaced};
use crate::token::Issuer;

/// A proxy with its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `conf/nginx.conf`.
    Nginx,
    /// `conf/nginx-accel.conf`: the application answers, and hands over.
    NginxAccel,
    /// `conf/envoy.yaml`: the application is asked.
    Envoy,
    /// The same, with HTTP/2 to sidestream.
    EnvoyH2,
    /// `conf/envoy-jwt.yaml`: a token says it.
    EnvoyJwt,
    /// `conf/haproxy.cfg`: a token says it.
    Haproxy,
    /// `conf/Caddyfile`: the application is asked.
    Caddy,
    /// nginx that sets the identity, and passes the client's own on beside it.
    NginxAppending,
    /// nginx that lets in who may, passes everything on, and sets the tenant only.
    NginxOpen,
    /// HAProxy without TLS: what stands behind a load balancer. Not among [`ALL`], as its headers are those of the file.
    HaproxyPlain,
    /// The same, gathering what it sends.
    HaproxyGathering,
}

/// What is shipped.
pub const SHIPPED: [Kind; 7] =
    [Kind::Nginx, Kind::NginxAccel, Kind::Envoy, Kind::EnvoyH2, Kind::EnvoyJwt, Kind::Haproxy, Kind::Caddy];
/// And those with a mistake in them.
pub const ALL: [Kind; 9] = [
    Kind::Nginx,
    Kind::NginxAccel,
    Kind::Envoy,
    Kind::EnvoyH2,
    Kind::EnvoyJwt,
    Kind::Haproxy,
    Kind::Caddy,
    Kind::NginxAppending,
    Kind::NginxOpen,
];

impl Kind {
    /// Its program.
    pub fn proxy(self) -> Proxy {
        match self {
            Self::Nginx | Self::NginxAccel | Self::NginxAppending | Self::NginxOpen => Proxy::Nginx,
            Self::Envoy | Self::EnvoyH2 | Self::EnvoyJwt => Proxy::Envoy,
            Self::Haproxy | Self::HaproxyPlain | Self::HaproxyGathering => Proxy::Haproxy,
            Self::Caddy => Proxy::Caddy,
        }
    }

    /// Whether it is one of the files that users copy.
    pub fn is_shipped(self) -> bool {
        SHIPPED.contains(&self)
    }

    /// The configuration: a file of `conf/`, with what is wrong about it where something is.
    pub fn configuration(self) -> String {
        let (file, changes) = match self {
            Self::Nginx => ("nginx.conf", &[][..]),
            Self::NginxAccel => ("nginx-accel.conf", &[][..]),
            Self::NginxAppending => ("nginx.conf", &APPENDING[..]),
            Self::NginxOpen => ("nginx.conf", &OPEN[..]),
            Self::Envoy => ("envoy.yaml", &[][..]),
            Self::EnvoyH2 => ("envoy.yaml", &H2C[..]),
            Self::EnvoyJwt => ("envoy-jwt.yaml", &[][..]),
            Self::Haproxy => ("haproxy.cfg", &[][..]),
            Self::HaproxyPlain => ("haproxy.cfg", &[PLAIN][..]),
            Self::HaproxyGathering => ("haproxy.cfg", &[PLAIN, ("option http-no-delay ", "# ")][..]),
            Self::Caddy => ("Caddyfile", &[][..]),
        };
        let changes: Vec<_> = changes.iter().map(|(from, to)| (*from, (*to).to_owned())).collect();
        replaced(&conf(file), &changes)
    }

    /// sidestream's file, and what is set beside it.
    pub fn sidestream(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Nginx | Self::NginxAppending | Self::NginxOpen => ("conf/behind-nginx.toml", &[]),
            Self::NginxAccel => ("conf/behind-nginx-accel.toml", &[]),
            Self::Envoy => ("conf/behind-envoy.toml", &[]),
            Self::EnvoyH2 => ("conf/behind-envoy.toml", &["server.h2c=true"]),
            Self::EnvoyJwt => ("conf/behind-envoy.toml", &CLAIMS),
            Self::Haproxy | Self::HaproxyPlain | Self::HaproxyGathering => ("conf/behind-haproxy.toml", &[]),
            Self::Caddy => ("conf/behind-caddy.toml", &[]),
        }
    }

    /// Where the application is asked about a request; `None` where a token says it.
    pub fn asks(self) -> Option<&'static str> {
        match self {
            Self::EnvoyJwt | Self::Haproxy | Self::HaproxyPlain | Self::HaproxyGathering => None,
            Self::NginxAccel => Some("/events"),
            _ => Some("/auth"),
        }
    }

    /// The cookie of a session.
    pub fn cookie(self, session: &Session, issuer: &Issuer) -> Option<String> {
        if self.asks().is_none() { session.token(issuer) } else { session.name() }
    }
}

const PLAIN: (&str, &str) = (" ssl crt /etc/haproxy/events.example.com.pem alpn h2,http/1.1", "");

/// The line that is a comment in place of the one that is none.
const H2C: [(&str, &str); 2] = [
    ("explicit_http_config: { http_protocol_options: {} }", ""),
    ("#explicit_http_config: { http2_protocol_options:", "explicit_http_config: { http2_protocol_options:"),
];

/// The lines of `behind-envoy.toml` that are comments there.
const CLAIMS: [&str; 3] = [
    "identity.claims_header=X-Jwt-Payload",
    "identity.claims_issuer=https://events.example.com",
    "identity.claims_audiences=events.example.com",
];

/// A file of `conf/`.
pub fn conf(file: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const PASSES_ALL: (&str, &str) =
    ("proxy_pass_request_headers off;                        # ... and of", "# passes all on, ... and of");
const PASSES_ADDRESSES: (&str, &str) =
    ("X-Forwarded-For $remote_addr;         # not", "X-Forwarded-For $proxy_add_x_forwarded_for; # not");

/// nginx sends a header twice where two lines set it, and the second is left out where the client sent none.
const APPENDING: [(&str, &str); 6] = [
    PASSES_ALL,
    PASSES_ADDRESSES,
    ("X-Forwarded-User $user;", "X-Forwarded-User $user; proxy_set_header X-Forwarded-User $http_x_forwarded_user;"),
    ("X-Tenant $tenant;", "X-Tenant $tenant; proxy_set_header X-Tenant $http_x_tenant;"),
    ("X-Auth-Expires $expires;", "X-Auth-Expires $expires; proxy_set_header X-Auth-Expires $http_x_auth_expires;"),
    (
        "X-Sidestream-Subjects $subjects;",
        "X-Sidestream-Subjects $subjects; proxy_set_header X-Sidestream-Subjects $http_x_sidestream_subjects;",
    ),
];

/// With the `Connection` line of many a recipe for web sockets.
const OPEN: [(&str, &str); 8] = [
    PASSES_ALL,
    PASSES_ADDRESSES,
    ("underscores_in_headers off;", "underscores_in_headers on;"),
    ("ignore_invalid_headers on;", "ignore_invalid_headers off;"),
    ("proxy_set_header X-Forwarded-User $user;  ", "#"),
    ("proxy_set_header X-Auth-Expires $expires;", "#"),
    ("proxy_set_header X-Sidestream-Subjects $subjects;", "#"),
    ("proxy_set_header Connection \"\";", "proxy_set_header Connection $http_connection;"),
];
