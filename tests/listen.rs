//! Where the program can listen: TCP, a unix socket, a socket inherited from systemd, and several of them at once.

mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::{App, Config, Nats, Sse, Version, Wire, eventually, get, on_both_servers};

const TRUST: &str = "proxies = [\"127.0.0.1\", \"unix\"]\naddress_is_proof = true\n";

async fn hears(nats: &Nats, mut sse: Sse, what: &str) {
    nats.publisher().await.publish("events.user.alice.note", what).await;
    assert_eq!(sse.event().await.data, what);
}

fn unix(dir: &Path, name: &str) -> String {
    format!("unix:{}", dir.join(name).display())
}

on_both_servers! {
    async fn a_unix_socket_and_two_tcp_ports_serve_the_same_streams(version: Version) {
        let nats = Nats::start(version).await;
        nats.events().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = unix(dir.path(), "http.sock");
        let config = Config::on(&nats).trust(Some(TRUST)).listen(&["127.0.0.1:0", &socket, "127.0.0.1:0"]);
        let app = App::start(&config).await;
        assert_eq!(app.public.len(), 3, "{:?}", app.public);
        assert!(app.public.contains(&socket), "{:?}", app.public);
        for address in &app.public {
            let sse = Sse::open(Wire::tcp(address).await, &get("/events").user("alice")).await;
            hears(&nats, sse, address).await;
        }
    }
}

#[tokio::test]
async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = unix(dir.path(), "http.sock");
        let path = dir.path().join("http.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "a stale socket stays behind");
        let config = Config::on(&nats).trust(Some(TRUST)).listen(&[&socket]);
        let app = App::start(&config).await;
        app.events("alice").await;

        let mut second = App::spawn(&config, |serve| serve);
        assert_eq!(second.exit(support::DEADLINE).await.code(), Some(71), "{:?}", second.log_lines());
        app.events("alice").await;

        // One that answers, though not as ours would: whoever it belongs to keeps it.
        let (other, path) = (unix(dir.path(), "other.sock"), dir.path().join("other.sock"));
        let held = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
        let mut third = App::spawn(&Config::on(&nats).trust(Some(TRUST)).listen(&[&other]), |serve| serve);
        assert_eq!(third.exit(support::DEADLINE).await.code(), Some(71), "{:?}", third.log_lines());
        assert!(path.exists(), "a socket of somebody else was removed");
        drop(held);
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_exit_code_71() {
    support::bounded(async {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound").to_string();
        let mut app = App::spawn(&Config::at("nats://127.0.0.1:1").listen(&[&address]), |serve| serve);
        assert_eq!(app.exit(support::DEADLINE).await.code(), Some(71), "{:?}", app.log_lines());
        assert!(app.log_lines().join("\n").contains(&address), "the address is not named: {:?}", app.log_lines());
    })
    .await;
}

#[tokio::test]
async fn sockets_inherited_from_systemd_are_told_apart_by_name() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (first, second) = (dir.path().join("first.sock"), dir.path().join("second.sock"));
        let listen = ["systemd:public", "systemd:extra"];
        let config = Config::on(&nats).trust(Some(TRUST)).listen(&listen);
        // systemd-socket-activate binds, waits for the first connection, then becomes the program.
        let mut app = App::spawn(&config, |serve| {
            let mut activate = Command::new("systemd-socket-activate");
            activate.arg("-l").arg(&first).arg("-l").arg(&second).arg("--fdname=public:extra");
            activate.arg(serve.get_program()).args(serve.get_args());
            activate
        });
        eventually("systemd-socket-activate binds both sockets", support::DEADLINE, async || {
            (first.exists() && second.exists()).then_some(())
        })
        .await;
        // This connection waits in the backlog across the start: systemd queues where a proxy would see a refusal.
        let mut early = Wire::tcp(&format!("unix:{}", first.display())).await;
        app.announced(2).await;
        app.ready().await;
        early.send(&get("/events").user("alice").bytes()).await;
        hears(&nats, Sse::opened(early).await, "early").await;
        for path in [&first, &second] {
            let wire = Wire::tcp(&format!("unix:{}", path.display())).await;
            hears(&nats, Sse::open(wire, &get("/events").user("alice")).await, &path.display().to_string()).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_inherited_socket_that_everybody_may_connect_to_is_refused() {
    support::bounded(async {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("open.sock");
        let config = Config::at("nats://127.0.0.1:1").trust(Some(TRUST)).listen(&["systemd:public"]);
        let mut app = App::spawn(&config, |serve| {
            let mut activate = Command::new("systemd-socket-activate");
            activate.arg("-l").arg(&path).arg("--fdname=public").arg(serve.get_program()).args(serve.get_args());
            activate
        });
        eventually("the socket is bound", support::DEADLINE, async || path.exists().then_some(())).await;
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("our own socket");
        let _first = Wire::tcp(&format!("unix:{}", path.display())).await;
        assert_eq!(app.exit(support::DEADLINE).await.code(), Some(71), "{:?}", app.log_lines());
        app.logs("set SocketMode=0660", support::DEADLINE).await;
    })
    .await;
}

#[tokio::test]
async fn an_inherited_socket_that_is_not_there_is_a_clear_failure() {
    support::bounded(async {
        let config = Config::at("nats://127.0.0.1:1").listen(&["systemd:public"]);
        let mut app = App::spawn(&config, |serve| serve);
        let status = app.exit(Duration::from_secs(5)).await;
        assert!(matches!(status.code(), Some(71 | 78)), "{status}: {:?}", app.log_lines());
        assert!(app.log_lines().join("\n").contains("public"), "the name is not told: {:?}", app.log_lines());
    })
    .await;
}
