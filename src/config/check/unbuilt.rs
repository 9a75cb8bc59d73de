//! Keys of the design that this version cannot honour yet: refused rather than ignored when they are set.

use super::{Checker, Section};
use crate::config::tree::Value;

/// Section, key, and what it would do.
const UNBUILT: [(&str, &str, &str); 1] = [("presence", "subject", "publish presence")];

pub(super) fn check(cx: &mut Checker<'_>, root: &Section<'_>) {
    for (name, key, what) in UNBUILT {
        refuse(cx, &root.section(name), key, what);
    }
}

fn refuse(cx: &mut Checker<'_>, section: &Section<'_>, key: &str, what: &str) {
    let asked = match section.table.get(key).map(|node| &node.value) {
        Some(Value::Flag(flag)) => *flag,
        Some(Value::Text(text)) => !text.is_empty(),
        Some(Value::Integer(number)) => *number > 0,
        Some(Value::Array(items)) => !items.is_empty(),
        _ => false,
    };
    if asked {
        cx.fault_in(section, key, format!("this version cannot {what} yet"), Some("leave the key out"));
    }
}
