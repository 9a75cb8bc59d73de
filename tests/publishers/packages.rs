//! What each library is by itself: the example of its README, run; its own tests; its types; and what its package
//! holds.

use std::path::Path;
use std::process::Command;

use crate::driver::{Language, built_node, in_python, in_rust, must};
use crate::support::{self, App, Config, Nats, Version};

/// The only fenced block of a page.
pub fn block(page: &str) -> &str {
    let mut parts = page.split("```");
    let block = parts.nth(1).and_then(|part| part.split_once('\n')).expect("a block with a language").1;
    assert_eq!(parts.count(), 1, "one block");
    block
}

#[tokio::test]
async fn the_example_of_each_readme_reaches_alice() {
    support::bounded(async {
        for language in Language::installed("the_example_of_each_readme_reaches_alice") {
            let nats = Nats::start(Version::Current).await;
            nats.events().await;
            let app = App::start(&Config::on(&nats)).await;
            let mut alice = app.events("alice").await;
            let mut example = language.program("import");
            let file = example.get_args().next().map_or_else(|| language.dir().join("examples/import.rs"), Into::into);
            let (readme, source) =
                (language.dir().join("README.md"), std::fs::read_to_string(file).expect("the example"));
            let readme = std::fs::read_to_string(readme).expect("the README");
            assert!(source.ends_with(block(&readme)), "{language:?}: the README shows something else than the example");

            let printed = must(example.env("NATS_URL", nats.url()));
            assert_eq!(printed, "200 rows\n", "{language:?}");
            assert_eq!(alice.event().await.data, r#"{"text":"the import begins"}"#, "{language:?}");
            let end = loop {
                let event = alice.event().await;
                assert_eq!(event.name, "progress", "{language:?}");
                let payload = support::json(&event);
                if payload["state"] != "running" {
                    break payload;
                }
            };
            let end = (end["state"].as_str(), end["percent"].as_u64(), end["message"].as_str());
            assert_eq!(end, (Some("completed"), Some(100), Some("row 200 of 200")), "{language:?}");
        }
    })
    .await;
}

#[test]
fn the_licences_are_those_of_the_program() {
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let read = |dir: &Path| std::fs::read(dir.join(name)).expect("a licence");
        for language in Language::ALL {
            assert!(read(&language.dir()) == read(Path::new(env!("CARGO_MANIFEST_DIR"))), "{language:?}: {name}");
        }
    }
}

#[test]
fn the_rust_package_is_clean_and_holds_what_it_must() {
    must(Command::new("cargo").args(["fmt", "--check"]).current_dir(Language::Rust.dir()));
    must(in_rust("clippy").args(["--all-targets", "--", "-D", "warnings"]));
    must(in_rust("test").arg("--doc"));
    let listed = must(in_rust("package").args(["--list", "--allow-dirty"]));
    let mut files: Vec<&str> = listed.lines().filter(|file| *file != ".cargo_vcs_info.json").collect();
    files.sort_unstable();
    let sources = ["error", "lib", "progress", "publisher", "subject"].map(|module| format!("src/{module}.rs"));
    let mut wanted = vec!["Cargo.lock", "Cargo.toml", "Cargo.toml.orig", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];
    wanted.extend(sources.iter().map(String::as_str));
    assert_eq!(files, wanted);
}

#[test]
fn the_npm_package_is_clean_and_holds_what_it_must() {
    let language = Language::Node;
    if !language.is_installed("the_npm_package_is_clean_and_holds_what_it_must") {
        return;
    }
    built_node();
    let run = |program: &str, args: &[&str]| must(Command::new(program).args(args).current_dir(language.dir()));
    run("node_modules/.bin/tsc", &["-p", "test"]);
    run("npm", &["test", "--silent"]);
    let listed = run("npm", &["pack", "--dry-run", "--json", "--ignore-scripts"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let files = listed.pointer("/0/files").and_then(|files| files.as_array()).expect("a list of files");
    let mut files: Vec<&str> = files.iter().filter_map(|file| file["path"].as_str()).collect();
    files.sort_unstable();
    let modules = ["index", "progress", "publisher", "subject", "wire"];
    let built: Vec<_> =
        modules.iter().flat_map(|name| [format!("dist/{name}.d.ts"), format!("dist/{name}.js")]).collect();
    let mut wanted = vec!["LICENSE-APACHE", "LICENSE-MIT", "README.md", "package.json"];
    wanted.extend(built.iter().map(String::as_str));
    wanted.sort_unstable();
    assert_eq!(files, wanted);

    let dir = tempfile::tempdir().expect("a temporary directory");
    let into = dir.path().to_str().expect("UTF-8");
    let tarball = run("npm", &["pack", "--silent", "--ignore-scripts", "--pack-destination", into]);
    let tarball = dir.path().join(tarball.trim());
    let tarball = tarball.to_str().expect("UTF-8");
    run("node_modules/.bin/publint", &["--strict", tarball]);
    run("node_modules/.bin/attw", &[tarball, "--profile", "esm-only"]);
    let lock = std::fs::read_to_string(language.dir().join("package-lock.json")).expect("the lock file");
    assert!(
        !lock.contains("\"resolved\""),
        "package-lock.json names a registry: npm install --omit-lockfile-registry-resolved"
    );
}

#[test]
fn the_python_package_is_clean_and_holds_what_it_must() {
    if !Language::Python.is_installed("the_python_package_is_clean_and_holds_what_it_must") {
        return;
    }
    must(in_python().args(["-W", "error", "-m", "unittest", "discover", "-s", "tests"]));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mypy = ["-m", "mypy", "--strict", "--cache-dir"];
    must(in_python().args(mypy).arg("../../.cache/publish-python/mypy").args(["src", "examples"]));

    must(in_python().args(["-m", "hatchling", "build", "-t", "wheel", "-d"]).arg(dir.path()));
    let wheel = dir.path().join("sidestream_publish-0.1.0-py3-none-any.whl");
    let listed = must(in_python().args(["-m", "zipfile", "-l"]).arg(&wheel));
    let mut files: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    files.sort_unstable();
    let info = ["METADATA", "RECORD", "WHEEL", "licenses/LICENSE-APACHE", "licenses/LICENSE-MIT"]
        .map(|file| format!("sidestream_publish-0.1.0.dist-info/{file}"));
    let modules = ["__init__.py", "_progress.py", "_publisher.py", "_subject.py", "py.typed"];
    let mut wanted = info.to_vec();
    wanted.extend(modules.map(|file| format!("sidestream_publish/{file}")));
    wanted.sort_unstable();
    assert_eq!(files, wanted);
    assert_eq!(needs(&wheel), ["nats-py<3,>=2.16"]);
}

/// What a wheel wants installed with it.
fn needs(wheel: &Path) -> Vec<String> {
    let read = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); \
                print(z.read('sidestream_publish-0.1.0.dist-info/METADATA').decode())";
    let metadata = must(in_python().args(["-c", read]).arg(wheel));
    metadata.lines().filter_map(|line| line.strip_prefix("Requires-Dist: ")).map(str::to_owned).collect()
}
