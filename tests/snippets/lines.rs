//! Blocks that are lines of a file, in its order; comments and blanks aside, and what the block leaves out.

use std::path::{Path, PathBuf};

use super::blocks::Block;

/// Whether one file below these directories has the lines of the block. Otherwise says which file comes nearest, and what it
/// lacks.
pub fn of_a_file(block: &Block, dirs: &[&str]) -> Result<(), String> {
    let wanted = bare(&block.text);
    if wanted.is_empty() {
        return Err("has no line but comments".to_owned());
    }
    let mut files = Vec::new();
    dirs.iter().for_each(|dir| files_below(&super::root().join(dir), &mut files));
    let mut nearest = (0, format!("{dirs:?} have nothing of it"));
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let Some(found) = missing(&wanted, &bare(&text)) else { return Ok(()) };
        if found > nearest.0 {
            let file = file.strip_prefix(super::root()).unwrap_or(&file);
            nearest = (found, format!("not in {} in this order: {:?}", file.display(), wanted[found]));
        }
    }
    Err(nearest.1)
}

/// The first line that does not follow, if there is one.
fn missing(wanted: &[String], lines: &[String]) -> Option<usize> {
    let mut rest = lines;
    wanted.iter().position(|wanted| {
        let end = (0..rest.len()).find_map(|at| Some(at + lines_that_make(wanted, &rest[at..])?));
        rest = &rest[end.unwrap_or(rest.len())..];
        end.is_none()
    })
}

/// How many lines, from the first on, make the wanted one: a formatter may have broken it.
fn lines_that_make(wanted: &str, lines: &[String]) -> Option<usize> {
    let mut left = wanted;
    for (line, count) in lines.iter().zip(1..) {
        left = left.strip_prefix(line.as_str())?;
        if left.is_empty() {
            return Some(count);
        }
    }
    None
}

/// Lines without comments and blanks; of a comment alone nothing is left.
fn bare(text: &str) -> Vec<String> {
    let is_comment = |word: &&str| ["#", "//", "<!--"].iter().any(|mark| word.starts_with(mark));
    let line = |line: &str| line.split_whitespace().take_while(|word| !is_comment(word)).collect::<String>();
    text.lines().map(line).filter(|line| !line.is_empty()).collect()
}

/// Every file that is ours below a directory.
pub fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
        if entry.path().is_dir() {
            if entry.file_name() != "node_modules" {
                files_below(&entry.path(), files);
            }
        } else {
            files.push(entry.path());
        }
    }
}
