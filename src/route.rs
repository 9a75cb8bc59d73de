//! Routes as values: path templates, what each offers, and the grant of one request.
//!
//! A [`Grant`] is made only by [`Route::grant`], from variables that are already single tokens, so nothing else can widen
//! what a client hears. Reading the identity is left to `http::identity`, listening to the shards.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Format;
use crate::subject::{Pattern, SubjectError, Template, Token};

/// All routes of a configuration, in file order, with their streams and formats numbered.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    /// The routes.
    pub routes: Vec<Route>,
    /// Distinct streams that routes name; [`Route::stream`] is an index into it.
    pub streams: Vec<String>,
    /// Distinct formats; [`Route::format`] is an index into it.
    pub formats: Vec<Format>,
    /// Distinct claims that templates name.
    pub claims: Vec<String>,
}

/// `[[route]]`, checked.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where it is served.
    pub path: PathTemplate,
    /// Index into [`RouteTable::streams`]; `None` is live only, without ids.
    pub stream: Option<usize>,
    /// Subjects with ids and replay when the route has a stream, live only otherwise.
    pub subjects: Vec<Template>,
    /// What `identity.subjects_header` may name here.
    pub allow: Vec<Pattern>,
    /// Core NATS subjects on the same connection: no id, not replayed.
    pub live_subjects: Vec<Template>,
    /// Who may connect.
    pub audience: Audience,
    /// Index into [`RouteTable::formats`].
    pub format: usize,
    /// `?subject=` may narrow the grant.
    pub select: bool,
    /// Streams begin with the last message of each subject.
    pub last_value: bool,
}

/// Who may connect to a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// 401 without identity.
    User,
    /// Everybody; templates then do not name `{user}`.
    Anyone,
}

/// The subject patterns that one identified request may hear. Only [`Route::grant`] makes one. Cloning shares them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    stream: Arc<[Pattern]>,
    live: Arc<[Pattern]>,
    last_values: bool,
}

impl Grant {
    /// Patterns heard from the route's stream.
    pub fn stream(&self) -> &[Pattern] {
        &self.stream
    }

    /// Patterns heard from core NATS.
    pub fn live(&self) -> &[Pattern] {
        &self.live
    }

    /// Whether it begins with the last message of each subject of the stream.
    pub fn last_values(&self) -> bool {
        self.last_values
    }

    /// A grant without a route.
    #[cfg(test)]
    pub(crate) fn of_stream(pattern: &str) -> Self {
        Self { stream: [Pattern::parse(pattern).expect("a pattern")].into(), ..Self::default() }
    }
}

/// Why there is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// A template variable without a value.
    #[error(transparent)]
    Template(#[from] SubjectError),
    /// A subject outside `route.allow`, or a selection outside the grant.
    #[error("a subject outside the grant was asked for")]
    Denied,
}

impl Route {
    /// Whether anything of it comes from core NATS.
    pub fn hears_live(&self) -> bool {
        self.stream.is_none() || !self.live_subjects.is_empty()
    }

    /// The grant of one request: templates filled with its variables, and the app's own decision (`named`), each of which
    /// must be inside `allow`.
    pub fn grant(&self, variables: &HashMap<&str, Token>, named: &[Pattern]) -> Result<Grant, GrantError> {
        let fill = |templates: &[Template]| {
            templates.iter().map(|t| t.fill(|name| variables.get(name))).collect::<Result<Vec<_>, _>>()
        };
        let mut own = fill(&self.subjects)?;
        for pattern in named {
            if !self.allow.iter().any(|allowed| allowed.contains(pattern)) {
                return Err(GrantError::Denied);
            }
            own.push(pattern.clone());
        }
        let mut live = fill(&self.live_subjects)?;
        let stream = if self.stream.is_some() {
            own
        } else {
            live.append(&mut own);
            Vec::new()
        };
        Ok(self.offer(stream, live))
    }

    fn offer(&self, stream: Vec<Pattern>, live: Vec<Pattern>) -> Grant {
        Grant { stream: minimal(stream), live: minimal(live), last_values: self.last_value && self.stream.is_some() }
    }

    /// Narrows a grant to the selected patterns, each of which must lie inside it (subset by token).
    pub fn narrow(&self, grant: &Grant, selected: &[Pattern]) -> Result<Grant, GrantError> {
        let (mut stream, mut live) = (Vec::new(), Vec::new());
        for pattern in selected {
            let inside = |granted: &[Pattern]| granted.iter().any(|g| g.contains(pattern));
            let (in_stream, in_live) = (inside(&grant.stream), inside(&grant.live));
            if in_stream {
                stream.push(pattern.clone());
            }
            if in_live {
                live.push(pattern.clone());
            }
            if !in_stream && !in_live {
                return Err(GrantError::Denied);
            }
        }
        Ok(self.offer(stream, live))
    }
}

/// Drops patterns that another one already covers.
fn minimal(mut patterns: Vec<Pattern>) -> Arc<[Pattern]> {
    patterns.sort();
    patterns.dedup();
    let covered = |p: &Pattern| patterns.iter().any(|other| other != p && other.contains(p));
    patterns.iter().filter(|p| !covered(p)).cloned().collect()
}

/// A path, literal or with whole-segment `{captures}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    text: Box<str>,
    segments: Box<[Segment]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Capture(Box<str>),
}

/// Why a path template was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not absolute.
    #[error("a path starts with `/`")]
    NotAbsolute,
    /// A capture that is not a whole segment or has a bad name.
    #[error("`{0}`: a capture is a whole path segment, as in `/rooms/{{room}}`")]
    BadCapture(String),
    /// A character that a decoded request path cannot hold.
    #[error("`{0}`: a path segment has no empty parts, `.`, `..`, `?`, `#`, `%`, white space or control characters")]
    BadSegment(String),
    /// The same capture twice.
    #[error("the capture `{{{0}}}` stands twice")]
    Twice(String),
}

impl PathTemplate {
    /// Parses `route.path`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let rest = text.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        let segments: Box<[Segment]> = if rest.is_empty() {
            Box::default()
        } else {
            rest.split('/').map(Segment::parse).collect::<Result<_, _>>()?
        };
        let template = Self { text: text.into(), segments };
        let mut names: Vec<&str> = template.captures().collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PathError::Twice(pair[0].to_owned()));
        }
        Ok(template)
    }

    /// The text as written; a closed set, so it may label metrics.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Names of its captures.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Capture(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// Matches a decoded path (see `http::path`), giving the captured segments.
    pub fn matches<'p>(&'p self, segments: &'p [String]) -> Option<Vec<(&'p str, &'p str)>> {
        if segments.len() != self.segments.len() {
            return None;
        }
        let mut captured = Vec::new();
        for (ours, theirs) in self.segments.iter().zip(segments) {
            match ours {
                Segment::Literal(literal) if **literal == **theirs => {}
                Segment::Literal(_) => return None,
                Segment::Capture(_) if theirs.is_empty() => return None,
                Segment::Capture(name) => captured.push((&**name, theirs.as_str())),
            }
        }
        Some(captured)
    }
}

impl Segment {
    fn parse(segment: &str) -> Result<Self, PathError> {
        if segment.contains(['{', '}']) {
            let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            return match name {
                Some(name) if crate::subject::is_variable_name(name) => Ok(Self::Capture(name.into())),
                _ => Err(PathError::BadCapture(segment.into())),
            };
        }
        let bad = segment.is_empty()
            || matches!(segment, "." | "..")
            || segment.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '%'));
        if bad { Err(PathError::BadSegment(segment.into())) } else { Ok(Self::Literal(segment.into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{EventNaming, Payload};

    fn route(subjects: &[&str], allow: &[&str], stream: bool) -> Route {
        let _ = Format { naming: EventNaming::Header, payload: Payload::Text };
        Route {
            path: PathTemplate::parse("/events").expect("a path"),
            stream: stream.then_some(0),
            subjects: subjects.iter().map(|s| Template::parse(s).expect("a template")).collect(),
            allow: allow.iter().map(|s| Pattern::parse(s).expect("a pattern")).collect(),
            live_subjects: Vec::new(),
            audience: Audience::User,
            format: 0,
            select: true,
            last_value: false,
        }
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|t| Pattern::parse(t).expect("a pattern")).collect()
    }

    fn alice() -> HashMap<&'static str, Token> {
        HashMap::from([("user", Token::parse("alice").expect("a token"))])
    }

    #[test]
    fn a_grant_names_one_user() {
        let route = route(&["events.user.{user}.>", "events.broadcast.>"], &[], true);
        let grant = route.grant(&alice(), &[]).expect("a grant");
        assert_eq!(grant.stream(), patterns(&["events.broadcast.>", "events.user.alice.>"]));
        assert!(grant.live().is_empty());
        assert!(route.grant(&HashMap::new(), &[]).is_err());
    }

    #[test]
    fn the_apps_decision_stays_inside_allow() {
        let route = route(&["events.broadcast.>"], &["orders.>"], true);
        assert!(route.grant(&alice(), &patterns(&["orders.7"])).is_ok());
        assert_eq!(route.grant(&alice(), &patterns(&["invoices.7"])), Err(GrantError::Denied));
        assert_eq!(route.grant(&alice(), &patterns(&[">"])), Err(GrantError::Denied));
    }

    #[test]
    fn a_selection_narrows_and_never_widens() {
        let route = route(&["orders.{user}.>"], &[], true);
        let grant = route.grant(&alice(), &[]).expect("a grant");
        assert!(route.narrow(&grant, &patterns(&["orders.alice.paid"])).is_ok());
        for outside in ["orders.alice2.x", "orders.*.x", "orders.>", "orders.alice", ">"] {
            assert_eq!(route.narrow(&grant, &patterns(&[outside])), Err(GrantError::Denied), "{outside}");
        }
    }

    /// What a pattern matches, written down as literally as NATS's documentation says it.
    fn naive(pattern: &[&str], subject: &[&str]) -> bool {
        match (pattern.split_first(), subject.split_first()) {
            (None, None) | (Some((&">", _)), Some(_)) => true,
            (Some((token, pattern)), Some((word, subject))) => {
                (*token == "*" || token == word) && naive(pattern, subject)
            }
            _ => false,
        }
    }

    /// Every subject of one to `length` words.
    fn subjects<'w>(words: &[&'w str], length: usize) -> Vec<Vec<&'w str>> {
        let mut all: Vec<Vec<&str>> = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..length {
            let longer =
                |text: &Vec<&'w str>| words.iter().map(|word| [text, &[*word][..]].concat()).collect::<Vec<_>>();
            let next: Vec<_> = all[from..].iter().flat_map(longer).collect();
            from = all.len();
            all.extend(next);
        }
        all.split_off(1)
    }

    /// All patterns of up to three tokens over two words, each with a bit for every subject that it matches, of all that
    /// could tell two of them apart.
    fn small_world() -> Vec<(Pattern, u128)> {
        let words = subjects(&["a", "b", "c"], 4);
        assert_eq!(words.len(), 120, "a bit for each");
        let valid = |tokens: &Vec<&str>| tokens.iter().position(|t| *t == ">").is_none_or(|at| at == tokens.len() - 1);
        let patterns = subjects(&["a", "b", "*", ">"], 3).into_iter().filter(valid);
        let heard = |pattern: &[&str]| {
            let matched = words.iter().enumerate().filter(|(_, word)| naive(pattern, word));
            matched.fold(0, |bits, (bit, _)| bits | 1 << bit)
        };
        patterns.map(|p| (Pattern::parse(&p.join(".")).expect("a pattern"), heard(&p))).collect()
    }

    fn heard(world: &HashMap<Pattern, u128>, patterns: &[Pattern]) -> u128 {
        patterns.iter().fold(0, |bits, pattern| bits | world[pattern])
    }

    /// Subset by token is subset by subject, for every pair there is; and whatever is selected of whatever is granted, nothing
    /// is heard that was not granted, from the stream or live, and all that was selected is.
    #[test]
    fn no_selection_hears_more_than_its_grant() {
        let all = small_world();
        assert_eq!(all.len(), 52);
        let world: HashMap<Pattern, u128> = all.iter().cloned().collect();
        let nobody = HashMap::new();
        for (stored, in_stream) in &all {
            for (live, in_live) in &all {
                assert_eq!(stored.contains(live), in_live & !in_stream == 0, "{stored} / {live}");
                let mut route = route(&[stored.as_str()], &[stored.as_str()], true);
                route.live_subjects = vec![Template::parse(live.as_str()).expect("a template")];
                let grant = route.grant(&nobody, &[]).expect("a grant");
                for (selected, wanted) in &all {
                    let inside = wanted & !in_stream == 0 || wanted & !in_live == 0;
                    let narrowed = route.narrow(&grant, std::slice::from_ref(selected));
                    assert_eq!(narrowed.is_ok(), inside, "{selected} of {stored} and {live}");
                    let Ok(narrowed) = narrowed else { continue };
                    let (from_stream, from_live) = (heard(&world, narrowed.stream()), heard(&world, narrowed.live()));
                    assert_eq!(from_stream & !in_stream, 0, "{selected} of {stored}");
                    assert_eq!(from_live & !in_live, 0, "{selected} of {live}");
                    assert_eq!(from_stream | from_live, *wanted, "{selected} of {stored} and {live}");
                }
                // What the application names, inside what the route allows.
                let named = route.grant(&nobody, std::slice::from_ref(live));
                assert_eq!(named.is_ok(), in_live & !in_stream == 0, "{live} where {stored} is allowed");
            }
        }
    }

    #[test]
    fn paths_match_by_segment() {
        let template = PathTemplate::parse("/rooms/{room}/events").expect("a path");
        let segments = |p: &str| p.split('/').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(template.matches(&segments("rooms/7/events")), Some(vec![("room", "7")]));
        assert_eq!(template.matches(&segments("rooms/7")), None);
        for bad in ["events", "/a//b", "/a/{b", "/{a}x", "/{a}/{a}", "/a/..", "/a?b"] {
            assert!(PathTemplate::parse(bad).is_err(), "{bad}");
        }
    }
}
