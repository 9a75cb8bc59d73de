//! The URL of a stream, taken apart: what to dial, what to ask for, what to call the server.

use hyper::Uri;

/// Where a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As the URL has it, for the `Host` header.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) path: String,
}

impl Target {
    /// Reads an absolute URL. Strict, because a URL that is half understood is dialled at the wrong place.
    pub(crate) fn parse(url: &str) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "this is not a URL")?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err("only http:// and https:// can be read"),
            None => return Err("write it with http:// or https:// in front"),
        };
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("a user and password in a URL are not used; send a header instead");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("it names no host");
        }
        let port = match (authority.port_u16(), authority.as_str().strip_prefix(authority.host())) {
            (Some(port), _) => port,
            (None, Some("")) => {
                if tls {
                    443
                } else {
                    80
                }
            }
            (None, _) => return Err("its port is not a number up to 65535"),
        };
        let path = match uri.path_and_query().map(|path| path.as_str()) {
            Some(path) if path.starts_with('/') => path.to_owned(),
            // `http://host?a=b` has a query and no path, but a request needs one.
            query => format!("/{}", query.unwrap_or_default()),
        };
        Ok(Self { tls, host: host.to_owned(), port, authority: authority.to_string(), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let cases = [
            ("http://127.0.0.1:8080/events?user=alice", (false, "127.0.0.1", 8080, "/events?user=alice")),
            ("https://example.com/events", (true, "example.com", 443, "/events")),
            ("http://[::1]:99", (false, "::1", 99, "/")),
            ("http://localhost?a=b#fragment", (false, "localhost", 80, "/?a=b")),
        ];
        for (url, (tls, host, port, path)) in cases {
            let target = Target::parse(url).expect(url);
            assert_eq!((target.tls, &*target.host, target.port, &*target.path), (tls, host, port, path), "{url}");
        }
        assert_eq!(Target::parse("http://[::1]:99").expect("valid").authority, "[::1]:99");
    }

    #[test]
    fn urls_that_would_be_dialled_at_the_wrong_place_are_refused() {
        let refused = [
            "localhost:8080/events",
            "/events",
            "ftp://example.com/",
            "http://",
            "http://a b/",
            "http://user:secret@example.com/",
            "http://example.com:99999/",
            "http://example.com:/",
            "",
        ];
        for url in refused {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
