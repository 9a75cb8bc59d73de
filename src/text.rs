//! Text that others wrote, made fit to be shown: one line, nothing that a terminal obeys, nothing that makes the rest of the
//! line read in another order than it stands. For logs and for what commands print; what goes into protocols is checked
//! where it is made.

// Reads what others send: nothing here may panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fmt::{self, Write};

/// The text with every character escaped that a reader would not see as it is.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    push_printable(&mut line, text);
    line
}

fn push_printable(line: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            _ if character.is_control() => line.extend(character.escape_default()),
            _ if is_unseen(character) => line.extend(character.escape_unicode()),
            _ => line.push(character),
        }
    }
}

/// Characters that show nothing themselves, but end a line, turn its direction or hide in a word.
fn is_unseen(character: char) -> bool {
    matches!(
        character,
        '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// A value as it shows itself, printable and cut off behind so many bytes: whoever made it up does not decide how long our line
/// is. One that is cut off ends in an ellipsis.
pub fn bounded(value: &dyn fmt::Display, bytes_max: usize) -> String {
    let mut shown = Bounded { line: String::new(), bytes_max };
    let whole = write!(shown, "{value}").is_ok();
    let mut line = shown.line;
    if !whole {
        line.push('…');
    }
    line
}

struct Bounded {
    line: String,
    bytes_max: usize,
}

impl Write for Bounded {
    /// An error ends the formatting of a value that is too long, which is then not made to its end.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.floor_char_boundary(self.bytes_max.saturating_sub(self.line.len()));
        push_printable(&mut self.line, text.get(..end).unwrap_or_default());
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(printable("a\u{1b}[31mb\r\nc\t\u{7f}\u{9b}"), "a\\u{1b}[31mb\\r\\nc\\t\\u{7f}\\u{9b}");
        assert_eq!(printable("a\u{202e}b\u{2028}\u{200b}\u{feff}"), "a\\u{202e}b\\u{2028}\\u{200b}\\u{feff}");
        assert_eq!(printable("Grüße, 世界 🚀 \\ \""), "Grüße, 世界 🚀 \\ \"");
    }

    #[test]
    fn a_long_value_is_cut_off() {
        assert_eq!(bounded(&"short", 5), "short");
        assert_eq!(bounded(&"longer", 5), "longe…");
        // Not inside a character, and not past the bound by what was written in pieces.
        assert_eq!(bounded(&"aßß", 4), "aß…");
        assert_eq!(bounded(&format_args!("{}{}", "abc", "def"), 4), "abcd…");
        assert_eq!(bounded(&"\n".repeat(10), 4), "\\n\\n\\n\\n…");
        assert!(bounded(&"\u{202e}".repeat(10_000), 1000).len() < 4000);
    }
}
