//! sidestream behind real proxies: nginx, Envoy, HAProxy and Caddy, booted from the files in `conf/`.
//!
//! `matrix` shows what arrives of every trick with a header, a path, a host or a body, and who is served; the generated table is
//! `docs/spoof-matrix.md`. The others show that nothing is smuggled, that limits count real clients, and that a browser's stream
//! survives what happens to the sidecar behind the proxy.

#[path = "../support/mod.rs"]
mod support;

mod application;

mod addresses;
mod attempt;
mod browser;
mod crowd;
mod delays;
mod front;
mod h2;
mod kind;
mod kubernetes;
mod matrix;
mod outages;
mod outcome;
mod recorder;
mod session;
mod smuggling;
mod streams;
mod survival;
mod table;
mod tap;
mod token;
mod tokens;
mod tricks;
mod watched;

use std::path::Path;
use std::time::Instant;

use front::{Front, Setup};
use futures_util::future::join_all;
use kind::{ALL, Kind};
use matrix::Cell;
use support::edge::Proxy;
use support::{bounded, skipped};
use table::Column;
use tricks::Section;

#[tokio::test]
async fn nobody_but_the_authenticated_user_is_served() {
    bounded(async {
        let sections = tricks::sections();
        let measured = join_all(ALL.map(|kind| Box::pin(measured(kind, &sections)))).await;
        let Some(measured) = measured.into_iter().collect::<Option<Vec<_>>>() else { return };
        let of = |kind| &*measured[ALL.iter().position(|other| *other == kind).expect("measured")];
        for (row, (h1, h2)) in of(Kind::Envoy).iter().zip(of(Kind::EnvoyH2)).enumerate() {
            assert_eq!(h1.outcome, h2.outcome, "row {row}: HTTP/2 to sidestream makes a difference");
        }
        let columns = [
            ("nginx", Kind::Nginx),
            ("nginx, handed over", Kind::NginxAccel),
            ("Envoy, application", Kind::Envoy),
            ("Envoy, token", Kind::EnvoyJwt),
            ("HAProxy", Kind::Haproxy),
            ("Caddy", Kind::Caddy),
            ("nginx, appending", Kind::NginxAppending),
            ("nginx, open", Kind::NginxOpen),
        ];
        let columns = columns.map(|(title, kind)| Column { title, cells: of(kind) });
        let [nginx, envoy, haproxy, caddy] =
            [Proxy::Nginx, Proxy::Envoy, Proxy::Haproxy, Proxy::Caddy].map(Proxy::version);
        let versions = format!("Measured with nginx {nginx}, Envoy {envoy}, HAProxy {haproxy} and Caddy {caddy}.");
        compare(&table::markdown(&sections, &columns, &versions), &versions);
    })
    .await;
}

async fn measured(kind: Kind, sections: &[Section]) -> Option<Vec<Cell>> {
    let started = Instant::now();
    let front = Front::start("the spoof matrix", kind, Setup::default()).await?;
    let cells = matrix::measure(&front, sections).await;
    println!("{kind:?}: {} attempts, twice, in {:?}", cells.len(), started.elapsed());
    Some(cells)
}

/// The page that is kept, against what was measured.
fn compare(measured: &str, versions: &str) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/spoof-matrix.md");
    if std::env::var_os("SIDESTREAM_WRITE_MATRIX").is_some() {
        std::fs::write(&page, measured).expect("written");
    }
    let kept = std::fs::read_to_string(&page).unwrap_or_default();
    if !kept.is_empty() && !kept.contains(versions) {
        // Every row was asserted all the same.
        skipped("docs/spoof-matrix.md", &format!("it is of other versions: {versions}"));
        return;
    }
    for (kept, measured) in kept.lines().zip(measured.lines()) {
        assert_eq!(kept, measured, "docs/spoof-matrix.md; SIDESTREAM_WRITE_MATRIX=1 rewrites it");
    }
    assert_eq!(kept.lines().count(), measured.lines().count(), "lines of docs/spoof-matrix.md");
}

/// A line of an nginx configuration without its comment and its layout.
fn directive(line: &str) -> String {
    line.split('#').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_readme_says_what_the_file_says() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("a README");
    let (_, block) = readme.split_once("```nginx\n").expect("a block for nginx");
    let (block, _) = block.split_once("```").expect("its end");
    let file = kind::conf("nginx.conf");
    let lines: Vec<_> = file.lines().map(directive).collect();
    for line in block.lines().map(directive).filter(|line| !line.is_empty()) {
        assert!(lines.contains(&line), "not in conf/nginx.conf: {line}");
    }
}
