//! Requests as rows write them, and as they go over HTTP/1.1 and HTTP/2.
//!
//! The first line is a method and a target, each further line a header; an empty line stands before a body. A good request's
//! headers are there unless the row has lines of the same name; a name alone takes one out. `raw:` stands before bytes that go
//! over HTTP/1.1 as they are.

use bytes::Bytes;
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Uri};

use crate::table::unescape;

/// A request.
pub struct Written {
    /// The bytes of the row, as it is.
    row: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    raw: bool,
}

impl Written {
    /// Reads a column, and fills it up with a good request's headers.
    pub fn read(column: &str, good: &[(&str, &str)]) -> Self {
        let row = unescape(column);
        if let Some(raw) = row.strip_prefix(b"raw:") {
            return Self { row: raw.to_vec(), headers: Vec::new(), body: Vec::new(), raw: true };
        }
        let (head, body) = match memchr::memmem::find(&row, b"\n\n") {
            Some(end) => (&row[..end], row[end + 2..].to_vec()),
            None => (&row[..], Vec::new()),
        };
        let mut lines = head.split(|b| *b == b'\n');
        let start = lines.next().unwrap_or_default().to_vec();
        let own: Vec<(Vec<u8>, Option<Vec<u8>>)> = lines.map(header).collect();
        let names = |wanted: &str| own.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()));
        let kept = good.iter().filter(|(name, _)| !names(name)).map(|(name, value)| ((*name).into(), (*value).into()));
        let written = own.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        Self { headers: kept.chain(written).collect(), row: start, body, raw: false }
    }

    /// What must not come back: target, values and body, as they are written and percent-decoded.
    pub fn payloads(&self) -> Vec<Vec<u8>> {
        let values = self.headers.iter().map(|(_, value)| value.clone());
        let all = values.chain([self.row.clone(), self.body.clone()]);
        all.flat_map(|text| [percent_encoding::percent_decode(&text).collect(), text]).collect()
    }

    /// Its bytes over HTTP/1.1.
    pub fn http1(&self) -> Vec<u8> {
        if self.raw {
            return self.row.clone();
        }
        let mut bytes = [&self.row[..], b" HTTP/1.1\r\n"].concat();
        for (name, value) in &self.headers {
            bytes.extend([name, &b": "[..], value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The same for HTTP/2: the first `Host` is the authority. Fails the test where it cannot be said there.
    pub fn http2(&self) -> (Request<()>, Bytes) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("over HTTP/2, names and targets are text");
        let start = text(&self.row);
        let (method, target) = start.split_once(' ').expect("a method and a target");
        let is_host = |(name, _): &&(Vec<u8>, Vec<u8>)| name.eq_ignore_ascii_case(b"host");
        let authority = self.headers.iter().find(is_host).map(|(_, value)| text(value));
        let mut uri = Uri::builder().path_and_query(target.parse::<PathAndQuery>().expect("a target"));
        if let Some(authority) = &authority {
            uri = uri.scheme("https").authority(authority.as_str());
        }
        let mut request = Request::builder().method(method).uri(uri.build().expect("a URI"));
        let mut hosts = 0;
        for (name, value) in &self.headers {
            hosts += usize::from(name.eq_ignore_ascii_case(b"host"));
            if !(name.eq_ignore_ascii_case(b"host") && hosts == 1) {
                request = request.header(&name[..], &value[..]);
            }
        }
        (request.body(()).expect("a request that HTTP/2 can carry"), self.body.clone().into())
    }
}

/// A line of a header, or the name of one that is taken out.
fn header(line: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    match memchr::memchr(b':', line) {
        Some(colon) => {
            let value = &line[colon + 1..];
            (line[..colon].to_vec(), Some(value.strip_prefix(b" ").unwrap_or(value).to_vec()))
        }
        None => (line.to_vec(), None),
    }
}
