//! F3: templates, tokens, patterns and grants, against matching by hand.
//!
//! The input is lines: a template, a user, a subject, and patterns.

use std::collections::HashMap;

use sidestream::interest::Interest;
use sidestream::route::{Audience, PathTemplate, Route};
use sidestream::subject::{Pattern, Template, Token, encode_user};

use crate::input::Input;
use crate::oracle::subjects as oracle;

/// Patterns of one input: what is compared grows with their square.
const PATTERNS_MAX: usize = 12;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (template, user, subject) = (input.text_line(), input.text_line(), input.text_line());
    let mut patterns = Vec::new();
    while !input.is_empty() && patterns.len() < PATTERNS_MAX {
        patterns.extend(pattern(input.text_line()));
    }
    let token = token(user);
    encoded(user);
    for a in &patterns {
        assert_eq!(a.matches(subject), oracle::matches(a.as_str(), subject), "{a} and {subject:?}");
        for b in &patterns {
            assert_eq!(a.contains(b), oracle::contains(a.as_str(), b.as_str()), "{a} contains {b}");
            assert_eq!(a.overlaps(b), oracle::overlap(a.as_str(), b.as_str()), "{a} overlaps {b}");
        }
    }
    interest(&patterns, subject);
    if let (Ok(template), Some(token)) = (Template::parse(template), token) {
        grant(template, &token, &patterns, subject);
    }
}

fn pattern(text: &str) -> Option<Pattern> {
    let parsed = Pattern::parse(text);
    assert_eq!(parsed.is_ok(), oracle::is_pattern(text), "{text:?}: {parsed:?}");
    parsed.ok()
}

fn token(user: &str) -> Option<Token> {
    let token = Token::parse(user);
    assert_eq!(token.is_some(), oracle::is_plain_token(user), "{user:?}");
    token
}

/// The token of an id leads back to it, so no two ids share one.
fn encoded(user: &str) {
    use base64::Engine as _;
    let Some(token) = encode_user(user) else {
        // Nothing but its length keeps visible ASCII from being encoded: four bytes for three.
        assert!(user.is_empty() || !user.bytes().all(|b| (b'!'..=b'~').contains(&b)) || user.len() > 96, "{user:?}");
        return;
    };
    assert!(oracle::is_plain_token(token.as_str()), "{user:?}: {token:?}");
    let decode = |text: &str| {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()?;
        String::from_utf8(bytes).ok()
    };
    if token.as_str() == user {
        // Nobody else is written like this: the id that would be is plain itself, or none.
        let double = decode(user).and_then(|other| encode_user(&other));
        assert!(double.is_none_or(|double| double.as_str() != user), "{user:?} is also {:?}", decode(user));
    } else {
        assert_eq!(decode(token.as_str()).as_deref(), Some(user));
    }
}

/// The index gives each pattern that matches once, and is empty when all have left.
fn interest(patterns: &[Pattern], subject: &str) {
    let mut interest = Interest::default();
    for (place, pattern) in patterns.iter().enumerate() {
        let leaf = interest.leaf_or_insert_with(pattern, Vec::new);
        interest.value_mut(leaf).push(place);
    }
    for left in 0..=patterns.len() {
        let mut found: Vec<usize> = Vec::new();
        interest.for_each_match(subject, |places: &Vec<usize>| found.extend(places));
        found.sort_unstable();
        let there = (left..patterns.len()).filter(|place| oracle::matches(patterns[*place].as_str(), subject));
        assert_eq!(found, there.collect::<Vec<_>>(), "{subject:?} in {patterns:?} from {left}");
        if let Some(pattern) = patterns.get(left) {
            let leaf = interest.leaf(pattern).expect("it is there");
            interest.value_mut(leaf).retain(|place| *place != left);
            if interest.value_mut(leaf).is_empty() {
                interest.remove(leaf);
            }
        }
    }
    assert_eq!(interest.nodes(), 1, "something is left of {patterns:?}");
}

/// Half of the patterns are what the application names and the route allows, half what the client selects.
fn grant(template: Template, user: &Token, patterns: &[Pattern], subject: &str) {
    let variables: Vec<String> = template.variables().map(str::to_owned).collect();
    let (named, selected) = patterns.split_at(patterns.len() / 2);
    let (allow, named) = named.split_at(named.len() / 2);
    let widest = template.widest();
    let text = template.as_str().to_owned();
    let route = Route {
        path: PathTemplate::parse("/e").expect("a path"),
        stream: Some(0),
        subjects: vec![template],
        allow: allow.to_vec(),
        live_subjects: Vec::new(),
        audience: Audience::User,
        format: 0,
        select: true,
        last_value: false,
    };
    let values: HashMap<&str, Token> = variables.iter().map(|name| (name.as_str(), user.clone())).collect();
    let inside = |pattern: &Pattern| allow.iter().any(|allowed| oracle::contains(allowed.as_str(), pattern.as_str()));
    let Ok(grant) = route.grant(&values, named) else {
        let filled = filled(&text, user.as_str());
        assert!(!named.iter().all(inside) || filled.len() > 512, "{text} for {user:?} and {named:?} was refused");
        return;
    };
    assert!(named.iter().all(inside), "{named:?} is more than {allow:?}");
    let own = filled(&text, user.as_str());
    assert_eq!(own.split('.').count(), text.split('.').count(), "a value is one token");
    assert!(oracle::is_pattern(&own) && oracle::contains(widest.as_str(), &own));
    let may_hear = |subject: &str| {
        oracle::matches(&own, subject) || named.iter().any(|pattern| oracle::matches(pattern.as_str(), subject))
    };
    let hears = |subject: &str| grant.stream().iter().any(|pattern| pattern.matches(subject));
    assert_eq!(hears(subject), may_hear(subject), "{grant:?} and {subject:?}");
    assert!(grant.live().is_empty());
    let granted = |pattern: &Pattern| grant.stream().iter().any(|g| oracle::contains(g.as_str(), pattern.as_str()));
    let narrowed = route.narrow(&grant, selected);
    assert_eq!(narrowed.is_ok(), selected.iter().all(granted), "{selected:?} of {grant:?}");
    if let Ok(narrowed) = narrowed {
        let selects = selected.iter().any(|pattern| oracle::matches(pattern.as_str(), subject));
        assert_eq!(narrowed.stream().iter().any(|pattern| pattern.matches(subject)), selects);
    }
}

fn filled(template: &str, value: &str) -> String {
    let tokens = template.split('.').map(|token| if token.starts_with('{') { value } else { token });
    tokens.collect::<Vec<_>>().join(".")
}
