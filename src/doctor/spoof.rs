//! What a client can say about itself. Every header of trust is sent, in every spelling that some server takes for it, with the
//! credentials that were given and without any.
//!
//! Values that mean something are sent only where no stream opens without them: one that then opens is one that nobody may open.
//! Otherwise every value is one that sidestream never takes, so nobody's stream is opened, and a refusal by sidestream tells that
//! the header has reached it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use hyper::header::{CONNECTION, HeaderName, HeaderValue};

use super::chain::{Chain, Header, Reply};
use super::finding::Code;
use super::{DoctorError, Report};
use crate::config::Identity;

/// A user whom nobody is.
const NOBODY: &str = "sidestream-doctor";
/// Visible ASCII is wanted everywhere; this is refused wherever it arrives.
const NEVER: &str = "sidestream doctor";
/// Answers that sidestream gives for what stands in a header of trust.
const REACHED: [&str; 5] =
    ["identity_invalid", "identity_ambiguous", "header_alias", "hop_by_hop_identity", "untrusted_peer"];

/// Looks.
pub(super) async fn look(chain: &Chain, identity: &Identity, report: &mut Report) -> Result<(), DoctorError> {
    let nobody = chain.nobody(&[]).await?;
    if nobody.is_stream() {
        report.note("a stream opens without any credentials: that is right for a route with audience \"anyone\" only");
    }
    let names = names(identity);
    for (name, value) in &names {
        for (trick, headers) in tricks(name, value, NEVER) {
            let reply = chain.nobody(&headers).await?;
            judge(report, name.as_str(), trick, &reply, &nobody, "without credentials");
        }
    }
    let whole = whole(identity, &names);
    judge(report, "all of them", "as they are", &chain.nobody(&whole).await?, &nobody, "without credentials");
    if chain.headers.iter().all(|(name, _)| super::is_route(name)) {
        report
            .note("no credentials were given: whether headers of trust reach sidestream beside them was not looked at");
        return Ok(());
    }
    let honest = chain.honest(Method::GET, &[]).await?;
    for (name, value) in &names {
        let value = if honest.is_stream() { NEVER } else { value };
        for (trick, headers) in tricks(name, value, NEVER) {
            let reply = chain.honest(Method::GET, &headers).await?;
            judge(report, name.as_str(), trick, &reply, &honest, "beside the credentials");
        }
    }
    if !honest.is_stream() {
        let reply = chain.honest(Method::GET, &whole).await?;
        judge(report, "all of them", "as they are", &reply, &honest, "beside the credentials");
    }
    report.note(format!(
        "headers of trust that were tried: {}",
        names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    ));
    Ok(())
}

fn judge(report: &mut Report, name: &str, trick: &str, reply: &Reply, otherwise: &Reply, how: &str) {
    let evidence = format!("{name}, {trick}, {how}: {}; without it {}", reply.said(), otherwise.said());
    let reached = reply.code().is_some_and(|code| REACHED.contains(&code.as_str()));
    // The proxy's own header went with the client's word.
    let removed = otherwise.is_stream() && reply.code().as_deref() == Some("identity_missing");
    match () {
        () if reply.is_stream() && !otherwise.is_stream() => report.found(Code::SpoofedIdentity, evidence),
        () if reached || removed => report.found(Code::HeaderPasses, evidence),
        () => {}
    }
}

/// The headers that sidestream reads, each with a value that says something.
fn names(identity: &Identity) -> Vec<(HeaderName, String)> {
    let claims = URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"{NOBODY}\",\"exp\":4102444800}}"));
    let named = [
        (Some(&identity.user_header), NOBODY.to_owned()),
        (identity.claims_header.as_ref(), claims),
        (identity.expires_header.as_ref(), "4102444800".to_owned()),
        (identity.subjects_header.as_ref(), NOBODY.to_owned()),
    ];
    let variables = identity.variables.values().map(|name| (name, NOBODY.to_owned()));
    let all = named.into_iter().filter_map(|(name, value)| Some((name?, value))).chain(variables);
    all.filter_map(|(name, value)| Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))).collect()
}

/// Everything that a proxy says of a user, as a client would have to say it; but no subjects, which a route may not allow.
fn whole(identity: &Identity, names: &[(HeaderName, String)]) -> Vec<Header> {
    let told = names.iter().filter(|(name, _)| Some(name.as_str()) != identity.subjects_header.as_deref());
    told.filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_str(value).ok()?))).collect()
}

/// The ways in which a header is put past proxies. `never`: a value beside another one.
fn tricks(name: &HeaderName, value: &str, never: &str) -> Vec<(&'static str, Vec<Header>)> {
    let text = |value: &str| HeaderValue::from_str(value).ok();
    let Some((value, never)) = text(value).zip(text(never)) else { return Vec::new() };
    let mut tricks = vec![
        ("as it is", vec![(name.clone(), value.clone())]),
        ("twice", vec![(name.clone(), value.clone()), (name.clone(), never)]),
    ];
    if let Ok(alias) = HeaderName::from_bytes(name.as_str().replace('-', "_").as_bytes()).as_ref()
        && alias != name
    {
        tricks.push(("spelled with _", vec![(alias.clone(), value)]));
    }
    if let Some(nominated) = text(&format!("keep-alive, {name}")) {
        tricks.push(("named by Connection", vec![(CONNECTION, nominated)]));
    }
    tricks
}
