//! The fenced blocks of the pages. What becomes of them is for others.

use std::path::Path;

/// One fenced block.
pub struct Block {
    /// The page, as a path in the repository.
    pub page: String,
    /// The line of the opening fence, from 1 on.
    pub line: usize,
    /// What stands behind the fence.
    pub language: String,
    /// The lines between the fences, each with its end.
    pub text: String,
}

/// Every block of every page.
pub fn all() -> Vec<Block> {
    let mut pages = vec!["README.md".to_owned(), "SECURITY.md".to_owned()];
    pages_below(Path::new("docs"), &mut pages);
    pages.iter().flat_map(|page| of_page(page, &read(page))).collect()
}

/// A file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(super::root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn pages_below(dir: &Path, pages: &mut Vec<String>) {
    for entry in std::fs::read_dir(super::root().join(dir)).expect("a directory of the repository").flatten() {
        let path = dir.join(entry.file_name());
        if entry.path().is_dir() {
            pages_below(&path, pages);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path.to_str().expect("our names are ASCII").to_owned());
        }
    }
}

/// A fence is a line of three backticks or tildes and more, behind any blanks; the same closes it.
fn fence(line: &str) -> Option<(&str, &str)> {
    let text = line.trim();
    let rest = text.trim_start_matches(['`', '~']);
    let fence = &text[..text.len() - rest.len()];
    (fence.starts_with("```") || fence.starts_with("~~~")).then_some((fence, rest.trim()))
}

fn of_page(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, usize, Block)> = None;
    for (line, number) in text.lines().zip(1..) {
        open = match (open, fence(line)) {
            (None, None) => None,
            (None, Some((fence, language))) => {
                let indent = line.len() - line.trim_start().len();
                let language = language.to_owned();
                Some((fence, indent, Block { page: page.to_owned(), line: number, language, text: String::new() }))
            }
            (Some((opened, _, block)), Some((closing, ""))) if opened == closing => {
                blocks.push(block);
                None
            }
            (Some((opened, indent, mut block)), _) => {
                // In a list the block stands as far to the right as its fence.
                block.text += line.get(indent..).unwrap_or_else(|| line.trim_start());
                block.text.push('\n');
                Some((opened, indent, block))
            }
        };
    }
    assert!(open.is_none(), "{page}: a block is not closed");
    blocks
}
