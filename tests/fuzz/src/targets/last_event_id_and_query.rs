//! F2: a last event ID, as a header and out of a query; and the query around it.
//!
//! What is read as a cursor is written again as the same bytes, and what is percent-encoded comes back as it was.

use hyper::Uri;
use sidestream::cursor::{BadCursor, LastEventId};
use sidestream::http::target::Query;

use crate::input::Input;
use crate::oracle::percent;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let id = input.line();
    last_event_id(id);
    in_a_query(id);
    if let Ok(uri) = Uri::try_from([b"/e?", input.rest()].concat()) {
        query(&uri);
    }
}

fn last_event_id(id: &[u8]) {
    let read = LastEventId::parse(id);
    let is_good = id.len() <= 256 && id.iter().all(|byte| (b'!'..=b'~').contains(byte));
    assert_eq!(read.is_err(), !is_good, "{}", id.escape_ascii());
    match read {
        Err(BadCursor) => {}
        Ok(LastEventId::Absent) => assert!(id.is_empty()),
        Ok(LastEventId::Unknown) => assert!(!is_cursor(id), "not known: {}", id.escape_ascii()),
        Ok(LastEventId::Cursor(cursor)) => {
            assert!(is_cursor(id), "{cursor} is none: {}", id.escape_ascii());
            assert_eq!(cursor.to_string().as_bytes(), id);
        }
    }
}

/// Three numbers in base 36, each written in the only way there is, with 64 bits.
fn is_cursor(id: &[u8]) -> bool {
    let text = String::from_utf8_lossy(id);
    let parts: Vec<&str> = text.split('.').collect();
    let is_number = |part: &&str| {
        let lower = part.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase());
        let canonical = !part.is_empty() && (*part == "0" || !part.starts_with('0'));
        lower && canonical && u64::from_str_radix(part, 36).is_ok()
    };
    parts.len() == 3 && parts.iter().all(is_number)
}

fn in_a_query(id: &[u8]) {
    if id.len() > 1000 {
        return;
    }
    for name in ["last_event_id", "lastEventId"] {
        let uri: Uri = format!("/e?a=b&{name}={}", percent::encode(id)).parse().expect("visible ASCII");
        let query = Query::parse(&uri).expect("one parameter that is known");
        assert_eq!(query.last_event_id.as_deref(), Some(id));
    }
}

fn query(uri: &Uri) {
    let parsed = Query::parse(uri);
    let Some(expected) = read_query(uri.query().unwrap_or_default()) else {
        assert!(parsed.is_err(), "{uri}: {parsed:?}");
        return;
    };
    assert_eq!(parsed.as_ref(), Ok(&expected), "{uri}");
}

/// `None` where it is to be refused.
fn read_query(query: &str) -> Option<Query> {
    let mut ids = Vec::new();
    let mut users = Vec::new();
    let mut subjects = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent::decode_form(value.as_bytes());
        match text(percent::decode_form(name.as_bytes()))?.as_str() {
            "last_event_id" | "lastEventId" => ids.push(value),
            "user" => users.push(text(value)?),
            "subject" => subjects.push(text(value)?),
            _ => {}
        }
    }
    if ids.len() > 1 || users.len() > 1 || subjects.len() > 16 {
        return None;
    }
    Some(Query { last_event_id: ids.pop(), subjects, user: users.pop() })
}

fn text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}
