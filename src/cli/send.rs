//! `sidestream send`: one event to one connection, wherever it is.

use hyper::StatusCode;
use serde_json::json;
use uuid::Uuid;

use super::admin_client::{AdminArgs, Failed};
use super::exit::Exit;
use super::options::parse_key;
use super::runtime::payload;

/// Options of `send`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example:\n  sidestream send 0198c1b2-7d4e-7c3a-9f00-2b1c5a6d7e8f '{\"ready\":true}' --event export\n\nThe event is not stored: a connection that ends takes it along. `sent` is 0 while the connection opens or ends. Exits 1 when no sidecar has it."
)]
pub struct Args {
    /// The connection, as `sidestream connections --cluster` and sidestream.connected name it
    #[arg(value_name = "CONNECTION")]
    pub connection: Uuid,
    /// Its data, UTF-8; `-` reads it from standard input [default: empty]
    pub data: Option<String>,
    /// Event name
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// Sent once however often it is tried: its sidecar knows a key for two minutes
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pub idempotency_key: Option<String>,
    /// Which instance asks the others.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Asks for it.
pub fn run(args: &Args) -> Exit {
    let admin = match args.admin.find() {
        Ok(admin) => admin,
        Err(exit) => return exit,
    };
    let data = payload(args.data.as_deref());
    let data = data.and_then(|bytes| String::from_utf8(bytes.into()).map_err(std::io::Error::other));
    let data = match data {
        Ok(data) => data,
        Err(error) => {
            super::complain(format_args!("error: standard input: {error}"));
            return Exit::NoInput;
        }
    };
    let body = json!({"event": args.event, "data": data}).to_string();
    super::runtime::block_on(async {
        let path = format!("/send/{}", args.connection);
        match admin.post(&path, body.into(), args.idempotency_key.as_deref()).await {
            Ok(answer) => super::print(&format!("{answer}\n")),
            Err(Failed::Refused(StatusCode::NOT_FOUND, _)) => {
                super::complain(format_args!("there is no connection {}", args.connection));
                Exit::Negative
            }
            Err(failed) => failed.exit(),
        }
    })
}
