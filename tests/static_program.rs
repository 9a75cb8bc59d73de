//! The static program by itself: in a directory with nothing but it and its own files as the root, and without an environment.
//!
//! `SIDESTREAM_PROGRAM` names it, as `scripts/package` builds it; the other tests can be run with it in the same way.

mod support;

use std::path::Path;
use std::process::Command;

use support::nats::Setup;
use support::tls::Certificate;
use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, bounded, eventually, get, program};

/// The program is there under this name.
const INSIDE: &str = "/sidestream";

/// What the linker wrote of it, or nothing where there is no static program to look at.
fn headers(test: &str) -> Option<String> {
    if std::env::var_os("SIDESTREAM_PROGRAM").is_none() {
        support::skipped(test, "needs a static program, named by SIDESTREAM_PROGRAM");
        return None;
    }
    let read = Command::new("readelf").args(["--program-headers", "--dynamic", "--wide"]).arg(program::path()).output();
    Some(String::from_utf8(read.expect("readelf runs").stdout).expect("text"))
}

/// A root directory with the program and nothing else.
struct Root(tempfile::TempDir);

impl Root {
    fn new(test: &str) -> Option<Self> {
        headers(test)?;
        if !rustix::process::geteuid().is_root() {
            support::skipped(test, "needs root, for chroot");
            return None;
        }
        let root = Self(tempfile::tempdir().expect("a temporary directory"));
        std::fs::copy(program::path(), root.path(INSIDE)).expect("the program is copied");
        Some(root)
    }

    /// Where a path inside is outside.
    fn path(&self, inside: &str) -> std::path::PathBuf {
        self.0.path().join(inside.trim_start_matches('/'))
    }

    fn put(&self, file: &Path, inside: &str) {
        std::fs::copy(file, self.path(inside)).expect("copied");
    }

    /// The program with these arguments and no environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg(self.0.path()).arg(INSIDE).args(arguments).env_clear();
        command
    }

    /// `serve` with the configuration that it was to be given outside.
    fn serve(&self, config: &Config) -> Command {
        std::fs::write(self.path("/sidestream.toml"), config.render()).expect("written");
        self.command(&["serve", "--config", "/sidestream.toml", "--log-format", "json"])
    }
}

#[test]
fn it_has_no_interpreter_and_needs_no_library() {
    let Some(headers) = headers("it_has_no_interpreter_and_needs_no_library") else { return };
    assert!(headers.contains("LOAD"), "not a program: {headers}");
    for word in ["INTERP", "NEEDED"] {
        assert!(!headers.contains(word), "{word} in\n{headers}");
    }
    assert!(headers.contains("GNU_RELRO") && headers.contains("BIND_NOW"), "not hardened:\n{headers}");
}

#[test]
fn it_says_what_it_is() {
    let Some(root) = Root::new("it_says_what_it_is") else { return };
    let output = root.command(&["version", "--json"]).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"), "{version}");
}

/// NATS over TLS with an authority of its own; browsers over TLS and a proxy on a unix socket.
#[tokio::test]
async fn it_serves_over_tls_and_over_a_unix_socket() {
    let Some(root) = Root::new("it_serves_over_tls_and_over_a_unix_socket") else { return };
    bounded(async {
        let (nats, authority) = secured_nats().await;
        root.put(&authority, "/ca.pem");
        let certificate = Certificate::new();
        root.put(&certificate.cert(), "/cert.pem");
        root.put(&certificate.key(), "/key.pem");
        let config = Config::at(&url(&nats))
            .nats("ca = \"/ca.pem\"\n")
            .server("[server.tls]\ncert = \"/cert.pem\"\nkey = \"/key.pem\"\n")
            .listen(&["127.0.0.1:0", "unix:/http.sock"])
            .trust(Some("proxies = [\"127.0.0.1\", \"unix\"]\naddress_is_proof = true\n"));
        let app = App::launch(&config, |_| root.serve(&config)).await;
        app.ready().await;
        let checked = root.command(&["check", "--connect", "--config", "/sidestream.toml"]).output().expect("it runs");
        assert!(checked.status.success(), "{checked:?}");

        let tcp = app.public.iter().find(|address| !address.starts_with("unix:")).expect("an address");
        let stream = tokio::net::TcpStream::connect(tcp).await.expect("accepts");
        let stream = certificate.handshake(stream, &["http/1.1"]).await.expect("a handshake");
        let mut browser = Sse::open(Wire::over(stream), &get("/events").user("alice")).await;
        let socket = format!("unix:{}", root.path("/http.sock").display());
        let mut proxy = Sse::open(Wire::tcp(&socket).await, &get("/events").user("alice")).await;
        nats.publisher().await.publish("events.user.alice.note", "hello").await;
        assert_eq!(browser.event().await.data, "hello");
        assert_eq!(proxy.event().await.data, "hello");
        jemalloc_gives_memory_back(&app).await;
    })
    .await;
}

/// Its thread for that is there: jemalloc is the allocator, with what Cargo.toml asks of it.
async fn jemalloc_gives_memory_back(app: &App) {
    let tasks = format!("/proc/{}/task", app.pid());
    eventually("jemalloc's background thread runs", DEADLINE, async || {
        let tasks = std::fs::read_dir(&tasks).expect("the program runs").flatten();
        let mut names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.any(|name| name.starts_with("jemalloc_bg_thd")).then_some(())
    })
    .await;
}

/// Without `nats.ca` the authorities are those of the system, of which there are none here; `SSL_CERT_FILE` names others.
#[tokio::test]
async fn authorities_of_the_system_are_missed_until_they_are_named() {
    let Some(root) = Root::new("authorities_of_the_system_are_missed_until_they_are_named") else { return };
    bounded(async {
        let (nats, authority) = secured_nats().await;
        root.put(&authority, "/ca.pem");
        let config = Config::at(&url(&nats));
        let checked = |named: Option<&str>| {
            std::fs::write(root.path("/sidestream.toml"), config.render()).expect("written");
            let mut check = root.command(&["check", "--connect", "--config", "/sidestream.toml"]);
            check.envs(named.map(|file| ("SSL_CERT_FILE", file))).output().expect("it runs").status.code()
        };
        assert_eq!(checked(None), Some(69), "NATS was reached without an authority");
        assert_eq!(checked(Some("/ca.pem")), Some(0));
    })
    .await;
}

/// A server with a certificate for its address, which is its own authority, and the stream of the tests.
async fn secured_nats() -> (Nats, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let (cert, key) = (dir.path().join("nats.pem"), dir.path().join("nats.key"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let setup = Setup {
        config: Some(format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}\n")),
        ca: Some(cert.clone()),
        ..Setup::default()
    };
    // In the server's own directory, so that they live as long as it does.
    let nats = Nats::start_in(Version::Current, dir, setup).await;
    nats.events().await;
    (nats, cert)
}

fn url(nats: &Nats) -> String {
    format!("tls://{}", nats.address())
}
