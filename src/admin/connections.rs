//! `/connections`: who is connected to this sidecar.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, Refusal, json_body};
use crate::app::State;
use crate::link::{self, AudienceOf, ConnectionInfo};

/// Connections named in one answer.
const LISTED_MAX: usize = 100;

/// `?user=` and `?subject=` narrow it: the connections of a user, or those that would hear a subject. `?slowest` lists those for
/// whom something waits, the longest first.
pub async fn list(state: &State, query: &str) -> Result<Answer, Refusal> {
    let mut of = AudienceOf { limit: LISTED_MAX, ..AudienceOf::default() };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "user" => of.user = Some(value.into_owned()),
            "subject" => of.subject = Some(value.into_owned()),
            "slowest" => of.slowest = true,
            _ => {}
        }
    }
    let audience = link::audience(&state.shards, &of).await.ok_or_else(shard_is_silent)?;
    let config = state.config.get();
    let routes = &config.routes.routes;
    let path = |route: usize| routes.get(route).map_or("", |route| route.path.as_str());
    let connections: Vec<_> = audience.connections.iter().map(|c| shown(c, path(c.route))).collect();
    let body = json!({"total": audience.total, "live": audience.live, "connections": connections});
    Ok(json_body(StatusCode::OK, &body))
}

/// A shard that does not answer in time.
pub fn shard_is_silent() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "shard_silent", "a shard did not answer in time")
}

/// One connection.
pub fn shown(connection: &ConnectionInfo, path: &str) -> Value {
    json!({
        "connection": connection.connection.to_string(),
        "user": connection.user,
        "route": path,
        "protocol": connection.protocol.label(),
        "live": connection.live,
        "age_seconds": connection.age.as_secs(),
        "queued_bytes": connection.queued_bytes,
        "waiting_seconds": connection.waiting.as_secs(),
    })
}
