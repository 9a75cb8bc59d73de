//! What a stream looks like when it opens: status, head, the time of its first frame, compression, HTTP/2.

use std::time::Duration;

use hyper::Method;
use hyper::header::{ACCEPT_ENCODING, HeaderValue};

use super::chain::{Chain, PATIENCE, Reply};
use super::finding::Code;
use super::{DoctorError, Report};

/// The first frame is promised within 100 ms of the request; beyond this it is held back.
const FIRST_FRAME: Duration = Duration::from_secs(1);
/// A stream takes this much longer than an answer without one where events are held back; HAProxy's is 200 ms.
const DELAY: Duration = Duration::from_millis(120);
/// The quickest of so many counts: others share the machine and the way.
const TRIES: usize = 5;

/// Looks; whether a stream could be opened.
pub(super) async fn look(chain: &Chain, report: &mut Report) -> Result<bool, DoctorError> {
    let reply = match chain.honest(Method::GET, &[]).await {
        Ok(reply) => reply,
        Err(error @ DoctorError::NoHead(_)) => {
            report.found(Code::Buffering, error.to_string());
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    if !reply.is_stream() {
        not_a_stream(&reply, report);
        return Ok(false);
    }
    head(&reply, report);
    delay(chain, reply, report).await?;
    let encodings = [(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, br, zstd"))];
    let encoded = chain.honest(Method::GET, &encodings).await?;
    if let Some(encoding) = encoded.header("content-encoding") {
        report.found(Code::Compressed, format!("Content-Encoding: {encoding}, to a client that accepts it"));
    }
    match chain.offers_http2().await? {
        Some(false) => report.found(Code::NoHttp2, "the TLS handshake does not agree to h2"),
        Some(true) => report.note("HTTP/2 is offered"),
        None => report.note("without TLS browsers speak HTTP/1.1 only: six streams of a site"),
    }
    Ok(true)
}

fn not_a_stream(reply: &Reply, report: &mut Report) {
    let said = reply.said();
    let took = reply.head_after;
    match reply.status.as_u16() {
        505 => report.found(Code::Http10, said),
        200 if reply.is_retry_page() => {
            report.found(Code::Refused, "200, only `retry:`: the sidecar is away, or refuses for now");
        }
        200 if reply.is_event_stream() => {
            report.found(Code::Buffering, format!("a head after {took:.1?}, and no frame within {PATIENCE:?}"));
        }
        200 => report.found(Code::ContentType, format!("200 with Content-Type {:?}", reply.header("content-type"))),
        500 | 502..=504 if reply.code().is_none() => {
            report.found(Code::NoRetryPage, format!("{said}, from the proxy itself"));
        }
        _ => report.found(Code::Refused, said),
    }
}

fn head(reply: &Reply, report: &mut Report) {
    let cache = reply.header("cache-control").unwrap_or_default();
    let has = |directive: &str| cache.split(',').any(|part| part.trim().eq_ignore_ascii_case(directive));
    if !has("no-store") || !has("no-transform") {
        report.found(Code::CacheControl, format!("Cache-Control: {cache}"));
    }
    let is_nginx = reply.header("server").is_some_and(|server| server.starts_with("nginx"));
    // nginx takes it for itself.
    if reply.header("x-accel-buffering").is_none() && !is_nginx {
        report.note("X-Accel-Buffering was taken off on the way: an nginx behind it would not see it");
    }
}

/// An answer without a stream takes the same way, authentication included, and is over at once: what a stream's first frame takes
/// longer, events take longer.
async fn delay(chain: &Chain, first: Reply, report: &mut Report) -> Result<(), DoctorError> {
    let after = |reply: &Reply| reply.first.as_ref().map(|(_, after)| *after);
    let (mut frames, mut heads) = (Vec::from_iter(after(&first)), Vec::new());
    drop(first);
    for _ in 1..TRIES {
        frames.extend(after(&chain.honest(Method::GET, &[]).await?));
        heads.push(chain.honest(Method::HEAD, &[]).await?.head_after);
    }
    let (Some(frame), Some(head)) = (frames.iter().min(), heads.iter().min()) else { return Ok(()) };
    let evidence =
        format!("the first frame after {frame:.1?}, an answer without a stream after {head:.1?}; the best of {TRIES}");
    match frame.saturating_sub(*head) {
        longer if longer > FIRST_FRAME => report.found(Code::Buffering, evidence),
        longer if longer > DELAY => report.found(Code::Delay, evidence),
        _ => report.note(evidence),
    }
    Ok(())
}
