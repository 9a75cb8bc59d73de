//! Events that are published while a stream is read: how long each takes, from the call that publishes to its arrival.

use std::time::{Duration, Instant};

use async_nats::Client;
use bytes::Bytes;
use hyper::Method;

use super::chain::{Chain, Next, PATIENCE};
use super::finding::Code;
use super::{DoctorError, Report};
use crate::publish::{Outgoing, publish};

/// How many, and the pause between.
const PROBES: usize = 5;
const PAUSE: Duration = Duration::from_millis(300);
/// The quickest one taking longer is no accident.
const DELAY: Duration = Duration::from_millis(120);
/// The quickest one taking longer is held back.
const HELD: Duration = Duration::from_secs(1);

/// Where to publish.
#[derive(Debug, Clone)]
pub struct Probes {
    /// NATS.
    pub client: Client,
    /// One that the stream's user hears.
    pub subject: String,
}

impl Probes {
    /// Looks.
    pub(super) async fn look(&self, chain: &Chain, report: &mut Report) -> Result<(), DoctorError> {
        let mut reply = chain.honest(Method::GET, &[]).await?;
        let mut took = Vec::new();
        for number in 0..PROBES {
            let data = format!("sidestream doctor, probe {number} of {}", uuid::Uuid::now_v7());
            let message =
                Outgoing { event: Some("doctor.probe".to_owned()), data: Bytes::from(data.clone()), key: None };
            let started = Instant::now();
            if let Err(error) = publish(&self.client, &self.subject, &message).await {
                report.note(format!("no probe could be published: {error}"));
                return Ok(());
            }
            let arrived = loop {
                match reply.rest.next(started + PATIENCE).await {
                    Next::Event(event) if event.data == data => break Some(started.elapsed()),
                    Next::Event(_) => {}
                    Next::End(_) | Next::Nothing => break None,
                }
            };
            let Some(arrived) = arrived else {
                let evidence = format!("a probe published to {} has not arrived within {PATIENCE:?}", self.subject);
                report.found(Code::Buffering, format!("{evidence}; is the subject one that this user hears?"));
                return Ok(());
            };
            took.push(arrived);
            tokio::time::sleep(PAUSE).await;
        }
        let (Some(least), Some(most)) = (took.iter().min(), took.iter().max()) else { return Ok(()) };
        let evidence = format!("{PROBES} published events took {least:.1?} to {most:.1?}");
        match least {
            least if *least > HELD => report.found(Code::Buffering, evidence),
            least if *least > DELAY => report.found(Code::Delay, evidence),
            _ => report.note(evidence),
        }
        Ok(())
    }
}
