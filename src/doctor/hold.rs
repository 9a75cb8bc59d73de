//! Watches a stream for as long as was asked: whether heartbeats come, and whether something cuts it off.

use std::time::{Duration, Instant};

use hyper::Method;

use super::chain::{Chain, Next};
use super::finding::Code;
use super::{DoctorError, Report};
use crate::tail::heartbeat_interval;

/// Beyond a heartbeat's time, before it counts as late.
const LATE: Duration = Duration::from_secs(2);

/// Looks.
pub(super) async fn look(chain: &Chain, watch: Duration, report: &mut Report) -> Result<(), DoctorError> {
    let mut reply = chain.honest(Method::GET, &[]).await?;
    let heartbeat = reply.first.as_ref().and_then(|(event, _)| heartbeat_interval(&event.data));
    let (started, mut last) = (Instant::now(), Instant::now());
    let mut late = false;
    let end = started + watch;
    loop {
        let due = heartbeat.filter(|_| !late).map(|interval| last + interval + LATE);
        match reply.rest.next(due.map_or(end, |due| due.min(end))).await {
            Next::Event(event) if event.name == "sidestream.bye" => {
                report.note(format!("sidestream ended the stream after {:.1?}: {}", started.elapsed(), event.data));
                return Ok(());
            }
            Next::Event(_) => last = Instant::now(),
            Next::End(how) => {
                cut(report, started.elapsed(), last.elapsed(), &how);
                return Ok(());
            }
            Next::Nothing if Instant::now() >= end => break,
            Next::Nothing => {
                let promised = heartbeat.unwrap_or_default();
                report.found(
                    Code::Silent,
                    format!("nothing for {:.1?}; a heartbeat is promised every {promised:?}", last.elapsed()),
                );
                late = true;
            }
        }
    }
    report.note(format!("a stream lasted {watch:?}, for which it was watched; --for 6m finds longer limits"));
    if heartbeat.is_some_and(|interval| interval > watch) {
        report.note("no heartbeat was due in that time");
    }
    Ok(())
}

fn cut(report: &mut Report, age: Duration, silence: Duration, how: &str) {
    // What bounds a whole request cuts while bytes flow; what bounds silence cuts after it.
    let kind = if silence > age.mul_f64(0.5) || silence > Duration::from_secs(1) {
        "a limit on silence"
    } else {
        "a limit on the whole request"
    };
    report.found(Code::CutOff, format!("{how} after {age:.1?}, {silence:.1?} after the last bytes: {kind}"));
}
