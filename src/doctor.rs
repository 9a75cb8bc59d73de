//! `sidestream doctor`: probes a deployed chain from outside, as a browser would meet it, and names the directive that is wrong.
//!
//! Each module looks at one thing and gives findings: [`stream`] (head, first frame, delay, compression), [`hold`] (what cuts a
//! stream off), [`outage`] (what is answered while the sidecar is away), [`spoof`] (what a client can say about itself),
//! [`probes`] (the delay of events that are published). What each finding means, and its cure, is in [`finding`].

mod chain;
pub mod finding;
mod hold;
mod outage;
mod probes;
mod spoof;
mod stream;

use std::time::Duration;

use hyper::header::{HOST, HeaderName, HeaderValue};

use crate::config::Identity;
use crate::tail::TailError;
use chain::{Chain, Unreachable};
use finding::{Code, Finding};
pub use probes::Probes;

/// What to look at.
#[derive(Debug)]
pub struct Options {
    /// The stream, as browsers know it.
    pub url: String,
    /// Headers of an honest client, credentials among them.
    pub headers: Vec<(String, String)>,
    /// How long a stream is watched.
    pub watch: Duration,
    /// The sidecar is down, on purpose.
    pub outage: bool,
    /// Names of the headers of trust.
    pub identity: Identity,
    /// Events that are published meanwhile.
    pub publish: Option<Probes>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What was measured, and what was not looked at.
    pub notes: Vec<String>,
}

impl Report {
    fn found(&mut self, code: Code, evidence: impl Into<String>) {
        let evidence = crate::text::printable(&evidence.into());
        self.findings.push(Finding { code, evidence });
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(crate::text::printable(&text.into()));
    }
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The URL or a header is not one.
    #[error(transparent)]
    Request(#[from] TailError),
    /// Nobody answers.
    #[error("{0}")]
    Unreachable(String),
    /// The connection is accepted, and nothing comes.
    #[error("no head of an answer within {0:?}")]
    NoHead(Duration),
    /// `--outage`, and the sidecar answers.
    #[error("the sidecar answers: stop it, and look again")]
    NotDown,
}

impl From<Unreachable> for DoctorError {
    fn from(error: Unreachable) -> Self {
        Self::Unreachable(error.0)
    }
}

/// Looks at everything.
pub async fn examine(options: &Options) -> Result<Report, DoctorError> {
    let headers = options.headers.iter().map(|(name, value)| header(name, value)).collect::<Result<Vec<_>, _>>()?;
    let chain = Chain::new(&options.url, headers)?;
    let mut report = Report::default();
    if options.outage {
        outage::look(&chain, &mut report).await?;
        return Ok(report);
    }
    let opened = stream::look(&chain, &mut report).await?;
    if !opened && report.findings.iter().any(|finding| finding.code == Code::Buffering) {
        report.note("nothing else can be told through what holds answers back");
        return Ok(report);
    }
    if opened {
        match &options.publish {
            Some(probes) => probes.look(&chain, &mut report).await?,
            None => report.note("no events were published: --publish SUBJECT measures their delay"),
        }
        hold::look(&chain, options.watch, &mut report).await?;
    }
    spoof::look(&chain, &options.identity, &mut report).await?;
    report.note("what an outage answers was not looked at: stop the sidecar and look again with --outage");
    Ok(report)
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), TailError> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
    // The value may be a credential.
    parsed.ok_or_else(|| TailError::Header(name.to_owned()))
}

/// Headers that say where a request goes, and nothing about who sends it.
fn is_route(name: &HeaderName) -> bool {
    *name == HOST
}
