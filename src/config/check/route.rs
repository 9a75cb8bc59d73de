//! `[[route]]`: paths, templates and the variables they may name.

use std::collections::{HashMap, HashSet};

use super::stream::check_name;
use super::{Checker, Read, Section};
use crate::config::units::shorten;
use crate::config::{Format, Identity};
use crate::frame::{EventNaming, Payload, checked_name};
use crate::route::{Audience, PathTemplate, Route, RouteTable};
use crate::subject::{PATTERN_TOKENS_MAX, Pattern, Template};

/// Shards and feeds number streams and formats in eight bits; a route brings at most one of each.
const ROUTES_MAX: usize = 255;

pub(super) fn check(cx: &mut Checker<'_>, root: &Section<'_>, identity: &Identity, trusted: bool) -> RouteTable {
    let sections = root.sections("route");
    if sections.is_empty() {
        let note = "write at least one `[[route]]`, with a path and subjects";
        cx.fault_in(root, "route", "no route is configured, so there is nothing to serve", Some(note));
    }
    if let Some(section) = sections.get(ROUTES_MAX) {
        let message = format!("{} routes were read; allowed are 1 to {ROUTES_MAX}", sections.len());
        cx.fault_in(section, "", message, Some("one route with {captures} in its path and subjects serves many paths"));
    }
    let mut table = RouteTable::default();
    let mut shapes = HashMap::new();
    for section in &sections {
        let path = path(cx, section, &mut shapes);
        let route = one(cx, section, identity, path, &mut table);
        if let Some(route) = route {
            table.routes.push(route);
        }
    }
    check_claims(cx, &sections, &table.claims);
    let needs_user = |section: &&Section<'_>| section.text("audience").is_some_and(|read| read.value == "user");
    if let Some(section) = sections.iter().find(needs_user).filter(|_| !trusted) {
        let message =
            "this route wants an identity, but without [trust] every identity header is refused: nobody can connect";
        cx.warn_in(section, "audience", message, Some("add [trust] with the proxy that authenticates users"));
    }
    table
}

/// A name is vouched for by the proxy on every route, or chosen by the client on every route.
fn check_claims(cx: &mut Checker<'_>, sections: &[Section<'_>], claims: &[String]) {
    for section in sections {
        let path = section.text("path").and_then(|read| PathTemplate::parse(read.value).ok());
        for capture in
            path.iter().flat_map(PathTemplate::captures).filter(|name| claims.iter().any(|claim| claim == name))
        {
            let message = format!("the capture `{{{capture}}}` has the name of a claim that another route uses");
            cx.fault_in(section, "path", message, Some("give one of them another name"));
        }
    }
}

/// The rest is checked even when the path was refused.
fn one(
    cx: &mut Checker<'_>,
    section: &Section<'_>,
    identity: &Identity,
    path: Option<PathTemplate>,
    table: &mut RouteTable,
) -> Option<Route> {
    let audiences = [("user", Audience::User), ("anyone", Audience::Anyone)];
    let audience = cx.choice(section, "audience", &audiences, Audience::User);
    let mut scope = Scope::new(path.as_ref(), identity, audience);
    if let Some(path) = &path {
        scope.check_captures(cx, section, path);
    }
    let subjects = templates(cx, section, "subjects", &mut scope);
    let live_subjects = templates(cx, section, "live_subjects", &mut scope);
    for claim in scope.claims {
        intern(&mut table.claims, claim);
    }
    let allow = allow(cx, section, identity);
    if ["subjects", "live_subjects", "allow"].iter().all(|key| nothing(section, key)) {
        let note = "set subjects, live_subjects, or allow with identity.subjects_header";
        cx.fault_in(section, "", "this route offers nothing", Some(note));
    }
    let stream = section.text("stream").map(|read| {
        check_name(cx, &read);
        intern(&mut table.streams, read.value.to_owned())
    });
    let format = format(cx, section);
    let format = intern(&mut table.formats, format);
    let select = section.flag("select");
    let last_value = section.flag("last_value");
    if last_value && stream.is_none() {
        let message = "last values are kept by streams, and this route has none";
        cx.fault_in(section, "last_value", message, Some("set `stream`, or leave the key out"));
    }
    Some(Route { path: path?, stream, subjects, allow, live_subjects, audience, format, select, last_value })
}

fn nothing(section: &Section<'_>, key: &str) -> bool {
    match section.table.get(key).map(|node| &node.value) {
        None => true,
        Some(crate::config::tree::Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

fn path(cx: &mut Checker<'_>, section: &Section<'_>, shapes: &mut HashMap<String, String>) -> Option<PathTemplate> {
    let Some(read) = section.text("path") else {
        if !section.has("path") {
            cx.fault_in(section, "", "a route needs a `path`", Some("such as path = \"/events\""));
        }
        return None;
    };
    let path = match PathTemplate::parse(read.value) {
        Ok(path) => path,
        Err(error) => {
            cx.fault(&read, error.to_string());
            return None;
        }
    };
    // Two routes that differ only in the names of captures match the same requests.
    let shape: Vec<&str> = read.value.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect();
    if let Some(earlier) = shapes.insert(shape.join("/"), read.value.to_owned()) {
        cx.fault(&read, format!("`{}` matches the same requests as the route `{earlier}` above", read.value));
    }
    Some(path)
}

/// The variables that a route's templates may name.
struct Scope<'s> {
    names: HashSet<&'s str>,
    identity: &'s Identity,
    audience: Audience,
    /// Names that are none of these, and so the names of claims.
    claims: Vec<String>,
    /// The path was refused: its captures are not known, so unknown names are not reported.
    open: bool,
}

impl<'s> Scope<'s> {
    fn new(path: Option<&'s PathTemplate>, identity: &'s Identity, audience: Audience) -> Self {
        let mut names: HashSet<&str> = path.into_iter().flat_map(PathTemplate::captures).collect();
        if audience == Audience::User {
            names.insert("user");
            names.extend(identity.variables.keys().map(String::as_str));
        }
        Self { names, identity, audience, claims: Vec::new(), open: path.is_none() }
    }

    /// A capture is what the client asks for; it must not be able to stand in for what the proxy vouches for.
    fn check_captures(&self, cx: &mut Checker<'_>, section: &Section<'_>, path: &PathTemplate) {
        for capture in path.captures() {
            if capture == "user" {
                cx.fault_in(section, "path", "a capture named `user` would let the client choose who it is", None);
            } else if self.identity.variables.contains_key(capture) {
                let message = format!("the capture `{{{capture}}}` has the name of identity.variables.{capture}");
                cx.fault_in(section, "path", message, Some("give one of them another name"));
            }
        }
    }

    fn check(&mut self, cx: &mut Checker<'_>, read: &Read<'_, &str>, name: &str) {
        if self.names.contains(name) {
            return;
        }
        let claims = self.identity.claims_header.is_some();
        let of_identity = name == "user" || self.identity.variables.contains_key(name);
        if self.audience == Audience::Anyone && of_identity {
            let message = format!("`{{{name}}}` comes from the identity, and audience = \"anyone\" has none");
            cx.fault_noted(read, message, Some("set audience = \"user\", or use a capture of the path"));
        } else if self.open {
            // Perhaps a capture of the path that was refused.
        } else if self.audience == Audience::User && claims && name == "sub" {
            // As `{user}` it is encoded where it has to be; beside it, the same token could mean two users.
            cx.fault_noted(read, "the claim `sub` is the user", Some("write `{user}`"));
        } else if self.audience == Audience::User && claims {
            self.claims.push(name.to_owned());
        } else {
            let mut known: Vec<String> = self.names.iter().map(|name| format!("{{{name}}}")).collect();
            known.sort();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let note = format!(
                "available here: {known}; more come from captures of the path, identity.variables, and claims with identity.claims_header"
            );
            cx.fault_noted(read, format!("there is no variable `{{{}}}`", shorten(name)), Some(&note));
        }
    }
}

fn templates(cx: &mut Checker<'_>, section: &Section<'_>, key: &str, scope: &mut Scope<'_>) -> Vec<Template> {
    let mut templates = Vec::new();
    for read in section.texts(key) {
        match Template::parse(read.value) {
            Ok(template) => {
                template.variables().for_each(|name| scope.check(cx, &read, name));
                templates.push(template);
            }
            Err(error) => cx.fault(&read, format!("`{}`: {error}", shorten(read.value))),
        }
    }
    templates
}

fn allow(cx: &mut Checker<'_>, section: &Section<'_>, identity: &Identity) -> Vec<Pattern> {
    let reads = section.texts("allow");
    if !reads.is_empty() && identity.subjects_header.is_none() {
        let message = "nothing can ask for these: identity.subjects_header is not set";
        cx.warn_in(section, "allow", message, None);
    }
    let mut patterns = Vec::new();
    for read in &reads {
        match Pattern::parse(read.value) {
            Ok(_) if read.value.contains(['{', '}']) => {
                cx.fault(
                    read,
                    format!("`{}`: variables are for subjects; `allow` takes patterns", shorten(read.value)),
                );
            }
            Ok(pattern) => patterns.push(pattern),
            Err(error) => cx.fault(read, format!("`{}`: {error}", shorten(read.value))),
        }
    }
    patterns
}

fn format(cx: &mut Checker<'_>, section: &Section<'_>) -> Format {
    let payloads = [("text", Payload::Text), ("base64", Payload::Base64), ("envelope", Payload::Envelope)];
    let payload = cx.choice(section, "payload", &payloads, Payload::Text);
    let naming = section.text("event").map_or(EventNaming::Header, |read| naming(cx, &read));
    Format { naming, payload }
}

fn naming(cx: &mut Checker<'_>, read: &Read<'_, &str>) -> EventNaming {
    let note = "allowed: \"header\", \"subject\", \"token:N\" with N from 1, or a fixed name";
    if let Some(place) = read.value.strip_prefix("token:") {
        let place = place.parse::<u8>().ok().filter(|place| (1..=PATTERN_TOKENS_MAX).contains(&usize::from(*place)));
        if place.is_none() {
            let message = format!("`{}`: N is 1 to {PATTERN_TOKENS_MAX}", shorten(read.value));
            cx.fault_noted(read, message, Some(note));
        }
        return EventNaming::Token(place.unwrap_or(1));
    }
    match read.value {
        "header" => EventNaming::Header,
        "subject" => EventNaming::Subject,
        name => {
            if checked_name(name).is_none() {
                let message = format!(
                    "`{}` cannot be an event name: 1 to 256 bytes, no control characters, not `sidestream.…`",
                    shorten(name)
                );
                cx.fault_noted(read, message, Some(note));
            }
            EventNaming::Fixed(name.into())
        }
    }
}

/// The index of a value in a list of distinct ones.
fn intern<T: PartialEq>(list: &mut Vec<T>, value: T) -> usize {
    list.iter().position(|known| *known == value).unwrap_or_else(|| {
        list.push(value);
        list.len() - 1
    })
}
