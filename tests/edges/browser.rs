//! Chromium, with pages of several origins in front of a proxy that knows the user by a cookie (requirement R13).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::front::{Front, Setup};
use crate::kind::Kind;
use crate::support::bounded;

#[tokio::test]
async fn a_page_of_a_foreign_origin_opens_no_stream() {
    bounded(async {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
        assert!(
            scripts.join("node_modules").is_dir(),
            "no node_modules in tests/browser: run scripts/test, or `npm ci` there"
        );
        let Some(front) = Front::start("origins in Chromium", Kind::Nginx, Setup::default()).await else { return };
        let profile = tempfile::tempdir().expect("a temporary directory");
        let run = Command::new("node")
            .arg(scripts.join("origins.mjs"))
            .arg(front.edge.address.port().to_string())
            .arg(profile.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(Duration::from_secs(120), run).await;
        let output = ended.expect("the browser ends").expect("node starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        println!("{said}");
        // Each foreign page tried in two ways, one in a third. None was stopped for want of the cookie, which would be 401.
        let log = front.edge.access_log();
        let answered = |status: &str| log.matches(&format!(" GET /events HTTP/2.0 {status} ")).count();
        assert_eq!((answered("403"), answered("401")), (9, 0), "{log}");
        let opened = front.app.metric("sidestream_connections_total", &[]).await;
        assert!((opened - 2.0).abs() < 0.5, "{opened} streams were opened for two pages");
    })
    .await;
}
