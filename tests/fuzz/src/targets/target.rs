//! F9: the path of a request, decoded, and what routes make of it.

use hyper::Uri;
use sidestream::http::reject::Refusal;
use sidestream::http::target::segments;
use sidestream::route::PathTemplate;

use crate::input::Input;
use crate::oracle::percent;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let template = input.text_line();
    let Ok(uri) = Uri::try_from(input.rest()) else { return };
    let segments = segments(&uri);
    match expected(uri.path()) {
        None => assert_eq!(segments, Err(Refusal::BadPath), "{uri}"),
        Some(expected) => {
            assert_eq!(segments.as_ref(), Ok(&expected), "{uri}");
            if let Ok(template) = PathTemplate::parse(template) {
                matches(&template, &expected);
            }
        }
    }
}

/// The segments, each decoded once; `None` where that could be read in two ways.
fn expected(path: &str) -> Option<Vec<String>> {
    let segments: Vec<&str> = path.split('/').collect();
    let [before, segments @ ..] = &segments[..] else { return None };
    if !before.is_empty() || segments.is_empty() {
        return None;
    }
    segments
        .iter()
        .map(|segment| {
            let text = String::from_utf8(percent::decode_strictly(segment.as_bytes())?).ok()?;
            let ambiguous = text == "." || text == ".." || text.chars().any(|c| matches!(c, '/' | '\\' | '\0'));
            (!ambiguous).then_some(text)
        })
        .collect()
}

fn matches(template: &PathTemplate, segments: &[String]) {
    let text = template.as_str();
    let captured = template.matches(segments);
    let wanted: Vec<&str> = text[1..].split('/').collect();
    // The root has no segments; a decoded path always has one.
    let fits = text != "/" && wanted.len() == segments.len();
    let fits = fits
        && wanted.iter().zip(segments).all(|(wanted, segment)| {
            if wanted.starts_with('{') { !segment.is_empty() } else { *wanted == segment.as_str() }
        });
    assert_eq!(captured.is_some(), fits, "{text} and {segments:?}");
    let captured = captured.unwrap_or_default();
    let pairs = wanted.iter().zip(segments).filter(|(wanted, _)| wanted.starts_with('{'));
    let expected: Vec<(String, &str)> =
        pairs.map(|(wanted, segment)| (wanted.replace(['{', '}'], ""), segment.as_str())).collect();
    if fits {
        let captured: Vec<(String, &str)> =
            captured.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(captured, expected);
    }
}
