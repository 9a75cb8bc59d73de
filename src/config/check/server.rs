//! `[server]` and `[admin]`: addresses, hosts, origins, TLS files.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::secret::Use;
use super::{Checker, Read, Section};
use crate::config::units::shorten;
use crate::config::{Admin, ClientCertificates, Listen, Server, Tls, Trust};

const LISTEN_ALLOWED: &str =
    "allowed: \"127.0.0.1:8080\", \"[::1]:8080\", \"localhost:8080\", \"unix:/absolute/path\", \"systemd:name\"";

pub(super) fn check(cx: &mut Checker<'_>, section: &Section<'_>, trust: Option<&Trust>) -> Server {
    let listen = listeners(cx, section);
    Server {
        proxy_protocol: proxy_protocol(cx, section, &listen, trust),
        listen,
        hosts: section.texts("hosts").iter().filter_map(|read| host(cx, read)).collect(),
        origins: section.texts("origins").iter().filter_map(|read| origin(cx, read)).collect(),
        drain_window: cx.duration(section, "drain_window"),
        max_age: Some(cx.duration_or_zero(section, "max_age")).filter(|age| !age.is_zero()),
        header_timeout: cx.duration(section, "header_timeout"),
        h2c: section.flag("h2c"),
        tls: section.optional("tls").and_then(|tls| check_tls(cx, &tls)),
    }
}

fn proxy_protocol(cx: &mut Checker<'_>, section: &Section<'_>, listen: &[Listen], trust: Option<&Trust>) -> bool {
    let asked = section.flag("proxy_protocol");
    if asked && trust.is_none_or(|trust| trust.proxies.is_empty()) {
        let message = "PROXY protocol headers are taken from trust.proxies only, and there is no address in it";
        cx.fault_in(section, "proxy_protocol", message, Some("name the load balancers' addresses or CIDRs there"));
    }
    if asked && trust.is_some_and(|trust| trust.address_is_proof) {
        let message = "with address_is_proof every client that a load balancer passes on can speak for any user";
        let note = Some(
            "use trust.secret_files or trust.client_certificate, unless it is itself the proxy that says who a user is",
        );
        cx.warn_in(section, "proxy_protocol", message, note);
    }
    if asked && !listen.is_empty() && listen.iter().all(|listen| matches!(listen, Listen::Unix(_))) {
        let message = "the PROXY protocol is read on TCP listeners only, and there is none";
        cx.warn_in(section, "proxy_protocol", message, None);
    }
    asked
}

pub(super) fn check_admin(cx: &mut Checker<'_>, section: &Section<'_>) -> Admin {
    let token = section.set_text("token_file").and_then(|read| cx.secret(&read, 1));
    let read = section.text("listen");
    let listen = read.as_ref().and_then(|read| listener(cx, read));
    if let (Some(read), Some(listen)) = (&read, &listen)
        && section.set_text("token_file").is_none()
    {
        guard_admin(cx, read, listen);
    }
    Admin { listen: listen.unwrap_or(Listen::Unix(PathBuf::new())), token }
}

fn guard_admin(cx: &mut Checker<'_>, read: &Read<'_, &str>, listen: &Listen) {
    // Where systemd has bound an inherited socket is seen when it is there (`server::listen::admin_is_private`).
    if let Listen::Tcp(address) = listen
        && !address.ip().is_loopback()
    {
        let message = format!("`{}` can be reached from other machines, and there is no admin.token_file", read.value);
        let note = Some("set admin.token_file, or listen on a loopback address or a unix socket");
        cx.fault_noted(read, message, note);
    }
}

fn listeners(cx: &mut Checker<'_>, section: &Section<'_>) -> Vec<Listen> {
    let reads = section.texts("listen");
    if reads.is_empty() {
        cx.fault_in(section, "listen", "at least one address is needed", Some(LISTEN_ALLOWED));
    }
    let mut seen: Vec<Listen> = Vec::new();
    for read in &reads {
        let Some(listen) = listener(cx, read) else { continue };
        // Port 0 is a new port each time.
        let twice = seen.contains(&listen) && !matches!(listen, Listen::Tcp(address) if address.port() == 0);
        if twice {
            cx.fault(read, format!("`{}` is listed twice", read.value));
        }
        seen.push(listen);
    }
    seen
}

fn listener(cx: &mut Checker<'_>, read: &Read<'_, &str>) -> Option<Listen> {
    match parse_listen(read.value) {
        Ok(listen) => Some(listen),
        Err(message) => {
            cx.fault_noted(read, message, Some(LISTEN_ALLOWED));
            None
        }
    }
}

/// Reads a listen address. Names other than `localhost` are refused: what a server binds should not depend on DNS.
fn parse_listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Listen::Unix);
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        // systemd.socket(5), FileDescriptorName=.
        let valid = !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        return if valid {
            Ok(Listen::Systemd(name.to_owned()))
        } else {
            Err("`systemd:` wants the socket's FileDescriptorName".to_owned())
        };
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Listen::Tcp(address));
    }
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok()) {
        return Ok(Listen::Tcp((Ipv4Addr::LOCALHOST, port).into()));
    }
    let shown = shorten(text);
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(format!("`{shown}` has no port"));
    }
    if let Some(port) = text.strip_prefix(':').filter(|port| port.parse::<u16>().is_ok()) {
        return Err(format!(
            "`{shown}` has no address; for every interface write \"0.0.0.0:{port}\" or \"[::]:{port}\""
        ));
    }
    Err(format!("`{shown}` is not an address to listen on"))
}

fn unix_path(path: &str) -> Result<PathBuf, String> {
    // sockaddr_un holds 108 bytes with the final NUL.
    match path {
        _ if !path.starts_with('/') || path.ends_with('/') => {
            Err("`unix:` wants an absolute path to the socket".to_owned())
        }
        _ if path.contains('\0') => Err("a path cannot hold a NUL".to_owned()),
        _ if path.len() > 107 => Err(format!("a unix socket path has at most 107 bytes, this one has {}", path.len())),
        _ => Ok(PathBuf::from(path)),
    }
}

fn host(cx: &mut Checker<'_>, read: &Read<'_, &str>) -> Option<String> {
    let host = read.value.to_ascii_lowercase();
    if is_host(&host) {
        return Some(host);
    }
    let note = "allowed: a name or address without scheme, port, path or wildcard, such as \"events.example.com\", \
                \"127.0.0.1\" or \"[::1]\"";
    cx.fault_noted(read, format!("`{}` is not a host name", shorten(read.value)), Some(note));
    None
}

/// A DNS name, an IPv4 address or an IPv6 address in brackets.
pub(super) fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// Splits `host[:port]`; `None` when either part is wrong.
pub(super) fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let colon = match authority.rfind(']') {
        Some(bracket) => authority[bracket..].find(':').map(|at| bracket + at),
        None => authority.find(':'),
    };
    let (host, port) = match colon {
        Some(at) => (&authority[..at], Some(authority[at + 1..].parse::<u16>().ok()?)),
        None => (authority, None),
    };
    is_host(host).then_some((host, port))
}

fn origin(cx: &mut Checker<'_>, read: &Read<'_, &str>) -> Option<String> {
    let note = Some("allowed: exactly `scheme://host[:port]`, such as \"https://app.example\"");
    let shown = shorten(read.value);
    let fault = match read.value {
        "*" => "`*` would let every page on the web connect with the user's credentials".to_owned(),
        "null" => "`null` is the origin of every sandboxed page and file".to_owned(),
        text => match parse_origin(text) {
            Some(origin) => return Some(origin),
            None => format!("`{shown}` is not an origin"),
        },
    };
    cx.fault_noted(read, fault, note);
    None
}

/// Browsers send origins in lower case and without the scheme's own port, so this is what is compared.
fn parse_origin(text: &str) -> Option<String> {
    let (scheme, authority) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let own_port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (host, port) = split_authority(authority)?;
    let host = host.to_ascii_lowercase();
    Some(match port.filter(|port| *port != own_port) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

fn check_tls(cx: &mut Checker<'_>, section: &Section<'_>) -> Option<Tls> {
    let proxies = client_certificates(cx, section);
    let (cert, key) = cx.pair(section, "cert", "key", "server.tls wants both `cert` and `key`", true)?;
    Some(Tls { cert, key, proxies })
}

fn client_certificates(cx: &mut Checker<'_>, section: &Section<'_>) -> Option<ClientCertificates> {
    let reads = section.texts("client_names");
    let names = reads.iter().filter_map(|read| dns_name(cx, read)).collect();
    let Some(ca) = section.set_text("client_ca") else {
        if let Some(read) = reads.first() {
            let note = Some("set server.tls.client_ca to the authority that signs them");
            cx.fault_noted(read, "no client certificate is asked for without client_ca", note);
        }
        return None;
    };
    if reads.is_empty() {
        let message = "every certificate that this authority signs is let in";
        cx.warn_in(section, "client_ca", message, Some("name the proxies in server.tls.client_names"));
    }
    Some(ClientCertificates { ca: cx.file(&ca, Use::Public)?, names })
}

/// A name as it stands in a certificate. A wildcard there is never a proxy's.
fn dns_name(cx: &mut Checker<'_>, read: &Read<'_, &str>) -> Option<String> {
    let name = read.value.to_ascii_lowercase();
    if is_host(&name) && name.parse::<IpAddr>().is_err() && !name.starts_with('[') {
        return Some(name);
    }
    let note = Some("allowed: exact DNS names, such as \"nginx.internal\"; no wildcards, no addresses");
    cx.fault_noted(read, format!("`{}` is not a DNS name", shorten(read.value)), note);
    None
}

impl Checker<'_> {
    /// A certificate and its key: both or none, or both always when `required`.
    pub(super) fn pair(
        &mut self,
        section: &Section<'_>,
        cert: &str,
        key: &str,
        both: &str,
        required: bool,
    ) -> Option<(PathBuf, PathBuf)> {
        let (cert_read, key_read) = (section.set_text(cert), section.set_text(key));
        // A value of the wrong type is there, and was reported.
        let absent = |name| section.set_text(name).is_none() && (!section.has(name) || section.text(name).is_some());
        for (other, name) in [(&key_read, cert), (&cert_read, key)] {
            match other {
                Some(other) if absent(name) => self.fault(other, both),
                None if required && absent(name) => self.fault_in(section, name, both, None),
                _ => {}
            }
        }
        let cert = cert_read.and_then(|read| self.file(&read, Use::Public));
        let key = key_read.and_then(|read| self.file(&read, Use::Secret));
        cert.zip(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_literal() {
        let tcp = |text: &str| Listen::Tcp(text.parse().expect("an address"));
        assert_eq!(parse_listen("[::1]:0"), Ok(tcp("[::1]:0")));
        assert_eq!(parse_listen("localhost:80"), Ok(tcp("127.0.0.1:80")));
        assert_eq!(parse_listen("unix:/run/x.sock"), Ok(Listen::Unix("/run/x.sock".into())));
        assert_eq!(parse_listen("systemd:public"), Ok(Listen::Systemd("public".into())));
        for bad in ["", "8080", ":8080", "127.0.0.1", "::1", "a.example:80", "unix:x", "systemd:", "127.0.0.1:99999"] {
            assert!(parse_listen(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        for good in ["127.0.0.1", "localhost", "[::1]", "events.example.com", "a_b"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", "::1", "[127.0.0.1]", "[::1", "[::1]:80", "localhost:80", "a..b", "a.", "*.a", "-a", "a/b"] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn origins_look_as_browsers_send_them() {
        assert_eq!(parse_origin("HTTPS://App.Example:443").as_deref(), Some("https://app.example"));
        assert_eq!(parse_origin("http://[::1]:3000").as_deref(), Some("http://[::1]:3000"));
        for bad in ["app.example", "https://", "https://a/", "https://a?b", "ftp://a", "https://*.a", "https://u@a"] {
            assert_eq!(parse_origin(bad), None, "{bad:?}");
        }
    }
}
