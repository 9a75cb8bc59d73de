//! Every fenced block of README.md, SECURITY.md and docs/ is a part of something that a test runs, or is judged here itself.
//!
//! Configuration of other programs and code are lines of files that other tests run; our own configuration is checked by the
//! program; commands exist and their arguments are understood; event streams are read by the parser. What is left is in
//! `listed`, each with the test that shows it. A block that cannot be placed fails, whatever its language.

#[path = "../support/mod.rs"]
mod support;

mod blocks;
mod commands;
mod configuration;
mod events;
mod lines;
mod listed;
mod tools;

use std::path::Path;

use blocks::Block;

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Finds the place of a block, or says why it has none.
fn place(block: &Block) -> Result<(), String> {
    match block.language.as_str() {
        "nginx" | "yaml" | "haproxy" | "caddy" | "ini" => lines::of_a_file(block, &["conf", "systemd", "packaging"]),
        "js" | "ts" | "html" | "rust" | "python" => lines::of_a_file(block, &["examples", "tests/browser"]),
        "toml" => configuration::judge(&block.text),
        "console" => session(block),
        "sh" => commands::judge(&block.text),
        "json" | "text" if listed::is_listed(block) => Ok(()),
        "text" => events::judge(&block.text),
        "json" => Err("is not listed in tests/snippets/listed.rs".to_owned()),
        language => Err(format!("no rule for the language {language:?}")),
    }
}

/// Commands behind a prompt, and what they print.
fn session(block: &Block) -> Result<(), String> {
    let (typed, printed): (Vec<&str>, Vec<&str>) = block.text.lines().partition(|line| line.starts_with("$ "));
    if typed.is_empty() {
        return Err("has no line that begins with `$ `".to_owned());
    }
    commands::judge(&typed.iter().map(|line| format!("{}\n", &line[2..])).collect::<String>())?;
    let printed = printed.iter().map(|line| format!("{line}\n")).collect::<String>();
    if printed.trim().is_empty() || listed::is_listed(block) { Ok(()) } else { events::judge(&printed) }
}

#[test]
fn every_block_has_its_place() {
    let blocks = blocks::all();
    assert!(blocks.len() > 40, "{} blocks", blocks.len());
    let faults: Vec<String> = blocks
        .iter()
        .filter_map(|block| Some(format!("{}:{}: {}", block.page, block.line, place(block).err()?)))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn what_is_listed_is_there_and_so_is_what_shows_it() {
    let faults = listed::faults(&blocks::all());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// What the rules above are worth.
#[test]
fn what_has_no_place_is_found() {
    for (language, text) in [
        ("", "sidestream dev\n"),
        ("bash", "sidestream dev\n"),
        ("nginx", "proxy_buffering on;\n"),
        ("nginx", "http {\nuser www-data;\n"),
        ("nginx", "# nothing but words\n"),
        ("js", "const source = new EventSource(\"/event\");\n"),
        ("rust", "let headers = 1;\n"),
        ("toml", "[server]\nlisen = []\n"),
        ("toml", "version = 1\n[server]\nmax_age = 15\n"),
        ("toml", "[[route]]\npath = \"/events\"\nsubject = [\"a\"]\n"),
        ("console", "sidestream dev\n"),
        ("console", "$ sidestream check --confg a.toml\n"),
        ("console", "$ sidestream devv\n"),
        ("console", "$ sudo systemctl relaod sidestream\n"),
        ("console", "$ systemctl status sidestreams\n"),
        ("console", "$ scripts/nonsense\n"),
        ("console", "$ scripts/fuzz 60 nonsense\n"),
        ("console", "$ scripts/faults --sed 1\n"),
        ("console", "$ nats stream add --config conf/streams/event.json\n"),
        ("console", "$ cd x && telnet localhost\n"),
        ("console", "$ curl -s http://127.0.0.1:9464/ready\n"),
        ("console", "$ curl -s http://127.0.0.1:9465/readyz\n"),
        ("console", "$ curl --nonsense http://127.0.0.1:9464/readyz\n"),
        ("console", "$ sudo install -m 644 systemd/*.timer /etc/systemd/system/\n"),
        ("console", "$ sudo dpkg --install target/package/sidestream_0.0.1-1_amd64.deb\n"),
        ("console", "$ sidestream publish 'events.broadcast.news\n"),
        ("console", "$ sidestream version\nsidestream 0.0.1\n"),
        ("sh", "cargo bench --bench nonsense\n"),
        ("sh", "cargo bench --bench micro -- nonsense\n"),
        ("sh", "cargo tset\n"),
        ("json", "{}\n"),
        ("text", "anything\n"),
        ("text", "event: note\nid: not-a-cursor\ndata: x\n\n"),
        ("text", "id: 4yyh8gg2.0.0\nevent: note\ndata: x\n\n"),
        ("text", "event: note\nid: 4yyh8gg2.0.0\ndata: x\n"),
        ("text", "event: sidestream.nonsense\ndata: {}\n\n"),
        ("text", "event: sidestream.heartbeat\ndata: {\"when\":1}\n\n"),
        ("text", "event: sidestream.gap\ndata: {\"stream\":\"E\",\"after\":1,\"next\":3,\"reason\":\"lost\"}\n\n"),
    ] {
        let block =
            Block { page: "README.md".to_owned(), line: 1, language: language.to_owned(), text: text.to_owned() };
        assert!(place(&block).is_err(), "{language:?} was given a place: {text}");
    }
}
