//! The live page of the admin listener in a real Chromium: empty and busy, light and dark, and its buttons. Screenshots are left in
//! `target/screenshots`.

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use support::client::narrow;
use support::load::Load;
use support::{App, Config, Nats, Version, Wire, bounded, eventually, get};

const TOKEN: &str = "the-token-of-the-live-page";
/// Events of this size fill the socket of one who does not read.
const LARGE: usize = 8 * 1024;

async fn site(nats: &Nats, token: &Path) -> App {
    std::fs::write(token, TOKEN).expect("written");
    let mut config = Config::on(nats).admin(&format!("token_file = {token:?}\n")).limit("write_timeout", "\"5m\"");
    config.drain_window = "2s";
    App::start(&config).await
}

fn shot(name: &str) -> PathBuf {
    let shots = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    std::fs::create_dir_all(&shots).expect("a directory for screenshots");
    shots.join(name)
}

async fn looked_at(app: &App, scene: &str) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    assert!(
        scripts.join("node_modules").is_dir(),
        "no node_modules in tests/browser: run scripts/test, or `npm ci` there"
    );
    let profile = tempfile::tempdir().expect("a temporary directory");
    let shot = shot(&format!("live-{scene}"));
    let run = tokio::process::Command::new("node")
        .arg(scripts.join("live.mjs"))
        .arg(format!("http://{}/", app.admin))
        .arg(profile.path())
        .arg(&shot)
        .args([TOKEN, scene])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(Duration::from_secs(120), run).await;
    let output = ended.expect("the browser ends").expect("node starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for scheme in ["light", "dark"] {
        let picture = shot.with_file_name(format!("live-{scene}-{scheme}.png"));
        assert!(std::fs::metadata(&picture).is_ok_and(|m| m.len() > 10_000), "no screenshot {}", picture.display());
    }
}

#[tokio::test]
async fn it_shows_an_empty_and_a_busy_sidecar_and_its_buttons_work() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let token = tempfile::NamedTempFile::new().expect("a file");
        let app = site(&nats, token.path()).await;
        looked_at(&app, "empty").await;

        let mut readers = Vec::new();
        for number in 0..60 {
            let mut sse = app.events(&format!("user-{number}")).await;
            readers.push(tokio::spawn(async move { sse.rest().await.len() }));
        }
        let mut stalled = Vec::new();
        for number in 0..3 {
            let mut wire = Wire::over(narrow(app.address()).await);
            let user = if number == 2 { "x".repeat(128) } else { format!("stalled-{number}") };
            wire.send(&get("/events").user(&user).bytes()).await;
            stalled.push(wire);
        }
        app.metric_is("sidestream_connections", &[], 63.0, support::DEADLINE).await;
        publisher.publish_all((0..400).map(|_| ("events.broadcast.large".to_owned(), vec![b'x'; LARGE]))).await;
        eventually("somebody waits", support::DEADLINE, async || {
            let slowest = app.admin_ask("GET", "/connections?slowest", Some(TOKEN)).await.text();
            slowest.contains("\"user\":\"stalled-0\"").then_some(())
        })
        .await;
        let load = Load::start(publisher.jetstream().clone(), 20);
        looked_at(&app, "busy").await;
        looked_at(&app, "drain").await;
        load.stop().await.expect("one server");
        drop(stalled);
    })
    .await;
}

/// So many pages and no more; each is one event stream that goes on.
#[tokio::test]
async fn few_may_look_at_a_time() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let token = tempfile::NamedTempFile::new().expect("a file");
        let app = site(&nats, token.path()).await;
        app.admin_get("/live").await.is_refusal(401, "token_missing");
        let mut open = Vec::new();
        for _ in 0..8 {
            let mut wire = Wire::tcp(&app.admin).await;
            wire.send(format!("GET /live HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {TOKEN}\r\n\r\n").as_bytes())
                .await;
            let head = wire.head().await;
            assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
            open.push(wire);
        }
        app.admin_ask("GET", "/live", Some(TOKEN)).await.is_refusal(503, "too_many_viewers");
        // Longer than any other exchange may take.
        let heard = open[0].read_for(Duration::from_secs(7)).await;
        let snapshots = String::from_utf8_lossy(&heard).matches("event: snapshot\n").count();
        assert!(snapshots >= 5, "{snapshots} snapshots in seven seconds");
        drop(open);
        eventually("there is room again", support::DEADLINE, async || {
            let mut wire = Wire::tcp(&app.admin).await;
            wire.send(format!("GET /live HTTP/1.1\r\nHost: admin\r\nAuthorization: Bearer {TOKEN}\r\n\r\n").as_bytes())
                .await;
            (wire.head().await.status == 200).then_some(())
        })
        .await;
    })
    .await;
}
