//! Lines for a shell: taken apart as a shell does, then each command is judged by what it runs.

use clap::Parser as _;
use sidestream::cli::Cli;

use super::tools;

/// What stands between two commands.
const BETWEEN: [&str; 4] = ["&&", "||", "|", ";"];

/// Judges every command of a block; a backslash at the end of a line joins it with the next.
pub fn judge(text: &str) -> Result<(), String> {
    for line in text.replace("\\\n", " ").lines() {
        let words = words(line)?;
        for command in words.split(|word| BETWEEN.contains(&word.as_str())).filter(|command| !command.is_empty()) {
            judge_command(command).map_err(|fault| format!("{}: {fault}", command.join(" ")))?;
        }
    }
    Ok(())
}

/// The words of a line. Blanks and quotes as in a shell; `<some words>` is a place to fill in; nothing else is known here.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut rest) = (Vec::new(), line.trim());
    while !rest.is_empty() && !rest.starts_with('#') {
        let mut word = String::new();
        while let Some(first) = rest.chars().next().filter(|first| !first.is_whitespace()) {
            let close = match first {
                '\'' | '"' => first,
                '<' if rest.contains('>') => '>',
                _ => {
                    word.push(first);
                    rest = &rest[first.len_utf8()..];
                    continue;
                }
            };
            let (inside, after) = rest[1..].split_once(close).ok_or(format!("{first} is not closed in {line:?}"))?;
            word += inside;
            rest = after;
        }
        words.push(word);
        rest = rest.trim_start();
    }
    Ok(words)
}

fn judge_command(command: &[String]) -> Result<(), String> {
    let is_assignment = |word: &String| word.split_once('=').is_some_and(|(name, _)| name == name.to_uppercase());
    let start = command.iter().position(|word| word != "sudo" && !is_assignment(word)).ok_or("no command")?;
    let (program, arguments) = command[start..].split_first().ok_or("no command")?;
    match program.strip_prefix("target/release/").unwrap_or(program) {
        "sidestream" => of_ours(program, arguments),
        path if path.contains('/') => tools::script(path, arguments),
        name => tools::tool(name, arguments),
    }?;
    arguments.iter().try_for_each(|word| tools::file(word))
}

/// The program's own parser takes it; where output goes is the shell's affair.
fn of_ours(program: &String, arguments: &[String]) -> Result<(), String> {
    let arguments = arguments.split(|word| word == ">").next().unwrap_or_default();
    Cli::try_parse_from(std::iter::once(program).chain(arguments)).map(|_| ()).map_err(|error| error.to_string())
}
