//! What commands of the pages may be besides our own program: scripts of the repository, and tools that are usual.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::blocks::read;
use super::lines::files_below;
use super::root;

/// Where the words that a script takes stand, besides in itself.
const TAKES: [(&str, &str); 3] =
    [("scripts/fuzz", "tests/fuzz/src"), ("scripts/bench", "benches/whole"), ("scripts/faults", "tests/faults")];
/// Options whose values are files to be written.
const WRITES: [&str; 3] = ["--journal", "--table", "--out"];
/// The options of each tool that the pages use.
const TOOLS: [(&str, &[&str]); 15] = [
    ("apt-get", &["--yes"]),
    ("cargo", &["--release", "--locked", "--features", "--bench", "--example", "--bin", "--test"]),
    ("cd", &[]),
    ("chgrp", &[]),
    ("chmod", &[]),
    ("cp", &[]),
    ("curl", &["-N", "-s", "-f", "-i", "-H", "-X", "-d", "--unix-socket"]),
    ("dpkg", &["--install", "--remove", "--purge"]),
    ("git", &[]),
    ("install", &["-D", "-d", "-m", "-g", "-o"]),
    ("journalctl", &["-u", "-f"]),
    ("mkdir", &["-p"]),
    ("nats", &["--config"]),
    ("systemctl", &["--now"]),
    ("systemd-sysusers", &[]),
];
const SYSTEMCTL: [&str; 8] = ["daemon-reload", "disable", "enable", "reload", "restart", "start", "status", "stop"];
const CARGO: [&str; 4] = ["bench", "build", "run", "test"];
const GIT: [&str; 1] = ["clone"];
/// Where `sidestream dev` and the admin listener are, unless told otherwise, and what they answer to.
const ADDRESSES: [(&str, &[&str]); 2] = [
    ("127.0.0.1:8080", &["/", "/events"]),
    ("127.0.0.1:9464", &["/", "/livez", "/readyz", "/metrics", "/version", "/config", "/connections", "/log-level"]),
];

fn is(good: bool, fault: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(fault()) }
}

/// A program that stands in the repository. It knows its options, and the words that it is given.
pub fn script(path: &str, arguments: &[String]) -> Result<(), String> {
    let metadata = std::fs::metadata(root().join(path)).map_err(|error| format!("{path}: {error}"))?;
    is(metadata.is_file() && metadata.permissions().mode() & 0o111 != 0, || format!("{path} cannot be run"))?;
    let mut known = read(path);
    if let Some((_, dir)) = TAKES.iter().find(|(script, _)| *script == path) {
        known += &texts_below(dir);
    }
    let is_written = |at: usize| at > 0 && WRITES.contains(&arguments[at - 1].as_str());
    for (_, word) in arguments.iter().enumerate().filter(|(at, _)| !is_written(*at)) {
        is(word.parse::<u32>().is_ok() || has_word(&known, word), || format!("{path} knows no {word:?}"))?;
    }
    Ok(())
}

fn texts_below(dir: &str) -> String {
    let mut files = Vec::new();
    files_below(&root().join(dir), &mut files);
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c)).any(|known| known == word)
}

/// A usual tool, with options from the table and operands that make sense.
pub fn tool(name: &str, arguments: &[String]) -> Result<(), String> {
    let (_, options) =
        TOOLS.iter().find(|(tool, _)| *tool == name).ok_or(format!("{name} is not in the table of tools"))?;
    let own = arguments.split(|word| word == "--").next().unwrap_or_default();
    for option in own.iter().filter(|word| word.starts_with('-')) {
        is(options.contains(&option.as_str()), || format!("{name} is not given {option} in tests/snippets/tools.rs"))?;
    }
    let operands: Vec<&str> = own.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    match name {
        "cargo" => one_of(&operands, &CARGO).and_then(|()| cargo(arguments)),
        "git" => one_of(&operands, &GIT),
        "systemctl" => {
            one_of(&operands, &SYSTEMCTL).and_then(|()| operands[1..].iter().try_for_each(|unit| is_unit(unit)))
        }
        "dpkg" => operands.iter().try_for_each(|operand| package(operand)),
        "curl" => operands.iter().filter(|operand| operand.contains("://")).try_for_each(|url| is_served(url)),
        _ => Ok(()),
    }
}

fn one_of(operands: &[&str], verbs: &[&str]) -> Result<(), String> {
    let verb = operands.first().copied().unwrap_or_default();
    is(verbs.contains(&verb), || format!("{verb:?} is none of {verbs:?}"))
}

/// `--bench NAME` and its like name a target; a bench knows the words behind `--`.
fn cargo(arguments: &[String]) -> Result<(), String> {
    let (own, handed) = match arguments.iter().position(|word| word == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, &[][..]),
    };
    for pair in own.windows(2) {
        let [option, name] = pair else { continue };
        let dir = match option.as_str() {
            "--bench" => "benches",
            "--example" => "examples",
            "--test" => "tests",
            _ => continue,
        };
        let (file, target) = (format!("{dir}/{name}.rs"), format!("{dir}/{name}"));
        is(root().join(&file).is_file() || root().join(&target).join("main.rs").is_file(), || format!("no {target}"))?;
        let known = if root().join(&file).is_file() { read(&file) } else { texts_below(&target) };
        for word in handed {
            is(word.parse::<u32>().is_ok() || has_word(&known, word), || format!("{target} knows no {word:?}"))?;
        }
    }
    Ok(())
}

fn is_unit(name: &str) -> Result<(), String> {
    let file = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    is(root().join("systemd").join(&file).is_file(), || format!("systemd/{file} is not there"))
}

/// The package by its name, or a file of the version that is built here.
fn package(operand: &str) -> Result<(), String> {
    let start = concat!("target/package/sidestream_", env!("CARGO_PKG_VERSION"), "-");
    is(operand == "sidestream" || operand.starts_with(start) && operand.ends_with("_amd64.deb"), || {
        format!("{operand} is not the package of this version")
    })
}

fn is_served(url: &str) -> Result<(), String> {
    let (address, path) =
        url.strip_prefix("http://").and_then(|rest| Some(rest.split_at(rest.find('/')?))).ok_or("not http")?;
    let path = path.split('?').next().unwrap_or_default();
    let served = ADDRESSES.iter().any(|(known, paths)| *known == address && paths.contains(&path));
    is(served, || format!("{path} of {address} is not in the table of addresses"))
}

/// A word that looks like a file of the repository is one, or matches some.
pub fn file(word: &str) -> Result<(), String> {
    let path = Path::new(word);
    let first = path.components().next().and_then(|first| first.as_os_str().to_str()).unwrap_or_default();
    let known = ["conf", "docs", "examples", "packaging", "scripts", "systemd", "tests", "tools"];
    if !word.contains('/') || !known.contains(&first) {
        return Ok(());
    }
    let Some((before, after)) = word.split_once('*') else {
        return is(root().join(path).exists(), || format!("{word} is not there"));
    };
    let mut files = Vec::new();
    files_below(&root().join(first), &mut files);
    let matches = |file: &std::path::PathBuf| {
        let file = file.strip_prefix(root()).unwrap_or(file).to_string_lossy();
        file.starts_with(before) && file.ends_with(after)
    };
    is(files.iter().any(matches), || format!("nothing matches {word}"))
}
