//! What is answered while the sidecar is away. From outside nobody can make it go away, so whoever asks has stopped it.

use hyper::Method;

use super::chain::Chain;
use super::finding::Code;
use super::{DoctorError, Report};

/// Looks.
pub(super) async fn look(chain: &Chain, report: &mut Report) -> Result<(), DoctorError> {
    let reply = match chain.honest(Method::GET, &[]).await {
        Ok(reply) => reply,
        Err(error @ DoctorError::NoHead(_)) => {
            report.found(Code::NoRetryPage, error.to_string());
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if reply.is_stream() || reply.code().is_some() || reply.headers.contains_key("sidestream-refused") {
        return Err(DoctorError::NotDown);
    }
    if reply.is_retry_page() {
        let body = String::from_utf8_lossy(&reply.body);
        report.note(format!("an outage is answered 200 with `{}`: an EventSource comes back", body.trim_end()));
        return Ok(());
    }
    let kind = reply.header("content-type").unwrap_or("none");
    let body = if reply.is_event_stream() { ", without `retry:` or without an end" } else { "" };
    report.found(Code::NoRetryPage, format!("{}, Content-Type {kind}{body}", reply.status.as_u16()));
    Ok(())
}
