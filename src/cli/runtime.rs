//! What commands that talk to NATS share: a runtime, a connection, and how failures become exit codes.

use std::io::Read as _;
use std::rc::Rc;

use async_nats::Client;
use bytes::Bytes;

use super::exit::Exit;
use super::options::PublishArgs;
use crate::config::Config;
use crate::feed::api::ApiError;
use crate::feed::connection::{self, ConnectError, Connection, Role};
use crate::publish::{Outgoing, PublishError};
use crate::text::printable;

/// Runs a command's future on a runtime of this thread.
pub fn block_on(command: impl Future<Output = Exit>) -> Exit {
    match block_on_for(async { Ok(command.await) }) {
        Ok(exit) | Err(exit) => exit,
    }
}

/// The same for a future that gives something.
pub fn block_on_for<T>(part: impl Future<Output = Result<T, Exit>>) -> Result<T, Exit> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(part),
        Err(error) => {
            eprintln!("error: cannot start a runtime: {error}");
            Err(Exit::Os)
        }
    }
}

/// Connects now, or says why not.
pub async fn connect(config: &Config, role: Role) -> Result<Connection, Exit> {
    // async-nats builds its TLS configuration from the process's default provider. A second call changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match connection::connect_once(&config.nats, role).await {
        Ok(connection) => Ok(connection),
        Err(error) => {
            eprintln!("error: {} (nats.servers = {:?})", shown(config, &error), config.nats.servers);
            Err(match error {
                ConnectError::Credentials(_) => Exit::NoInput,
                ConnectError::SecretNotText => Exit::Config,
                ConnectError::Nats(_) => Exit::Unavailable,
            })
        }
    }
}

/// What a server wrote, as it may be shown on a terminal.
pub fn shown(config: &Config, text: &dyn std::fmt::Display) -> String {
    config.redaction().hide(printable(&text.to_string()))
}

/// How a failed publication ends the command.
fn publish_exit(config: &Config, error: &PublishError) -> Exit {
    eprintln!("error: {}", shown(config, error));
    match error {
        PublishError::Subject(..) | PublishError::EventName(_) | PublishError::User(_) => Exit::Usage,
        PublishError::NoTemplate(_) => Exit::Config,
        PublishError::Api(ApiError::Refused { .. }) | PublishError::TooLarge(_) => Exit::NoPermission,
        PublishError::Api(_) | PublishError::Nats(_) => Exit::Unavailable,
    }
}

/// Loads, connects, and publishes as often as asked; `once` publishes one message and gives the line to print.
pub fn publish_all(
    args: &PublishArgs,
    once: impl AsyncFn(Client, Rc<Config>, Outgoing) -> Result<String, PublishError>,
) -> Exit {
    let config = match args.config.load_or_defaults() {
        Ok(loaded) => Rc::new(loaded.config),
        Err(exit) => return exit,
    };
    let data = match payload(args.data.as_deref()) {
        Ok(data) => data,
        Err(error) => {
            eprintln!("error: standard input: {error}");
            return Exit::NoInput;
        }
    };
    let message = Outgoing { event: args.message.event.clone(), data, key: args.idempotency_key.clone() };
    block_on(async {
        let client = match connect(&config, Role::Command).await {
            Ok(connection) => connection.client,
            Err(exit) => return exit,
        };
        for sent in 0..args.message.count {
            if let Some(pause) = args.message.every.filter(|_| sent > 0) {
                tokio::time::sleep(pause).await;
            }
            match once(client.clone(), config.clone(), message.clone()).await {
                Ok(line) => match super::print(&format!("{line}\n")) {
                    Exit::Ok => {}
                    exit => return exit,
                },
                Err(error) => return publish_exit(&config, &error),
            }
        }
        Exit::Ok
    })
}

/// Data from the command line, or from standard input where it is `-`.
pub fn payload(data: Option<&str>) -> std::io::Result<Bytes> {
    if data != Some("-") {
        return Ok(Bytes::copy_from_slice(data.unwrap_or_default().as_bytes()));
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
