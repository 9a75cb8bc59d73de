//! What is generated, against what is kept: the reference of the configuration, of the command line, and the schema. And what the
//! schema says of files.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::command::run;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Compares a page with what the program prints, or writes it.
async fn compare(page: &str, args: &[&str]) {
    let made = run(args).await.ends_with(0).stdout;
    let path = root().join(page);
    if std::env::var_os("SIDESTREAM_WRITE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    for (kept, made) in kept.lines().zip(made.lines()) {
        assert_eq!(kept, made, "{page}; SIDESTREAM_WRITE_DOCS=1 rewrites it");
    }
    assert_eq!(kept.len(), made.len(), "{page}; SIDESTREAM_WRITE_DOCS=1 rewrites it");
}

#[tokio::test]
async fn the_pages_are_those_that_the_program_prints() {
    compare("docs/configuration.md", &["config", "docs"]).await;
    compare("docs/cli.md", &["man", "--markdown"]).await;
    compare("conf/sidestream.schema.json", &["config", "schema"]).await;
}

/// Tests that a text names, as `file::test` or `file::{test, test}`; `…` stands for the rest of a name.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let named = text.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::"));
    named
        .flat_map(|(file, tests)| {
            tests.trim_matches(['{', '}']).split(',').map(move |test| (file, test.trim().trim_end_matches('…')))
        })
        .collect()
}

fn text_of_tests(file: &str) -> String {
    let path = root().join("tests").join(file);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let modules = std::fs::read_dir(&path).into_iter().flatten().flatten();
    let modules = modules.map(|entry| format!("mod {};\n{}", entry.path().display(), read(&entry.path())));
    read(&path.with_extension("rs")) + &modules.collect::<String>()
}

#[test]
fn the_tests_that_requirements_name_are_there() {
    let page = std::fs::read_to_string(root().join("docs/requirements.md")).expect("readable");
    let named = named_tests(&page);
    assert!(named.len() > 30, "{named:?}");
    for (file, test) in named {
        let text = text_of_tests(file);
        let is_there = text.contains(&format!("fn {test}")) || text.contains(&format!("/{file}/{test}.rs;"));
        assert!(is_there, "docs/requirements.md names {file}::{test}");
    }
}

async fn schema() -> Value {
    run(&["config", "schema"]).await.ends_with(0).json()
}

fn document(toml: &str) -> Value {
    let document: toml::Table = toml::from_str(toml).expect("TOML");
    serde_json::to_value(document).expect("JSON")
}

#[tokio::test]
async fn the_schema_is_one_and_takes_what_is_shipped() {
    let schema = schema().await;
    assert!(jsonschema::meta::is_valid(&schema), "not a schema of its draft");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let default = run(&["config", "default"]).await.ends_with(0).stdout;
    let mut files = vec![("the default file".to_owned(), default.clone())];
    // Every key that stands there as a comment too.
    let whole: String = default.lines().map(|line| format!("{}\n", uncommented(line))).collect();
    files.push(("the default file, whole".to_owned(), whole));
    for entry in std::fs::read_dir(root().join("conf")).expect("there is conf/").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(entry.path()).expect("readable");
            // An editor finds the schema by such a line.
            files.push((entry.path().display().to_string(), format!("#:schema ./sidestream.schema.json\n{text}")));
        }
    }
    assert!(files.len() > 4, "{} files", files.len());
    for (name, text) in files {
        let faults: Vec<String> =
            validator.iter_errors(&document(&text)).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert_eq!(faults, Vec::<String>::new(), "{name}");
    }
}

fn uncommented(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).unwrap_or(line)
}

#[tokio::test]
async fn the_schema_refuses_what_the_program_refuses() {
    let validator = jsonschema::validator_for(&schema().await).expect("a schema");
    let directory = tempfile::tempdir().expect("a directory");
    for (text, is_good) in [
        ("[server]\nlisten = [\"127.0.0.1:1\"]\n", true),
        ("[limits]\nmemory = 0\nqueue_bytes = \"64 kB\"\n", true),
        ("[server]\nmax_age = \"1d12h30m5s10ms\"\n", true),
        ("[log]\nformat = \"json\"\n", true),
        ("[identity]\nvariables = { tenant = \"X-Tenant\" }\n", true),
        ("[server]\nlisten = \"127.0.0.1:1\"\n", false),
        ("[server]\nlisen = []\n", false),
        ("[serve]\n", false),
        ("[server]\nmax_age = \"15\"\n", false),
        ("[server]\nmax_age = \"30m1h\"\n", false),
        ("[server]\nmax_age = \"\"\n", false),
        ("[server]\nmax_age = 15\n", false),
        ("[server]\nh2c = \"true\"\n", false),
        ("[limits]\nqueue_bytes = \"1.5MiB\"\n", false),
        ("[limits]\nconnections = -1\n", false),
        ("[log]\nformat = \"xml\"\n", false),
        ("[identity]\nuser_encoding = \"hex\"\n", false),
        ("[identity]\nvariables = { tenant = 1 }\n", false),
        ("[[route]]\nsubjects = [\"a\"]\n", false),
        ("[[stream]]\ncreate = true\n", false),
        ("[server.tls]\ncert = \"/c\"\n", false),
        ("[trust]\naddress_is_proof = true\n", false),
        ("[route]\npath = \"/a\"\n", false),
    ] {
        assert_eq!(validator.is_valid(&document(text)), is_good, "the schema of {text:?}");
        let file = directory.path().join("a.toml");
        std::fs::write(&file, text).expect("written");
        let ran = run(&["check", "--config", file.to_str().expect("UTF-8")]).await;
        assert_eq!(ran.code == Some(0), is_good, "the program of {text:?}: {}", ran.stderr);
    }
}

/// Editors show these: a key has its type, its default and what it is for.
#[tokio::test]
async fn the_schema_describes_keys() {
    let schema = schema().await;
    let interval = schema.pointer("/properties/heartbeat/properties/interval").expect("a key");
    assert_eq!((&interval["type"], &interval["default"]), (&json!("string"), &json!("15s")));
    assert!(interval["description"].as_str().is_some_and(|text| text.starts_with("Silence on a stream")), "{interval}");
    let audience = schema.pointer("/properties/route/items/properties/audience").expect("a key");
    assert_eq!(audience["enum"], json!(["user", "anyone"]));
    assert_eq!(schema.pointer("/properties/route/items/required"), Some(&json!(["path"])));
}
