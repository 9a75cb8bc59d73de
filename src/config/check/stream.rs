//! `[[stream]]`: names and subjects of JetStream streams.

use super::{Checker, Read, Section};
use crate::config::Stream;
use crate::config::units::shorten;
use crate::subject::Pattern;

/// The server keeps a stream's name in a file name.
const NAME_BYTES_MAX: usize = 255;

/// `named` are the streams that routes name: only those are ever looked at.
pub(super) fn check(cx: &mut Checker<'_>, root: &Section<'_>, named: &[String]) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    for section in root.sections("stream") {
        let Some(name) = name(cx, &section) else { continue };
        if streams.iter().any(|stream| stream.name == name) {
            cx.fault_in(&section, "name", format!("the stream `{name}` is configured twice"), None);
        }
        if !named.contains(&name) {
            let message = format!("no route names the stream `{}`: it is neither created nor checked", shorten(&name));
            cx.warn_in(&section, "name", message, Some("name it as the `stream` of a route, or leave this table out"));
        }
        let subjects = subjects(cx, &section);
        let create = section.flag("create");
        if create && section.texts("subjects").is_empty() {
            cx.fault_in(&section, "subjects", "a stream that may be created needs subjects", None);
        }
        let max_age = cx.duration_or_zero(&section, "max_age");
        // The server counts in signed 64 bits.
        let max_bytes = cx.size(&section, "max_bytes", 0..=i64::MAX as u64);
        streams.push(Stream { name, subjects, create, max_age, max_bytes });
    }
    streams
}

fn name(cx: &mut Checker<'_>, section: &Section<'_>) -> Option<String> {
    match section.text("name") {
        Some(read) => {
            check_name(cx, &read);
            Some(read.value.to_owned())
        }
        None => {
            if !section.has("name") {
                cx.fault_in(section, "", "a stream needs a `name`", None);
            }
            None
        }
    }
}

fn subjects(cx: &mut Checker<'_>, section: &Section<'_>) -> Vec<String> {
    let mut subjects = Vec::new();
    for read in section.texts("subjects") {
        match Pattern::parse(read.value) {
            Ok(_) => subjects.push(read.value.to_owned()),
            Err(error) => cx.fault(&read, format!("`{}`: {error}", shorten(read.value))),
        }
    }
    subjects
}

/// The naming rules of JetStream.
pub(super) fn check_name(cx: &mut Checker<'_>, read: &Read<'_, &str>) {
    let name = read.value;
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(bad) {
        let note = "allowed: 1 to 255 bytes without white space, control characters and `. * > / \\`";
        cx.fault_noted(read, format!("`{}` is not a stream name", shorten(name)), Some(note));
    }
}
