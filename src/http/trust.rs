//! Which peers may speak for a user, and from where a client really comes.
//!
//! A peer is proven by an address rule *and* a proof: its uid on the unix socket, its certificate, a shared secret, or the
//! operator's word that the address is proof enough. Nothing else looks at headers to tell.

use std::net::{IpAddr, SocketAddr};

use hyper::header::HeaderMap;
use subtle::ConstantTimeEq;

use crate::config::Trust;
use crate::telemetry::metrics::Proof;

/// Where proxies say from whom a request came to them.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// By TCP.
    Tcp(SocketAddr),
    /// By TCP, with a client certificate that `server.tls` accepted.
    Certified(SocketAddr),
    /// By TCP, with a PROXY protocol header.
    Proxied {
        /// The load balancer, which the rule of addresses is about.
        by: SocketAddr,
        /// Whose connection it passes on; absent where it does not say.
        client: Option<SocketAddr>,
        /// Whether that client showed a certificate that `server.tls` accepted.
        certified: bool,
    },
    /// On the unix socket.
    Unix {
        /// By `SO_PEERCRED`; absent if the kernel would not say.
        uid: Option<u32>,
    },
}

impl Peer {
    /// The client's address as far as the connection tells it; an IPv4 one never in IPv6 form.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) | Self::Certified(address) => Some(address),
            Self::Proxied { client, .. } => client,
            Self::Unix { .. } => None,
        }
        .map(|address| address.ip().to_canonical())
    }

    /// A word for it, for the log.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Certified(_) => "certified",
            Self::Proxied { .. } => "proxied",
            Self::Unix { .. } => "unix",
        }
    }

    /// The same with an accepted certificate.
    pub fn certified(self) -> Self {
        match self {
            Self::Tcp(address) => Self::Certified(address),
            Self::Proxied { by, client, .. } => Self::Proxied { by, client, certified: true },
            other => other,
        }
    }

    fn is_certified(self) -> bool {
        matches!(self, Self::Certified(_) | Self::Proxied { certified: true, .. })
    }
}

impl Trust {
    /// The address rule: only such a peer can be proven at all.
    pub fn admits_address(&self, peer: Peer) -> bool {
        match peer {
            Peer::Unix { .. } => self.unix,
            Peer::Tcp(address) | Peer::Certified(address) | Peer::Proxied { by: address, .. } => {
                let ip = address.ip().to_canonical();
                self.proxies.iter().any(|net| net.contains(&ip))
            }
        }
    }

    /// Whether a unix peer may connect: with `peer_uids` set, only those uids are listened to at all.
    pub fn admits_uid(&self, uid: Option<u32>) -> bool {
        self.peer_uids.is_empty() || uid.is_some_and(|uid| self.peer_uids.contains(&uid))
    }

    /// The address rule and one of the proofs; the strongest where there are several.
    pub fn proof(&self, peer: Peer, headers: &HeaderMap) -> Option<Proof> {
        if !self.admits_address(peer) {
            return None;
        }
        let by_certificate = || self.client_certificate && peer.is_certified();
        let by_secret = || !self.secrets.is_empty() && self.secret_proves(headers);
        match () {
            () if self.uid_proves(peer) => Some(Proof::Uid),
            () if by_certificate() => Some(Proof::Certificate),
            () if by_secret() => Some(Proof::Secret),
            () => self.address_is_proof.then_some(Proof::Address),
        }
    }

    /// Whether there is one.
    pub fn is_proven(&self, peer: Peer, headers: &HeaderMap) -> bool {
        self.proof(peer, headers).is_some()
    }

    fn uid_proves(&self, peer: Peer) -> bool {
        matches!(peer, Peer::Unix { uid: Some(uid) } if self.peer_uids.contains(&uid))
    }

    /// Exactly one secret header with one of the secrets, compared in constant time.
    fn secret_proves(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.secret_header).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        self.secrets.iter().fold(false, |found, secret| found | bool::from(secret.expose().ct_eq(value.as_bytes())))
    }

    /// The client's own address, for limits and logs only: the entry that the outermost trusted proxy appended to
    /// `X-Forwarded-For`, counted from the right over all lines; the peer's where the header is short or that entry garbled,
    /// or where nothing proves that the peer is the proxy. Not known where a proxy sends none: its own address would count
    /// all its clients as one.
    pub fn client_address(&self, peer: Peer, headers: &HeaderMap) -> Option<IpAddr> {
        if self.forwarded_for_hops == 0 || !self.is_proven(peer, headers) {
            return peer.address();
        }
        if !headers.contains_key(FORWARDED_FOR) {
            return if let Peer::Proxied { .. } = peer { peer.address() } else { None };
        }
        // On bytes: an entry or a line that was passed over would make one count that the client wrote.
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        let entry = entries.nth(usize::from(self.forwarded_for_hops) - 1);
        entry.and_then(parse_address).or(peer.address())
    }
}

/// An address as proxies write it: bare, with a port, or IPv6 in brackets. One with a zone means something to the proxy only.
fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok().filter(|text| !text.contains('%'))?;
    let bare = text.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    bare.or_else(with_port).or_else(bracketed).map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn trust() -> Trust {
        Trust {
            proxies: vec!["10.0.0.0/8".parse().expect("a net")],
            unix: true,
            peer_uids: vec![33],
            client_certificate: false,
            secret_header: "x-secret".into(),
            secrets: vec![Secret::new(b"first-secret-value\n"), Secret::new(b"second-secret-value")],
            forwarded_for_hops: 1,
            address_is_proof: false,
        }
    }

    fn tcp(ip: &str) -> Peer {
        Peer::Tcp(SocketAddr::new(ip.parse().expect("an address"), 1))
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().expect("a value"));
        }
        map
    }

    #[test]
    fn a_proof_needs_the_right_address_too() {
        let good = headers(&[("x-secret", "second-secret-value")]);
        assert!(trust().is_proven(tcp("10.1.2.3"), &good));
        assert!(trust().is_proven(tcp("::ffff:10.1.2.3"), &good));
        assert!(!trust().is_proven(tcp("192.168.0.1"), &good));
        assert!(!trust().is_proven(tcp("10.1.2.3"), &headers(&[])));
        assert!(!trust().is_proven(tcp("10.1.2.3"), &headers(&[("x-secret", "first-secret")])));
        let two = headers(&[("x-secret", "first-secret-value"), ("x-secret", "first-secret-value")]);
        assert!(!trust().is_proven(tcp("10.1.2.3"), &two));
        assert!(trust().is_proven(Peer::Unix { uid: Some(33) }, &headers(&[])));
        assert!(!trust().is_proven(Peer::Unix { uid: Some(34) }, &headers(&[])));
        assert!(!trust().is_proven(Peer::Unix { uid: None }, &headers(&[])));
    }

    #[test]
    fn a_certificate_is_a_proof_where_it_is_wanted_and_from_a_proxy() {
        let certified = |ip: &str| Peer::Certified(SocketAddr::new(ip.parse().expect("an address"), 1));
        let mut trust = trust();
        assert!(!trust.is_proven(certified("10.1.2.3"), &headers(&[])));
        trust.client_certificate = true;
        assert!(trust.is_proven(certified("10.1.2.3"), &headers(&[])));
        assert!(!trust.is_proven(certified("192.168.0.1"), &headers(&[])));
        assert!(!trust.is_proven(tcp("10.1.2.3"), &headers(&[])));
        let by = |ip: &str, certified| Peer::Proxied {
            by: SocketAddr::new(ip.parse().expect("an address"), 1),
            client: None,
            certified,
        };
        assert!(trust.is_proven(by("10.1.2.3", true), &headers(&[])));
        assert!(!trust.is_proven(by("10.1.2.3", false), &headers(&[])));
        assert!(!trust.is_proven(by("192.168.0.1", true), &headers(&[])));
    }

    #[test]
    fn the_address_is_believed_from_the_proven_proxy_only() {
        let forwarded = ("x-forwarded-for", "203.0.113.9");
        let address = |peer, more: &[(&'static str, &str)]| {
            trust().client_address(peer, &headers(&[more, &[forwarded]].concat())).map(|ip| ip.to_string())
        };
        let secret = [("x-secret", "first-secret-value")];
        assert_eq!(address(tcp("10.0.0.1"), &secret).as_deref(), Some("203.0.113.9"));
        assert_eq!(address(tcp("10.0.0.1"), &[]).as_deref(), Some("10.0.0.1"));
        assert_eq!(address(tcp("9.9.9.9"), &secret).as_deref(), Some("9.9.9.9"));
        assert_eq!(address(Peer::Unix { uid: Some(33) }, &[]).as_deref(), Some("203.0.113.9"));
        assert_eq!(address(Peer::Unix { uid: Some(34) }, &[]), None);
    }
}
