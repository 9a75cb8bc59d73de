//! Each refusal in a sentence: what was found, and what to do.

use crate::http::reject::Refusal;

/// What led to it, and the cure.
pub(super) fn why(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound => "no [[route]] has this path",
        Refusal::Method => "only GET, HEAD and OPTIONS are answered",
        Refusal::NotAcceptable => "Accept does not admit text/event-stream",
        Refusal::Misdirected => "Host is not one of server.hosts; the proxy must pass on the one the browser sent",
        Refusal::Version => "only HTTP/1.1 and HTTP/2 are spoken; in nginx, `proxy_http_version 1.1`",
        Refusal::BadHost => "there must be one Host, which agrees with the request's target",
        Refusal::BadPath => {
            "the path, or what a capture took of it, can be read in two ways or is no plain subject token"
        }
        Refusal::BadQuery => "the query cannot be decoded, or names something twice",
        Refusal::TargetTooLong => "the request's target is over 8 KiB",
        Refusal::HeadersTooLarge => "the headers are over 16 KiB; a proxy need not pass cookies on",
        Refusal::BodyNotAllowed => "a stream's request has no body",
        Refusal::BadCursor => "the last event ID is not up to 256 bytes of visible ASCII, or stands twice",
        Refusal::OriginDenied => "the page is of another origin, and server.origins does not list it",
        Refusal::UntrustedPeer => {
            "there is an identity header, or one that resembles it, and the peer is not proven: [trust] must admit its address \
             and one of the proofs must hold"
        }
        Refusal::IdentityMissing => {
            "the route is for users, or names a variable, and the proxy did not say who or what it is"
        }
        Refusal::IdentityAmbiguous => "an identity header stands twice, holds a comma, or disagrees with the claims",
        Refusal::HeaderAlias => "a header is another spelling of an identity header, such as X_Forwarded_User",
        Refusal::HopByHopIdentity => "Connection names an identity header, which makes proxies remove it",
        Refusal::IdentityInvalid => {
            "a value is no plain subject token, or cannot be read; for users see identity.user_encoding"
        }
        Refusal::IdentityExpired => "the identity's time is over",
        Refusal::SubjectDenied => "a subject was asked for that is not inside the grant, or not inside route.allow",
        Refusal::Internal => "a fault of sidestream",
    }
}
