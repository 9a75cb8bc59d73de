//! sidestream behind real proxies: nginx and Envoy, booted from the files in `conf/`.
//!
//! `matrix` shows what arrives of every trick with a header, a path, a host or a body, and who is served; the generated table is
//! `docs/spoof-matrix.md`. The others show that nothing is smuggled, that limits count real clients, and that a browser's stream
//! survives what happens to the sidecar behind the proxy.

#[path = "../support/mod.rs"]
mod support;

mod application;
mod attempt;
mod front;
mod h2;
mod kind;
mod matrix;
mod outcome;
mod recorder;
mod session;
mod table;
mod tap;
mod token;
mod tricks;

use front::Front;
use support::bounded;
use table::Column;

#[tokio::test]
async fn probe() {
    bounded(async {
        let sections = tricks::sections();
        let mut columns = Vec::new();
        for kind in kind::ALL {
            let started = std::time::Instant::now();
            let front = Front::start("probe", kind, &[]).await.expect("here");
            let cells = matrix::measure(&front, &sections).await;
            columns.push(Column { title: Box::leak(format!("{kind:?}").into_boxed_str()), cells });
            println!("{kind:?} {:?}", started.elapsed());
        }
        std::fs::write("/tmp/edges/matrix.md", table::markdown(&sections, &columns)).expect("written");
    })
    .await;
}
