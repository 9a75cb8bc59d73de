//! This sidecar as an instance of the NATS micro service `sidestream` (ADR-32): its endpoints, and who answers them.
//!
//! Each instance has queue groups of its own, so that every instance gets every question. `nats micro` lists the instances; their
//! ids are the client library's, the node's stands in the metadata. An account that may not subscribe to `$SRV.>` is not listed,
//! and answers all the same.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Client;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, Service, ServiceExt as _};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, SelectAll};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ask::Answer;
use super::{Cluster, audience, connections, kick, send};

/// The service's name.
const NAME: &str = "sidestream";
/// What is answered, each by the name of an endpoint and its subject.
const ENDPOINTS: [(&str, &str); 4] = [
    ("audience", audience::SUBJECT),
    ("connections", connections::SUBJECT),
    ("kick", kick::SUBJECT),
    ("send", send::SUBJECT),
];
/// Questions that are worked on at a time; more wait in their subscription.
const AT_A_TIME: usize = 64;
/// Before a client that has died is replaced.
const RETRY: Duration = Duration::from_millis(100);

/// Answers until the process ends.
pub(super) async fn serve(cluster: Cluster) {
    loop {
        let client = cluster.control.alive().await.client;
        match begin(&client, &cluster).await {
            // The service goes with its value.
            Ok((_service, endpoints)) => {
                endpoints.for_each_concurrent(AT_A_TIME, |request| answer(&cluster, request)).await;
            }
            Err(error) => tracing::warn!(%error, "Questions of other sidecars are not answered"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn begin(client: &Client, cluster: &Cluster) -> Result<(Service, SelectAll<Endpoint>), async_nats::Error> {
    let node = cluster.node.to_string();
    let service = client
        .service_builder()
        .description("NATS subjects as Server-Sent Events")
        .metadata(HashMap::from([("node".to_owned(), node.clone())]))
        .queue_group(node)
        .start(NAME, env!("CARGO_PKG_VERSION"))
        .await?;
    let mut endpoints = Vec::new();
    for (name, subject) in ENDPOINTS {
        endpoints.push(service.endpoint_builder().name(name).add(subject).await?);
    }
    Ok((service, stream::select_all(endpoints)))
}

async fn answer(cluster: &Cluster, request: Request) {
    let here = &cluster.here;
    let answered = match request.message.subject.as_str() {
        audience::SUBJECT => answered(cluster, &request, |question| audience::here(here, question)).await,
        connections::SUBJECT => answered(cluster, &request, |question| connections::here(here, question)).await,
        kick::SUBJECT => answered(cluster, &request, |question| kick::here(here, question)).await,
        send::SUBJECT => answered(cluster, &request, |question| send::here(here, cluster.node, question)).await,
        _ => None,
    };
    // Who gets no answer knows by the roll that one is missing.
    if let Some(body) = answered
        && request.message.reply.is_some()
    {
        let _ = request.respond(Ok(body)).await;
    }
}

/// The answer to a question of one kind; `None` where it cannot be read, or not be answered in time.
async fn answered<Q: DeserializeOwned, A: Serialize>(
    cluster: &Cluster,
    request: &Request,
    answer: impl AsyncFnOnce(Q) -> Option<A>,
) -> Option<Bytes> {
    let said = answer(serde_json::from_slice(&request.message.payload).ok()?).await?;
    let answer = Answer { node: cluster.node, roll: cluster.nodes.borrow().clone(), said };
    serde_json::to_vec(&answer).map(Bytes::from).ok()
}
