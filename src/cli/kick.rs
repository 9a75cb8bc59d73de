//! `sidestream kick`: ends one connection, or all of a user, on whichever instance they are.

use hyper::{Method, StatusCode};
use uuid::Uuid;

use super::admin_client::{AdminArgs, Failed};
use super::exit::Exit;

/// Options of `kick`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream kick 0198c1b2-7d4e-7c3a-9f00-2b1c5a6d7e8f\n  sidestream kick --user alice\n\nThe client is told `kicked`, and comes back by itself like after any end: end a user's session before. Exits 1 when no sidecar has the connection, 69 when not every sidecar has answered."
)]
pub struct Args {
    /// The connection, as `sidestream connections` and sidestream.connected name it
    #[arg(value_name = "CONNECTION", required_unless_present = "user")]
    pub connection: Option<Uuid>,
    /// All connections of this user instead
    #[arg(long, value_name = "USER", conflicts_with = "connection")]
    pub user: Option<String>,
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
    let path = match &args.connection {
        Some(connection) => format!("/kick/{connection}"),
        None => {
            let user = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(args.user.iter().map(|user| ("user", user)))
                .finish();
            format!("/kick?{user}")
        }
    };
    super::runtime::block_on(async {
        match admin.ask(Method::POST, &path).await {
            Ok(answer) => match super::print(&format!("{answer}\n")) {
                Exit::Ok if answer["complete"] == false => {
                    super::complain(format_args!("not every sidecar has answered: ask again"));
                    Exit::Unavailable
                }
                printed => printed,
            },
            Err(Failed::Refused(StatusCode::NOT_FOUND, _)) => {
                super::complain(format_args!("there is no such connection"));
                Exit::Negative
            }
            Err(failed) => failed.exit(),
        }
    })
}
