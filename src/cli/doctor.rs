//! `sidestream doctor`: probes a deployed chain from outside. What is looked at is in `crate::doctor`; this is its command line.

use std::time::Duration;

use serde_json::json;

use super::exit::Exit;
use super::options::{ConfigArgs, parse_header};
use crate::config::Config;
use crate::config::units::parse_duration;
use crate::doctor::{self, DoctorError, Options, Probes, Report};
use crate::feed::connection::Role;

/// Options of `doctor`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream doctor https://events.example.com/events --header 'Cookie:session=…' --for 2m\n  sidestream doctor https://events.example.com/events --outage\n  sidestream doctor https://events.example.com/events --header 'Cookie:session=…' --config sidestream.toml --publish events.user.alice.doctor\n\nExits 1 when something is wrong, 69 when nobody answers."
)]
pub struct Args {
    /// URL of the stream, as browsers know it
    pub url: String,
    /// Request header of an honest client, such as a cookie; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,
    /// How long a stream is watched for something that cuts it off
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, default_value = "20s")]
    pub watch: Duration,
    /// The sidecar is down: looks at what its clients are answered, and at nothing else
    #[arg(long)]
    pub outage: bool,
    /// Publishes events to this subject, which the user hears, and measures their way; the configuration says where NATS is
    #[arg(long, value_name = "SUBJECT", conflicts_with = "outage")]
    pub publish: Option<String>,
    /// Prints one JSON object
    #[arg(long)]
    pub json: bool,
    /// The configuration: names of the headers of trust, and where NATS is.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Looks and reports.
pub fn run(args: &Args) -> Exit {
    let config = match args.config.load_or_defaults() {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    super::runtime::block_on(async {
        let publish = match probes(args, &config).await {
            Ok(publish) => publish,
            Err(exit) => return exit,
        };
        let options = Options {
            url: args.url.clone(),
            headers: args.headers.clone(),
            watch: args.watch,
            outage: args.outage,
            identity: config.identity.clone(),
            publish,
        };
        match Box::pin(doctor::examine(&options)).await {
            Ok(report) => told(args, &report),
            Err(error) => {
                super::complain(format_args!("error: {error}"));
                match error {
                    DoctorError::Request(crate::tail::TailError::Tls(_)) => Exit::Unavailable,
                    DoctorError::Request(_) => Exit::Usage,
                    DoctorError::Unreachable(_) | DoctorError::NoHead(_) | DoctorError::NotDown => Exit::Unavailable,
                }
            }
        }
    })
}

async fn probes(args: &Args, config: &Config) -> Result<Option<Probes>, Exit> {
    let Some(subject) = &args.publish else { return Ok(None) };
    let connection = super::runtime::connect(config, Role::Command).await?;
    Ok(Some(Probes { client: connection.client, subject: subject.clone() }))
}

fn told(args: &Args, report: &Report) -> Exit {
    let text = if args.json {
        let findings: Vec<_> = report.findings.iter().map(doctor::finding::Finding::json).collect();
        format!("{}\n", json!({"clean": findings.is_empty(), "findings": findings, "notes": report.notes}))
    } else {
        let findings: String = report.findings.iter().map(|finding| format!("{}\n", finding.text())).collect();
        let notes: String = report.notes.iter().map(|note| format!("note: {note}\n")).collect();
        let count = report.findings.len();
        let sum = match count {
            0 => "nothing is wrong\n".to_owned(),
            1 => "1 finding\n".to_owned(),
            _ => format!("{count} findings\n"),
        };
        format!("{findings}{notes}{sum}")
    };
    match super::print(&text) {
        Exit::Ok if !report.findings.is_empty() => Exit::Negative,
        exit => exit,
    }
}
