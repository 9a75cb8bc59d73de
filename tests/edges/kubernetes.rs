//! `conf/kubernetes/sidestream.yaml`: Kubernetes' own schemas accept it, what its parts need of each other is so, and the two
//! configurations in it are served from.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::application::{Application, PAGE};
use crate::attempt::HOST;
use crate::kind::conf;
use crate::support::edge::{Account, Edge, Proxy, replaced, shared_directory};
use crate::support::ports::free_port;
use crate::support::{App, Nats, Sse, Version, Wire, bounded, get, skipped};

const MANIFEST: &str = "kubernetes/sidestream.yaml";

/// A file of the manifest's ConfigMap: what stands indented behind its name.
fn embedded(name: &str) -> String {
    let manifest = conf(MANIFEST);
    let (_, rest) = manifest.split_once(&format!("\n  {name}: |\n")).expect("a file of the ConfigMap");
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or_default())).collect()
}

/// A program of the environment that `scripts/test` makes.
fn tool(name: &str) -> Option<PathBuf> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/kubernetes/bin").join(name);
    if !tool.exists() {
        skipped(MANIFEST, "no .cache/kubernetes: run scripts/test");
        return None;
    }
    Some(tool)
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(MANIFEST)
}

#[test]
fn kubernetes_accepts_the_manifest() {
    let Some(validate) = tool("kubernetes-validate") else { return };
    said(Command::new(validate).arg("--strict").arg(manifest()));
}

/// The documents of the manifest.
fn documents() -> Option<Vec<Value>> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let python = tool("python")?;
    Some(serde_json::from_str(&said(Command::new(python).args(["-c", program]).arg(manifest()))).expect("JSON"))
}

#[test]
fn the_parts_of_the_manifest_fit() {
    let Some(documents) = documents() else { return };
    let deployment = documents.iter().find(|document| document["kind"] == "Deployment").expect("a deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let sidestream: toml::Table = embedded("sidestream.toml").parse().expect("TOML");
    let sidecars = pod["initContainers"].as_array().expect("native sidecars");
    let of = |name: &str| sidecars.iter().position(|container| container["name"] == name).expect("a sidecar");
    // The last one ends first: nginx is still there while sidestream closes its streams.
    assert!(of("nginx") < of("sidestream"));
    assert!(sidecars.iter().all(|container| container["restartPolicy"] == "Always"), "native sidecars go on");

    let uid = &sidecars[of("nginx")]["securityContext"]["runAsUser"];
    assert_eq!(sidestream["trust"]["peer_uids"][0].as_integer(), uid.as_i64(), "the proof is nginx's uid");
    let all = sidecars.iter().chain(pod["containers"].as_array().expect("containers"));
    let uids: Vec<_> = all.clone().map(|container| container["securityContext"]["runAsUser"].as_u64()).collect();
    assert!(uids.iter().enumerate().all(|(at, uid)| !uids[..at].contains(uid)), "a uid is one container's: {uids:?}");
    for container in all {
        let context = &container["securityContext"];
        let locked = context["readOnlyRootFilesystem"] == true && context["allowPrivilegeEscalation"] == false;
        assert!(locked && context["capabilities"]["drop"][0] == "ALL", "{}: {context}", container["name"]);
    }

    let window: u64 = sidestream["server"]["drain_window"]
        .as_str()
        .and_then(|window| window.strip_suffix('s'))
        .and_then(|seconds| seconds.parse().ok())
        .expect("seconds");
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a number");
    assert!(grace >= 2 * window + 10, "{grace} s are for the application's end, a drain of {window} s, and nginx");

    let admin = sidestream["admin"]["listen"].as_str().and_then(|address| address.rsplit_once(':')).expect("a port").1;
    let container = &sidecars[of("sidestream")];
    assert_eq!(container["ports"][0]["containerPort"].to_string(), admin);
    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/livez")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], container["ports"][0]["name"]);
    }
}

#[tokio::test]
async fn the_configurations_in_the_manifest_are_served_from() {
    bounded(async {
        if Proxy::Nginx.program().is_none() {
            skipped(MANIFEST, "no nginx: run scripts/test, or see scripts/lib/edges.sh");
            return;
        }
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let files = shared_directory();
        let application = Application::start(String::new(), PAGE).await;
        let (socket, token) = (files.path().join("http.sock"), files.path().join("admin-token"));
        std::fs::write(&token, "a-token-for-the-admin-listener").expect("written");
        let file = files.path().join("sidestream.toml");
        // All that is of the cluster, and not of this machine.
        let machine = [
            ("unix:/run/sidestream/http.sock", format!("unix:{}", socket.display())),
            ("0.0.0.0:9464", "127.0.0.1:0".to_owned()),
            ("/etc/sidestream/secret/admin-token", token.display().to_string()),
            ("nats://nats.nats.svc:4222", nats.url()),
            ("[101]", format!("[{}]", Account::of_proxies().uid)),
        ];
        std::fs::write(&file, replaced(&embedded("sidestream.toml"), &machine)).expect("written");
        let _app = App::from_file(&file, &[]).await;

        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port());
        let machine = [
            // In a pod it is started under its account.
            ("worker_processes auto;", "user www-data;\nworker_processes 1;".to_owned()),
            ("127.0.0.1:3000", format!("127.0.0.1:{}", application.port)),
            ("listen 8080;", format!("listen {at};")),
            ("/run/sidestream/http.sock", socket.display().to_string()),
        ];
        let nginx = replaced(&embedded("nginx.conf"), &machine).replace(" /tmp/", " @home@/");
        let edge = Edge::start(Proxy::Nginx, &nginx, at).await;
        let request = get("/events").without("Host").header("Host", HOST).header("Cookie", "session=alice");
        let mut sse = Sse::open(Wire::tcp(&edge.address.to_string()).await, &request).await;
        publisher.publish("events.tenant.acme.note", "in the cluster").await;
        assert_eq!(sse.event().await.data, "in the cluster");
    })
    .await;
}
