//! `[presence]`: where it is told who is connected.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Checker, Section};
use crate::config::Presence;
use crate::config::units::shorten;
use crate::subject::Pattern;

/// Whoever is cut off for less than a second has not noticed; after ten minutes nobody comes back to the same page.
const GRACE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

pub(super) fn check(cx: &mut Checker<'_>, section: &Section<'_>) -> Option<Presence> {
    let grace = cx.duration_within(section, "grace", GRACE, "1s to 10m");
    let read = section.set_text("subject")?;
    let subject = match Pattern::parse(read.value) {
        Ok(subject) => subject,
        Err(error) => {
            cx.fault(&read, format!("`{}` is not a subject: {error}", shorten(read.value)));
            return None;
        }
    };
    if subject.is_wild() {
        cx.fault(&read, format!("`{}` has a wildcard: presence is published on one subject", shorten(read.value)));
        return None;
    }
    if read.value.starts_with(['_', '$']) {
        let note = "such as \"sidestream.presence\"";
        cx.fault_noted(&read, format!("`{}` is of NATS or of sidestream itself", shorten(read.value)), Some(note));
        return None;
    }
    Some(Presence { subject: read.value.to_owned(), grace })
}
