//! `sidestream drain`: a running instance closes its streams one by one and takes no new ones.

use std::time::{Duration, Instant};

use hyper::Method;

use super::admin_client::{Admin, AdminArgs, Failed};
use super::exit::Exit;

/// How often it is asked how many are left.
const LOOK: Duration = Duration::from_millis(500);
/// Beyond the window, before it is called stuck.
const MARGIN: Duration = Duration::from_secs(30);

/// Options of `drain`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream drain\n  sidestream drain --no-wait --admin unix:/run/sidestream/admin.sock --token-file /etc/sidestream/admin.token"
)]
pub struct Args {
    /// Does not wait until no stream is left
    #[arg(long)]
    pub no_wait: bool,
    /// Which instance.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Begins it, and waits.
pub fn run(args: &Args) -> Exit {
    let admin = match args.admin.find() {
        Ok(admin) => admin,
        Err(exit) => return exit,
    };
    super::runtime::block_on(async {
        let begun = match admin.ask(Method::POST, "/drain").await {
            Ok(answer) => answer,
            Err(failed) => return failed.exit(),
        };
        let window = begun["window_seconds"].as_f64().filter(|seconds| (0.0..=1e9).contains(seconds)).unwrap_or(0.0);
        let connections = begun["connections"].as_u64().unwrap_or(0);
        match super::print(&format!("draining {connections} connections over {window} s\n")) {
            Exit::Ok if !args.no_wait => until_empty(&admin, Duration::from_secs_f64(window) + MARGIN).await,
            exit => exit,
        }
    })
}

async fn until_empty(admin: &Admin, patience: Duration) -> Exit {
    let started = Instant::now();
    loop {
        match admin.ask(Method::GET, "/drain").await {
            Ok(answer) if answer["connections"] == 0 => return super::print("drained\n"),
            Ok(answer) if started.elapsed() > patience => {
                super::complain(format_args!(
                    "error: {} connections are left after {patience:?}",
                    answer["connections"]
                ));
                return Exit::Unavailable;
            }
            // One that is busy has not ended.
            Err(late @ Failed::Late) if started.elapsed() > patience => return late.exit(),
            Ok(_) | Err(Failed::Late) => tokio::time::sleep(LOOK).await,
            // It was told to stop as well, and has.
            Err(Failed::Unreachable(_)) => return super::print("the instance has ended\n"),
            Err(failed) => return failed.exit(),
        }
    }
}
