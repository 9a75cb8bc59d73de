//! `sidestream kick`: ends one connection of a running instance.

use hyper::{Method, StatusCode};
use uuid::Uuid;

use super::admin_client::{AdminArgs, Failed};
use super::exit::Exit;

/// Options of `kick`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Example:\n  sidestream kick 0198c1b2-7d4e-7c3a-9f00-2b1c5a6d7e8f\n\nThe client is told `kicked` and does not come back by itself where its library heeds that. Exits 1 when there is no such connection."
)]
pub struct Args {
    /// The connection, as `sidestream connections` and sidestream.connected name it
    #[arg(value_name = "CONNECTION")]
    pub connection: Uuid,
    /// Which instance.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Asks for it.
pub fn run(args: &Args) -> Exit {
    let admin = match args.admin.find() {
        Ok(admin) => admin,
        Err(exit) => return exit,
    };
    super::runtime::block_on(async {
        match admin.ask(Method::POST, &format!("/kick/{}", args.connection)).await {
            Ok(answer) => super::print(&format!("{answer}\n")),
            Err(Failed::Refused(StatusCode::NOT_FOUND, _)) => {
                super::complain(format_args!("there is no connection {}", args.connection));
                Exit::Negative
            }
            Err(failed) => failed.exit(),
        }
    })
}
