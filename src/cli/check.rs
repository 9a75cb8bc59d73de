//! `sidestream check`: every fault of a configuration, without starting anything.

mod connect;

use std::collections::BTreeSet;

use super::exit::Exit;
use super::options::ConfigArgs;
use crate::config::Config;
use crate::server::tls::LiveConfig;

/// Options of `check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  sidestream check --config sidestream.toml\n  sidestream check --connect")]
pub struct Args {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also checks NATS: reachable, version, streams exist and capture the routes' subjects, permissions
    #[arg(long)]
    pub connect: bool,
}

/// Reports all faults, or that there are none.
pub fn run(args: &Args) -> Exit {
    let loaded = match args.config.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    if let Some(Err(error)) = loaded.config.server.tls.as_ref().map(LiveConfig::new) {
        eprintln!("error: {error}");
        return Exit::Config;
    }
    let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let routes = counted(loaded.config.routes.routes.len(), "route");
    let streams = counted(streams(&loaded.config), "stream");
    let printed = super::print(&format!("configuration is valid: {routes}, {streams}\n"));
    if args.connect {
        return super::runtime::block_on(connect::run(&loaded.config));
    }
    printed
}

/// Distinct streams, configured or named by a route.
fn streams(config: &Config) -> usize {
    let configured = config.streams.iter().map(|stream| stream.name.as_str());
    configured.chain(config.routes.streams.iter().map(String::as_str)).collect::<BTreeSet<_>>().len()
}
