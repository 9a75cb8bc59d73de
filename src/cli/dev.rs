//! `sidestream dev`: one command to a working page. Loopback only, without TLS.

use std::sync::Arc;

use super::exit::Exit;
use crate::app::{self, Running};
use crate::config::load::{self, Loaded, Sources};
use crate::dev::demo::Demo;
use crate::dev::nats_server;
use crate::server::listen::Inherited;

/// Options of `dev`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sidestream dev --port 8080\n  then open http://127.0.0.1:8080/")]
pub struct Args {
    /// Port on 127.0.0.1 for the page and the events; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// A running NATS server with JetStream [default: one is found, or started in a temporary directory]
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// Answers yes to every question
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// Runs until interrupted.
pub fn run(args: &Args) -> Exit {
    super::runtime::block_on(async {
        let options = nats_server::Options { url: args.nats.clone(), yes: args.yes };
        let server = match nats_server::ensure(&options).await {
            Ok(server) => server,
            Err(error) => {
                eprintln!("error: {error}");
                return Exit::Unavailable;
            }
        };
        if let Some(note) = &server.note {
            eprintln!("note: {note}");
        }
        let exit = demonstrate(args.port, &server).await;
        server.stop().await;
        exit
    })
}

async fn demonstrate(port: u16, server: &nats_server::Server) -> Exit {
    let loaded = match config(port, &server.url) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let log = match crate::telemetry::log::start(&loaded.config) {
        Ok(log) => Arc::new(log),
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Config;
        }
    };
    let Some(signals) = super::serve::Signals::new() else { return Exit::Os };
    let demo = Arc::new(Demo::default());
    let running = match app::start(loaded.config.clone(), &Inherited::default(), Some(demo.clone())).await {
        Ok(running) => running,
        Err(error) => return super::serve::start_failed(&error),
    };
    demo.started(running.control.clone(), running.state.clone());
    match super::print(&welcome(&running, server)) {
        Exit::Ok => super::serve::until_stopped(running, signals, None, loaded, log).await,
        exit => exit,
    }
}

/// The demonstration's whole configuration.
fn config(port: u16, nats: &str) -> Result<Loaded, Exit> {
    let nats = toml::Value::from(nats);
    let text = format!(
        r#"
        [server]
        listen = ["127.0.0.1:{port}"]
        # A foreign page cannot come in by a name that it makes resolve to this machine.
        hosts = ["127.0.0.1", "localhost"]
        drain_window = "1ms"
        [admin]
        listen = "127.0.0.1:0"
        [nats]
        servers = [{nats}]
        [identity]
        user_encoding = "base64url"
        [limits]
        connections = 1000
        [log]
        level = "warn"
        [[stream]]
        name = "EVENTS"
        subjects = ["events.>"]
        create = true
        max_age = "1h"
        max_bytes = "64MiB"
        [[route]]
        path = "/events"
        stream = "EVENTS"
        subjects = ["events.user.{{user}}.>", "events.broadcast.>"]
        "#
    );
    match load::load_text("sidestream dev", &text, &Sources::default()) {
        Ok(loaded) => Ok(loaded),
        Err(report) => {
            eprintln!("{report}");
            Err(Exit::from(&report))
        }
    }
}

fn welcome(running: &Running, server: &nats_server::Server) -> String {
    let address = running.public.first().map(ToString::to_string).unwrap_or_default();
    let nats = &server.url;
    let whose = if server.child.is_some() { "started for this demonstration" } else { "already running" };
    format!(
        "sidestream {version} on NATS {nats_version} at {nats} ({whose})\n\n\
         \x20 page     http://{address}/\n\
         \x20 stream   http://{address}/events?user=alice\n\
         \x20 metrics  http://{admin}/metrics\n\n\
         Two lines to try in another terminal:\n\
         \x20 curl -N 'http://{address}/events?user=alice'\n\
         \x20 {program} notify alice 'hello alice' --set 'nats.servers=[\"{nats}\"]'\n\n\
         Ctrl-C ends it.\n",
        version = env!("CARGO_PKG_VERSION"),
        // As the user typed it: a fresh build is not on the PATH.
        program = std::env::args().next().unwrap_or_else(|| "sidestream".to_owned()),
        nats_version = server.version,
        admin = running.admin.0,
    )
}
