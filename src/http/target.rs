//! Path and query, decoded once; what is decoded here is what is authorised and used.

// Reads what others send: nothing here may panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use hyper::Uri;
use percent_encoding::percent_decode_str;

use super::reject::Refusal;

/// Longest request target, in bytes (requirement R19).
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// Most subjects that one request may select; each is matched against everything it missed.
pub const SUBJECTS_MAX: usize = 16;

/// The decoded segments of a path, without the leading slash. `/` has one empty segment, which matches no route.
///
/// Refuses what could be read in two ways: an encoded slash or NUL, `.` and `..`, bytes that are not UTF-8.
pub fn segments(uri: &Uri) -> Result<Vec<String>, Refusal> {
    let path = uri.path().strip_prefix('/').ok_or(Refusal::BadPath)?;
    path.split('/').map(segment).collect()
}

fn segment(raw: &str) -> Result<String, Refusal> {
    let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| Refusal::BadPath)?;
    let stray_percent = raw.bytes().filter(|b| *b == b'%').count() != escapes(raw);
    if stray_percent || matches!(&*decoded, "." | "..") || decoded.contains(['/', '\0', '\\']) {
        return Err(Refusal::BadPath);
    }
    Ok(decoded.into_owned())
}

fn escapes(raw: &str) -> usize {
    let is_escape = |w: &&[u8]| matches!(w, [b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit());
    raw.as_bytes().windows(3).filter(is_escape).count()
}

/// The query parameters we know; others are ignored, as proxies and frameworks add their own.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `last_event_id` or `lastEventId`.
    pub last_event_id: Option<Vec<u8>>,
    /// `subject`, repeatable.
    pub subjects: Vec<String>,
    /// `user`, which only the `dev` command looks at.
    pub user: Option<String>,
}

impl Query {
    /// Decodes a query. A known parameter twice (but `subject`), or bytes that are not UTF-8, are refused.
    pub fn parse(uri: &Uri) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for pair in uri.query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match &*decode(name)? {
                "last_event_id" | "lastEventId" => {
                    once(&mut query.last_event_id, percent_decode_str(&value.replace('+', " ")).collect())?;
                }
                "subject" if query.subjects.len() == SUBJECTS_MAX => return Err(Refusal::BadQuery),
                "subject" => query.subjects.push(decode(value)?),
                "user" => once(&mut query.user, decode(value)?)?,
                _ => {}
            }
        }
        Ok(query)
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    if place.replace(value).is_some() { Err(Refusal::BadQuery) } else { Ok(()) }
}

fn decode(text: &str) -> Result<String, Refusal> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| Refusal::BadQuery)?;
    if decoded.contains('\0') { Err(Refusal::BadQuery) } else { Ok(decoded.into_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().expect(text)
    }

    #[test]
    fn paths_are_decoded_once_and_unambiguously() {
        assert_eq!(segments(&uri("/a/b%20c")), Ok(vec!["a".into(), "b c".into()]));
        assert_eq!(segments(&uri("/a%2541")), Ok(vec!["a%41".into()]));
        for bad in ["/a%2fb", "/a%00", "/../a", "/%2e%2e/a", "/.", "/%ff", "/a%", "/a%2", "/a%zz", "/a%5cb"] {
            assert_eq!(segments(&uri(bad)), Err(Refusal::BadPath), "{bad}");
        }
    }

    #[test]
    fn known_parameters_stand_once() {
        let query = Query::parse(&uri("/e?last_event_id=a.b&x=1&x=2&subject=a&subject=b.%3e")).expect("fine");
        assert_eq!(query.last_event_id.as_deref(), Some(&b"a.b"[..]));
        assert_eq!(query.subjects, ["a", "b.>"]);
        for bad in ["/e?last_event_id=a&lastEventId=a", "/e?user=a&user=b", "/e?subject=%ff", "/e?subject=a%00"] {
            assert_eq!(Query::parse(&uri(bad)), Err(Refusal::BadQuery), "{bad}");
        }
        let many = format!("/e?{}", "subject=a&".repeat(SUBJECTS_MAX + 1));
        assert_eq!(Query::parse(&uri(&many)), Err(Refusal::BadQuery));
        assert_eq!(Query::parse(&uri("/e?last_event_id=%ff")).expect("kept as bytes").last_event_id, Some(vec![0xff]));
    }
}
