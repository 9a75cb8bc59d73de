//! `sidestream serve`: runs until it is told to stop. The parts are built elsewhere; this is the command line of it.

use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::Exit;
use super::options::ConfigArgs;
use super::service::Service;
use crate::admin::Admin;
use crate::app::{self, Running, StartError};
use crate::config::Listen;
use crate::config::load::{Loaded, Sources};
use crate::feed::connection::ConnectError;
use crate::reload::Reloader;
use crate::server::listen::Inherited;
use crate::telemetry::{
    self,
    log::{Log, TELL_INTERVAL},
};

/// Certificate files are looked at so often: a few reads of small files. Nothing else tells where links are swapped.
const CERTIFICATES_LOOKED_AT: Duration = Duration::from_secs(10);

/// Options of `serve`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sidestream serve --config /etc/sidestream/sidestream.toml --log-level debug")]
pub struct Args {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How log lines look [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormatArg>,
    /// Log level or filter, such as debug or info,sidestream::feed=debug
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Args {
    /// What to load: the log options are `--set` in other words, and win over it.
    pub fn sources(&self) -> Sources {
        let mut sources = self.config.sources();
        let format = self.log_format.map(|format| match format {
            LogFormatArg::Text => "log.format=text".to_owned(),
            LogFormatArg::Json => "log.format=json".to_owned(),
        });
        sources.set.extend(format);
        sources.set.extend(self.log_level.as_ref().map(|level| format!("log.level={level}")));
        sources
    }
}

/// Runs the server.
pub fn run(args: &Args) -> Exit {
    let loaded = match super::options::load_or_report(&args.sources()) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let log = match telemetry::log::start(&loaded.config) {
        Ok(log) => Arc::new(log),
        Err(error) => {
            super::complain(format_args!("error: {error}"));
            return Exit::Config;
        }
    };
    if loaded.config.is_secret() {
        crate::dumps::keep_private();
    }
    let inherited = Inherited::take();
    let spans = telemetry::otel::start();
    let exit = super::runtime::block_on(async move {
        // Before anything is built: who is told to stop while starting stops in order as well.
        let Some(signals) = Signals::new() else { return Exit::Os };
        match app::start(loaded.config.clone(), &inherited, None).await {
            Ok(running) => until_stopped(running, signals, Some(args.sources()), loaded, log).await,
            Err(error) => start_failed(&error),
        }
    });
    spans.finish();
    exit
}

/// Says why the process cannot start.
pub(super) fn start_failed(error: &StartError) -> Exit {
    super::complain(format_args!("error: {error}"));
    match error {
        StartError::Listen(_) | StartError::Thread(_) => Exit::Os,
        StartError::Tls(_) => Exit::Config,
        StartError::Nats(ConnectError::Credentials(_)) => Exit::NoInput,
        StartError::Nats(ConnectError::SecretNotText) => Exit::Config,
        StartError::Nats(_) => Exit::Unavailable,
        StartError::FeedEnded => Exit::Internal,
    }
}

/// What the process is told by signals.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they are waited for instead of ending the process. `None` where the system does not let us, which is told.
    pub(super) fn new() -> Option<Self> {
        let all = || -> std::io::Result<Self> {
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
            })
        };
        all().inspect_err(|error| tracing::error!(%error, "Signals cannot be handled")).ok()
    }

    /// Waits to be told to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Serves until a signal: the first drains, a second ends at once. A thread that ends takes the process with it.
pub(super) async fn until_stopped(
    running: Running,
    mut signals: Signals,
    sources: Option<Sources>,
    loaded: Loaded,
    log: Arc<Log>,
) -> Exit {
    let Running { public, admin: (admin_address, admin), state, tls, mut ended, .. } = running;
    for address in &public {
        tracing::info!(listener = "public", %address, "Listening");
    }
    tracing::info!(listener = "admin", address = %admin_address, "Listening");
    let reloader = Arc::new(Reloader::new(sources, loaded, state.clone(), tls, log.clone()));
    let answers = Admin::new(admin_address.clone(), state.clone(), reloader.clone());
    tokio::spawn(crate::admin::serve(admin, Arc::new(answers)));
    let service = Service::new();
    service.ready();
    tokio::spawn(service.watch(state.clone()));
    let mut look = tokio::time::interval(CERTIFICATES_LOOKED_AT);
    let mut telling = tokio::time::interval(TELL_INTERVAL);
    loop {
        tokio::select! {
            _ = telling.tick() => log.tell(),
            thread = ended.recv() => {
                tracing::error!(thread = thread.unwrap_or("unknown"), "Thread ended; the process ends with it");
                return Exit::Internal;
            }
            _ = look.tick() => drop(reloader.reload_certificates()),
            _ = signals.hangup.recv() => {
                service.reloading();
                // What came of it is in the log.
                let _ = reloader.reload();
                service.ready();
            }
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
        }
    }
    let window = state.config.get().server.drain_window;
    service.stopping(window);
    tracing::info!(connections = state.connections(), ?window, "Draining");
    tokio::select! {
        () = state.drain() => {}
        () = signals.stop() => tracing::warn!("Second signal: ending at once"),
        thread = ended.recv() => {
            tracing::error!(thread = thread.unwrap_or("unknown"), "Thread ended in the middle of a drain");
            return Exit::Internal;
        }
    }
    state.leave().await;
    log.tell();
    // An inherited socket is not ours: it stays open for the next process.
    let config = state.config.get();
    for listen in config.server.listen.iter().chain([&config.admin.listen]) {
        if let Listen::Unix(path) = listen {
            let _ = std::fs::remove_file(path);
        }
    }
    Exit::Ok
}
