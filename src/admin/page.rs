//! The live page: one file without anything from elsewhere, and the policy that says so to the browser.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};

use super::answer::{Answer, text};

const PAGE: &str = include_str!("page.html");

/// What the page may load and do: its own script and style, by their digests, and ask where it comes from.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (style, script) = (digest_of("style"), digest_of("script"));
    let policy = format!(
        "default-src 'none'; connect-src 'self'; img-src data:; style-src '{style}'; script-src '{script}'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 is ASCII")
});

/// Of the page's only element of this name (CSP Level 3, section 2.3.1).
fn digest_of(element: &str) -> String {
    let (_, from) = PAGE.split_once(&format!("<{element}>")).expect("it is in the page");
    let (content, _) = from.split_once(&format!("</{element}>")).expect("it ends");
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, content.as_bytes())))
}

/// `/`.
pub fn page() -> Answer {
    let mut response = text(StatusCode::OK, PAGE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}
