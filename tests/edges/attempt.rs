//! What a client sends: an honest request of alice's, and what is changed about it. Bytes, not an HTTP library's idea of them.

use crate::h2;
use crate::session::Session;

/// The name of the site in `conf/`.
pub const HOST: &str = "events.example.com";

/// Before the number of a request that is marked.
pub const MARK: &str = "mark=";

/// A request in the making.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Whose cookie.
    pub session: Session,
    /// Over HTTP/2.
    pub h2: bool,
    method: String,
    target: String,
    version: &'static str,
    hosts: Vec<String>,
    lines: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
}

impl Attempt {
    /// An `EventSource` of alice's.
    pub fn honest() -> Self {
        Self {
            session: Session::Alice,
            h2: false,
            method: "GET".to_owned(),
            target: "/events".to_owned(),
            version: "HTTP/1.1",
            hosts: vec![HOST.to_owned()],
            lines: vec![(b"Accept".to_vec(), b"text/event-stream".to_vec())],
            body: Vec::new(),
        }
    }

    /// Adds a line, raw.
    pub fn line(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.lines.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Takes out every line of this name.
    pub fn without(mut self, name: &str) -> Self {
        self.lines.retain(|(n, _)| !n.eq_ignore_ascii_case(name.as_bytes()));
        self
    }

    /// With another session.
    pub fn session(mut self, session: Session) -> Self {
        self.session = session;
        self
    }

    /// Over HTTP/2, names in lower case as they have to be.
    pub fn h2(mut self) -> Self {
        self.h2 = true;
        self.lines.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        self
    }

    /// Another method.
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// Another target, raw.
    pub fn target(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    /// Whether a mark in the query leaves the trick what it is.
    pub fn can_be_marked(&self) -> bool {
        self.target.starts_with('/') && !self.target.contains(['#', '\r'])
    }

    /// With a number at the end of the query, by which it can be told from others.
    pub fn marked(self, number: usize) -> Self {
        let separator = if self.target.contains('?') { '&' } else { '?' };
        let target = format!("{}{separator}{MARK}{number}", self.target);
        self.target(&target)
    }

    /// Another version.
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// Other hosts, or none; on HTTP/2 the first is the authority.
    pub fn hosts(mut self, hosts: &[&str]) -> Self {
        self.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        self
    }

    /// A body, announced by the caller's lines.
    pub fn body(mut self, body: &str) -> Self {
        self.body = body.into();
        self
    }

    fn h1_bytes(&self, cookie: Option<&str>) -> Vec<u8> {
        let mut bytes = format!("{} {} {}\r\n", self.method, self.target, self.version).into_bytes();
        let hosts = self.hosts.iter().map(|host| (b"Host".to_vec(), host.clone().into_bytes()));
        for (name, value) in hosts.chain(self.fields(cookie)) {
            bytes.extend([&name[..], b": ", &value[..], b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// What is to be sent, by its protocol.
    pub fn wire(&self, cookie: Option<&str>) -> Vec<u8> {
        if self.h2 { h2::request(&self.h2_fields(cookie), &self.body) } else { self.h1_bytes(cookie) }
    }

    fn h2_fields(&self, cookie: Option<&str>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pseudo = vec![(":method", self.method.as_str()), (":scheme", "https"), (":path", self.target.as_str())];
        pseudo.extend(self.hosts.first().map(|host| (":authority", host.as_str())));
        let hosts = self.hosts.iter().skip(1).map(|host| ("host", host.as_str()));
        let pairs = pseudo.into_iter().chain(hosts).map(|(name, value)| (name.into(), value.into()));
        pairs.chain(self.fields(cookie)).collect()
    }

    fn fields(&self, cookie: Option<&str>) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let cookie = cookie.map(|session| (b"cookie".to_vec(), format!("session={session}").into_bytes()));
        cookie.into_iter().chain(self.lines.clone())
    }
}
