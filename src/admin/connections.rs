//! `/connections`: who is connected, to this sidecar or to all.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, Refusal, json_body};
use crate::app::State;
use crate::cluster::connections::{self, Listing, Question};

/// Connections named in one answer.
const LISTED_MAX: usize = 100;

/// `?user=` and `?subject=` narrow it: the connections of a user, or those that would hear a subject. `?slowest` lists those for
/// whom something waits, the longest first. `?scope=cluster` asks all sidecars, and says whether all have answered.
pub async fn list(state: &State, query: &str) -> Result<Answer, Refusal> {
    let mut question = Question { limit: LISTED_MAX, ..Question::default() };
    let mut scope = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "user" => question.user = Some(value.into_owned()),
            "subject" => question.subject = Some(value.into_owned()),
            "slowest" => question.slowest = true,
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    match scope.as_deref() {
        None | Some("node") => {
            let listing = connections::on_this(&state.cluster, question).await.ok_or_else(shard_is_silent)?;
            Ok(json_body(StatusCode::OK, &shown(&listing)))
        }
        Some("cluster") => {
            let all = connections::on_all(&state.cluster, &question).await;
            let (listing, complete) = all.map_err(|_| Refusal::nats_away())?;
            let mut body = shown(&listing);
            body["complete"] = complete.into();
            Ok(json_body(StatusCode::OK, &body))
        }
        Some(_) => {
            let message = "scope is node, which is this sidecar, or cluster";
            Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_scope", message))
        }
    }
}

fn shown(listing: &Listing) -> Value {
    json!({"total": listing.total, "live": listing.live, "connections": listing.connections})
}

/// A shard that does not answer in time.
fn shard_is_silent() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "shard_silent", "a shard did not answer in time")
}
