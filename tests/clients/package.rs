//! The package as npm sees it: it is built, its own tests pass, it is as small as promised, and what is packed is
//! what is meant to be.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::support::bounded;

/// What a page is sent, and what stands beside it. `.d.ts` files come with each script.
const SCRIPTS: [&str; 17] = [
    "backoff",
    "channel",
    "eventsource",
    "face",
    "fetch",
    "index",
    "link",
    "parser",
    "port",
    "recent",
    "refusal",
    "request",
    "shared",
    "shared-worker",
    "transport",
    "types",
    "worker",
];
const REACT_SCRIPTS: [&str; 3] = ["react", "react-handle", "react-pool"];
const BESIDE: [&str; 5] = ["LICENSE-APACHE", "LICENSE-MIT", "REACT.md", "README.md", "package.json"];

/// Built once, for all tests of this program.
static BUILT: OnceCell<()> = OnceCell::const_new();

/// Where the package stands.
pub fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/js")
}

/// Builds the package, the first time, and gives the directory of its scripts.
pub async fn built() -> PathBuf {
    BUILT
        .get_or_init(|| async {
            assert!(
                home().join("node_modules").is_dir(),
                "no node_modules in clients/js: run scripts/test, or `npm ci` there"
            );
            succeeds("npm", &["run", "--silent", "build"]).await;
        })
        .await;
    home().join("dist")
}

async fn output(program: &str, args: &[&str]) -> Output {
    // What packs must not build: other tests read what is built.
    run(Command::new(program).args(args).current_dir(home()).env("npm_config_ignore_scripts", "true")).await
}

async fn run(command: &mut Command) -> Output {
    command.env("NO_COLOR", "1").env("NO_UPDATE_NOTIFIER", "1").kill_on_drop(true);
    command.output().await.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// The package without what is built from it, with its tools.
fn checkout() -> tempfile::TempDir {
    let checkout = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(checkout.path().join("src")).expect("created");
    let sources = std::fs::read_dir(home().join("src")).expect("readable").flatten();
    let sources = sources.map(|entry| format!("src/{}", entry.file_name().to_string_lossy()));
    for file in sources.chain(BESIDE.map(str::to_owned)).chain(["tsconfig.json".to_owned()]) {
        std::fs::copy(home().join(&file), checkout.path().join(&file)).expect("copied");
    }
    std::os::unix::fs::symlink(home().join("node_modules"), checkout.path().join("node_modules")).expect("linked");
    checkout
}

/// Runs a program in the package, which must succeed, and gives what it prints.
pub async fn succeeds(program: &str, args: &[&str]) -> String {
    let output = output(program, args).await;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{said}{complained}", output.status);
    said.into_owned()
}

/// Runs a program that stands in the package's `node_modules`.
async fn tool(name: &str, args: &[&str]) -> String {
    succeeds(&format!("node_modules/.bin/{name}"), args).await
}

/// A script with all that it imports, as a bundler makes it of an export of the package.
pub async fn bundled(script: &str) -> String {
    built().await;
    tool("esbuild", &[&format!("dist/{script}"), "--bundle", "--minify", "--format=esm"]).await
}

#[tokio::test]
async fn its_own_tests_pass() {
    bounded(async {
        built().await;
        let said = succeeds("npm", &["run", "--silent", "test"]).await;
        let tests = said.lines().find_map(|line| line.strip_prefix("# tests ")).expect("a summary");
        assert!(tests.parse::<u32>().is_ok_and(|count| count > 90), "{tests} tests were found");
    })
    .await;
}

#[tokio::test]
async fn each_entry_is_as_small_as_promised() {
    bounded(async {
        built().await;
        println!("{}", succeeds("npm", &["run", "--silent", "size"]).await);
    })
    .await;
}

#[tokio::test]
async fn its_types_say_what_they_promise() {
    bounded(async {
        built().await;
        succeeds("npm", &["run", "--silent", "types"]).await;
        tool("publint", &["--strict"]).await;
        tool("attw", &["--pack", ".", "--profile", "esm-only", "--no-emoji", "--no-color"]).await;
    })
    .await;
}

#[test]
fn the_examples_of_its_page_are_files_that_compile() {
    let read = |path: &str| std::fs::read_to_string(home().join(path)).expect("readable");
    let page = read("README.md");
    let blocks = page.split("```ts\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    let blocks: Vec<_> = blocks.collect();
    // `its_types_say_what_they_promise` compiles them.
    let files = ["use", "reasons", "shared", "worker"].map(|name| read(&format!("test/types/readme/{name}.ts")));
    assert_eq!(blocks, files);
}

#[tokio::test]
async fn the_core_never_touches_react() {
    bounded(async {
        let scripts = built().await;
        for name in SCRIPTS {
            let script = std::fs::read_to_string(scripts.join(format!("{name}.js"))).expect("built");
            assert!(!script.contains("react"), "{name}.js");
        }
        let bundle =
            succeeds("node_modules/.bin/esbuild", &["dist/react.js", "--bundle", "--format=esm", "--external:react"]);
        let bundle = bundle.await;
        assert!(bundle.contains("from \"react\"") && !bundle.contains("react.production"), "React is the page's own");
    })
    .await;
}

#[tokio::test]
async fn what_is_packed_is_what_is_meant_to_be() {
    bounded(async {
        // As it is checked out: packing builds.
        let checkout = checkout();
        let pack = ["pack", "--dry-run", "--json", "--silent"];
        let packed = run(Command::new("npm").args(pack).current_dir(checkout.path())).await;
        let packed: Value = serde_json::from_slice(&packed.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}{}", String::from_utf8_lossy(&packed.stdout), String::from_utf8_lossy(&packed.stderr))
        });
        let files = packed[0]["files"].as_array().expect("a list of files");
        let mut files: Vec<_> = files.iter().filter_map(|file| file["path"].as_str().map(str::to_owned)).collect();
        let scripts = SCRIPTS
            .iter()
            .chain(&REACT_SCRIPTS)
            .flat_map(|name| [format!("dist/{name}.js"), format!("dist/{name}.d.ts")]);
        let mut expected: Vec<_> = scripts.chain(BESIDE.map(str::to_owned)).collect();
        files.sort();
        expected.sort();
        assert_eq!(files, expected);
    })
    .await;
}

#[test]
fn nothing_runs_when_it_is_installed_and_it_needs_nothing() {
    let read = |path: &str| std::fs::read_to_string(home().join(path)).expect("readable");
    let package: Value = serde_json::from_str(&read("package.json")).expect("JSON");
    assert_eq!(package["dependencies"], Value::Null);
    // The hooks' React is the page's own, and a page without it needs none.
    assert_eq!(package["peerDependencies"], json!({ "react": ">=18" }));
    assert_eq!(package["peerDependenciesMeta"], json!({ "react": { "optional": true } }));
    let scripts = package["scripts"].as_object().expect("scripts");
    let hooks = ["preinstall", "install", "postinstall", "prepare", "prepublish", "postpack"];
    assert!(hooks.iter().all(|hook| !scripts.contains_key(*hook)), "{scripts:?}");
    assert_eq!(package["license"], env!("CARGO_PKG_LICENSE"));
    assert_eq!(package["version"], env!("CARGO_PKG_VERSION"));
    // Whose registry it was does not matter: the hashes say what is to come.
    assert!(!read("package-lock.json").contains("\"resolved\""));
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let ours = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(license)).expect("readable");
        assert_eq!(read(license), ours, "{license}");
    }
}
