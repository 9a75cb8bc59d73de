//! Whether the account may do more than a sidecar needs: all of it can be done by whoever gets hold of its credentials.
//!
//! Asked by trying, in ways that change nothing: a subscription is given up at once, and the streams that would be deleted,
//! emptied or changed do not exist. So a permission for one stream by its name is not found out, and that events could be
//! published is not tried, because that would publish one.

use super::api;
use super::connection::{self, Connection, Role};
use crate::config::{Config, NatsAuth};
use crate::subject::Pattern;

/// What the account may do beyond its needs, in words that follow "may".
pub async fn excess(connection: &Connection, config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if connection.is_subscription_denied(">").await {
        for subject in stored(connection, config).await {
            if !connection.is_subscription_denied(&subject).await {
                found.push(format!("subscribe to `{subject}`, which it reads from its stream only"));
            }
        }
    } else {
        found.push("subscribe to `>`: everything in the account".to_owned());
    }
    for (request, does) in [("DELETE", "delete"), ("PURGE", "empty"), ("UPDATE", "change")] {
        if !connection.is_denied(api::of_no_stream(request)).await {
            found.push(format!("{does} any stream (`$JS.API.STREAM.{request}.*`)"));
        }
    }
    found
}

/// The same when the sidecar starts, as a warning: on a connection of its own, as soon as there is one. Without a login there are
/// no credentials to lose.
pub(super) async fn warn(config: Config, control: connection::Kept) {
    if matches!(config.nats.auth, NatsAuth::None) && config.nats.client_cert.is_none() {
        return;
    }
    control.connected().await;
    let Ok(connection) = connection::connect_once(&config.nats, Role::Check).await else { return };
    let found = excess(&connection, &config).await;
    if !found.is_empty() {
        let may = found.join("; ");
        tracing::warn!(
            may,
            "The NATS account can do more than a sidecar needs; `sidestream check --connect` says what"
        );
    }
}

/// The subjects of the streams that are read, without those that are also heard live.
async fn stored(connection: &Connection, config: &Config) -> Vec<String> {
    let templates = config.routes.routes.iter().flat_map(|route| &route.live_subjects);
    let live: Vec<Pattern> = templates.map(crate::subject::Template::widest).collect();
    let mut subjects = Vec::new();
    for stream in &config.routes.streams {
        if let Ok(info) = api::stream_info(&connection.client, stream).await {
            subjects.extend(info.config.subjects);
        }
    }
    let is_heard = |subject: &String| Pattern::parse(subject).is_ok_and(|s| live.iter().any(|live| live.overlaps(&s)));
    subjects.retain(|subject| !is_heard(subject));
    subjects
}
