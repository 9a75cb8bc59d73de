//! What can be wrong with a chain: in words, with the directive that cures it and where to read on.

use serde_json::{Value, json};

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What it is.
    pub code: Code,
    /// What was measured.
    pub evidence: String,
}

/// Everything that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The stream cannot be opened.
    Refused,
    /// The proxy speaks HTTP/1.0 to the sidecar.
    Http10,
    /// The first frame comes late, or not at all.
    Buffering,
    /// Every event comes late.
    Delay,
    /// Heartbeats do not come when they were promised.
    Silent,
    /// The stream is ended without a word.
    CutOff,
    /// An outage ends every `EventSource` for good.
    NoRetryPage,
    /// The answer is compressed.
    Compressed,
    /// The answer may be stored or changed on the way.
    CacheControl,
    /// The answer is no event stream.
    ContentType,
    /// A client says who it is, and is believed.
    SpoofedIdentity,
    /// A client's header of trust reaches the sidecar.
    HeaderPasses,
    /// Browsers get HTTP/1.1 only.
    NoHttp2,
}

/// In words.
struct Words {
    code: &'static str,
    what: &'static str,
    nginx: &'static str,
    envoy: &'static str,
    haproxy: &'static str,
    caddy: &'static str,
    section: &'static str,
}

impl Code {
    /// Its name, for programs.
    pub fn as_str(self) -> &'static str {
        self.words().code
    }

    fn words(self) -> Words {
        match self {
            Self::Refused => Words {
                code: "refused",
                what: "no stream can be opened",
                nginx: "see what `sidestream explain` says of this request",
                envoy: "the same",
                haproxy: "the same",
                caddy: "the same",
                section: "401-though-logged-in",
            },
            Self::Http10 => Words {
                code: "http_1_0",
                what: "the proxy speaks HTTP/1.0 to sidestream, in which a stream cannot be told from an end",
                nginx: "proxy_http_version 1.1; proxy_set_header Connection \"\";",
                envoy: "does not do that",
                haproxy: "does not do that",
                caddy: "does not do that",
                section: "arrives-in-batches",
            },
            Self::Buffering => Words {
                code: "buffering",
                what: "something on the way holds the stream back",
                nginx: "proxy_buffering off; gzip off;",
                envoy: "no buffer filter, no compressor on this route",
                haproxy: "option http-no-delay; no `filter compression` here",
                caddy: "flush_interval -1; no encode for text/event-stream",
                section: "arrives-in-batches",
            },
            Self::Delay => Words {
                code: "delay",
                what: "every event is held back for a moment",
                nginx: "tcp_nodelay on; proxy_buffering off;",
                envoy: "no compressor on this route",
                haproxy: "option http-no-delay",
                caddy: "no encode for text/event-stream",
                section: "events-delayed-by-200-ms",
            },
            Self::Silent => Words {
                code: "silent",
                what: "heartbeats do not arrive when they were promised",
                nginx: "proxy_buffering off;",
                envoy: "no buffer filter on this route",
                haproxy: "option http-no-delay",
                caddy: "flush_interval -1",
                section: "arrives-in-batches",
            },
            Self::CutOff => Words {
                code: "cut_off",
                what: "the stream is ended on the way, without a word from sidestream",
                nginx: "proxy_read_timeout 75s; (five heartbeats)",
                envoy: "route: timeout: 0s, idle_timeout: 75s; stream_idle_timeout: 75s",
                haproxy: "timeout server 75s, timeout client 75s, or timeout tunnel",
                caddy: "no write timeout in servers.timeouts; no stream_timeout",
                section: "drops-every-60-seconds",
            },
            Self::NoRetryPage => Words {
                code: "no_retry_page",
                what: "while the sidecar is away, the answer ends every EventSource for good",
                nginx: "error_page 500 502 503 504 = @retry; and its location",
                envoy: "local_reply_config with status_code: 200 and body \"retry: 1000\\n\"",
                haproxy: "errorfiles, or http-error status 503 … with a 200 and `retry:`",
                caddy: "handle_errors with a 200 and `retry:`",
                section: "never-reconnects-after-a-deploy",
            },
            Self::Compressed => Words {
                code: "compressed",
                what: "the stream is compressed on the way, which costs memory for each client and may hold events back",
                nginx: "gzip off; in the location, and no text/event-stream in gzip_types",
                envoy: "no compressor, or disabled on this route",
                haproxy: "no text/event-stream in `compression type`",
                caddy: "no encode for text/event-stream on this route",
                section: "arrives-in-batches",
            },
            Self::CacheControl => Words {
                code: "cache_control",
                what: "Cache-Control is not what sidestream sent: something on the way may store the stream or change it",
                nginx: "no `expires`, no proxy_hide_header Cache-Control, proxy_cache off; in the location",
                envoy: "no response_headers_to_add or _to_remove of cache-control",
                haproxy: "no http-response set-header Cache-Control",
                caddy: "no header Cache-Control on this route",
                section: "arrives-in-batches",
            },
            Self::ContentType => Words {
                code: "content_type",
                what: "the answer is 200 and no event stream, which ends an EventSource for good",
                nginx: "the location must be the one of sidestream: location = /events",
                envoy: "the route must lead to sidestream's cluster",
                haproxy: "use_backend sidestream if { path /events }",
                caddy: "route /events must lead to sidestream",
                section: "never-reconnects-after-a-deploy",
            },
            Self::SpoofedIdentity => Words {
                code: "spoofed_identity",
                what: "a client that is nobody, or somebody else, says who it is and gets that user's stream",
                nginx: "auth_request, proxy_pass_request_headers off; and proxy_set_header for each header of trust",
                envoy: "ext_authz or jwt_authn on this route; early_header_mutation: remove",
                haproxy: "http-request del-header for each, before anything sets one; and an authentication",
                caddy: "request_header -X* before anything sets one, in `route`; and a question to the application",
                section: "a-client-can-say-who-it-is",
            },
            Self::HeaderPasses => Words {
                code: "identity_header_passes",
                what: "a client's own header of trust reaches sidestream",
                nginx: "proxy_pass_request_headers off; and proxy_set_header for each; underscores_in_headers off;",
                envoy: "early_header_mutation: remove; headers_with_underscores_action: REJECT_REQUEST",
                haproxy: "http-request del-header connection, and for each: del-header ^x[-_.] -m reg, before any is set",
                caddy: "request_header -X* and -Connection, first in `route`",
                section: "a-client-can-say-who-it-is",
            },
            Self::NoHttp2 => Words {
                code: "no_http2",
                what: "HTTP/2 is not offered: a browser has six connections for all tabs of a site, and each stream takes one",
                nginx: "listen 443 ssl http2; (from 1.25.1: http2 on;)",
                envoy: "alpn_protocols: [h2, http/1.1]",
                haproxy: "bind … alpn h2,http/1.1",
                caddy: "servers.protocols h1 h2",
                section: "the-seventh-tab-hangs",
            },
        }
    }
}

impl Finding {
    /// One object for programs.
    pub fn json(&self) -> Value {
        let words = self.code.words();
        json!({
            "code": words.code,
            "what": words.what,
            "evidence": self.evidence,
            "cure": {"nginx": words.nginx, "envoy": words.envoy, "haproxy": words.haproxy, "caddy": words.caddy},
            "docs": format!("docs/troubleshooting.md#{}", words.section),
        })
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let words = self.code.words();
        format!(
            "{}: {}\n  measured  {}\n  nginx     {}\n  Envoy     {}\n  HAProxy   {}\n  Caddy     {}\n  read on   docs/troubleshooting.md#{}\n",
            words.code, words.what, self.evidence, words.nginx, words.envoy, words.haproxy, words.caddy, words.section
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Code; 13] = [
        Code::Refused,
        Code::Http10,
        Code::Buffering,
        Code::Delay,
        Code::Silent,
        Code::CutOff,
        Code::NoRetryPage,
        Code::Compressed,
        Code::CacheControl,
        Code::ContentType,
        Code::SpoofedIdentity,
        Code::HeaderPasses,
        Code::NoHttp2,
    ];

    #[test]
    fn every_finding_has_a_section_to_read_on() {
        let page = include_str!("../../docs/troubleshooting.md");
        let titles = page.lines().filter_map(|line| line.strip_prefix("## "));
        let anchors: Vec<String> = titles.map(|title| title.to_lowercase().replace(' ', "-")).collect();
        for (number, code) in ALL.iter().enumerate() {
            let words = code.words();
            assert!(anchors.iter().any(|anchor| anchor == words.section), "{}: {}", words.code, words.section);
            assert!(ALL[..number].iter().all(|other| other.as_str() != words.code), "{} stands twice", words.code);
        }
    }
}
