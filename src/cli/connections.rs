//! `sidestream connections`: who is connected to a running instance, or to all.

use std::fmt::Write as _;

use hyper::Method;
use serde_json::Value;

use super::admin_client::AdminArgs;
use super::exit::Exit;
use crate::text::printable;

/// Options of `connections`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream connections\n  sidestream connections --cluster --user alice\n  sidestream connections --user alice --json --admin 127.0.0.1:9464 --token-file /etc/sidestream/admin.token"
)]
pub struct Args {
    /// Only those of this user
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Only those that hear this subject
    #[arg(long, value_name = "SUBJECT")]
    pub subject: Option<String>,
    /// Those of all instances on the same NATS account
    #[arg(long)]
    pub cluster: bool,
    /// Prints the answer as it is, one JSON object
    #[arg(long)]
    pub json: bool,
    /// Which instance.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Asks and prints.
pub fn run(args: &Args) -> Exit {
    let admin = match args.admin.find() {
        Ok(admin) => admin,
        Err(exit) => return exit,
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(args.user.iter().map(|user| ("user", user)));
    query.extend_pairs(args.subject.iter().map(|subject| ("subject", subject)));
    query.extend_pairs(args.cluster.then_some(("scope", "cluster")));
    let path = format!("/connections?{}", query.finish());
    super::runtime::block_on(async {
        match admin.ask(Method::GET, path.trim_end_matches('?')).await {
            Ok(answer) if args.json => super::print(&format!("{answer}\n")),
            Ok(answer) => super::print(&text(&answer)),
            Err(failed) => failed.exit(),
        }
    })
}

fn text(answer: &Value) -> String {
    let connections = answer["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
    let total = answer["total"].as_u64().unwrap_or(0);
    let mut text = format!("{total} connections, {} of them live\n", answer["live"].as_u64().unwrap_or(0));
    for connection in connections {
        let field = |name: &str| match &connection[name] {
            Value::Null => "-".to_owned(),
            Value::String(text) => printable(text),
            other => other.to_string(),
        };
        let state = if connection["live"] == true { "live" } else { "replaying" };
        let queued = connection["queued_bytes"].as_u64().unwrap_or(0);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}  {}  {}  {state}  {queued} bytes queued{}",
            field("connection"),
            field("user"),
            field("route"),
            if connection["node"].is_null() { String::new() } else { format!("  on {}", field("node")) }
        );
    }
    if answer["complete"] == false {
        text += "(not every instance has answered)\n";
    }
    let listed = u64::try_from(connections.len()).unwrap_or(u64::MAX);
    if listed < total {
        let _ = writeln!(text, "({} more are not listed; narrow it with --user or --subject)", total - listed);
    }
    text
}
