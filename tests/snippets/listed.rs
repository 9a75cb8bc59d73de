//! Blocks that no rule can judge: pictures, and output that is told. Each is named by its page and a piece of its text, with
//! what shows it.

use super::Block;
use super::blocks::read;

/// What stands behind a block.
enum Shown {
    /// A picture of words, for the reader.
    Picture,
    /// A test, by file and name.
    By(&'static str, &'static str),
    /// What a program beside the page prints, measured when the page was written.
    Measured(&'static str),
}

use Shown::{By, Measured, Picture};

/// Page, piece of the text, what shows it. An empty piece stands for every block of the page.
const LISTED: [(&str, &str, Shown); 9] = [
    ("SECURITY.md", "anybody", Picture),
    ("docs/cli.md", "", By("tests/references.rs", "the_pages_are_those_that_the_program_prints")),
    (
        "docs/nats.md",
        "publish    $JS.API.STREAM.INFO.EVENTS",
        By("tests/account.rs", "the_account_of_the_example_is_enough"),
    ),
    (
        "docs/presence.md",
        "\"event\":\"connect\"",
        By("tests/presence.rs", "two_tabs_are_one_connect_and_one_disconnect"),
    ),
    (
        "docs/quick-start.md",
        "-- connected, from the head on",
        By("src/tail/tests.rs", "our_own_events_are_told_in_words"),
    ),
    ("docs/upstream/async-nats-not-utf8.md", "nats-server", Measured("docs/upstream/async-nats-not-utf8.rs")),
    ("docs/wire-format.md", "x-accel-buffering: no", By("tests/stream.rs", "the_first_bytes_are_the_contract")),
    ("docs/wire-format.md", "sidestream-refused: drain", By("tests/support/client.rs", "is_soft_refusal")),
    ("docs/wire-format.md", "identity_missing", By("tests/support/client.rs", "is_refusal")),
];

fn is(block: &Block, page: &str, piece: &str) -> bool {
    block.page == page && block.text.contains(piece)
}

pub fn is_listed(block: &Block) -> bool {
    LISTED.iter().any(|(page, piece, _)| is(block, page, piece))
}

/// Rows that stand for nothing, or are shown by nothing.
pub fn faults(blocks: &[Block]) -> Vec<String> {
    let unused = |page: &str, piece: &str| !blocks.iter().any(|block| is(block, page, piece));
    let unshown = |shown: &Shown| match shown {
        Picture => false,
        By(file, test) => !read(file).contains(&format!("fn {test}(")),
        Measured(program) => read(program).is_empty(),
    };
    let faults = LISTED.iter().filter(|(page, piece, shown)| unused(page, piece) || unshown(shown));
    faults
        .map(|(page, piece, _)| format!("listed in vain, or by a test that is not there: {page}, {piece:?}"))
        .collect()
}
