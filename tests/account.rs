//! The NATS account of `conf/nats-server.conf`: everything works on it, and nothing else is allowed; and who may do more is
//! told so.

mod support;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::nats::{Publisher, Setup};
use support::{App, Config, DEADLINE, Nats, Version, bounded, eventually, expect, get, json, on_both_servers_at_once};
use tokio::sync::mpsc;

const LIVE: &str = "\n[[route]]\npath = \"/live\"\nsubjects = [\"live.{user}.>\"]\n";
/// So small that a resume must be read from NATS.
const SMALL_HISTORY: &str = "\n[history]\nbytes = \"64KiB\"\n";
const PRESENCE: &str = "\n[presence]\nsubject = \"sidestream.presence\"\n";
/// How long a server has to complain.
const COMPLAINT: Duration = Duration::from_secs(5);

/// User, password, and what the server is told of it.
const USERS: [(&str, &str, &str, &str); 4] = [
    ("admin", "admin", "NATS_ADMIN_PASSWORD", "admin"),
    ("publisher", "pub 1", "NATS_PUBLISHER_PASSWORD", "\"pub 1\""),
    ("sys", "sys", "NATS_SYS_PASSWORD", "sys"),
    (
        "sidestream",
        "a password of the sidecar",
        "NATS_SIDESTREAM_PASSWORD",
        "\"$2b$04$abcdefghijklmnopqrstuu8AJow95ioHyKCGWzCazbebiNVgIXYLW\"",
    ),
];

/// The server of the file, with the stream that the file is about and another one.
struct Scene {
    nats: Nats,
    admin: Publisher,
    dir: tempfile::TempDir,
}

impl Scene {
    async fn set(version: Version) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conf/nats-server.conf");
        let file = std::fs::read_to_string(path).expect("the file is there");
        let env = USERS.map(|(_, _, variable, value)| (variable, value)).into();
        // Address and store come from the command line and from the end of the file.
        let setup = Setup { config: Some(file), user: Some(("admin", "admin")), env, ..Setup::default() };
        let nats = Nats::start_as(version, setup).await;
        let admin = nats.events().await;
        admin.create_stream("OTHER", &["other.>"]).await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (user, password, ..) in USERS {
            let file = dir.path().join(user);
            std::fs::write(&file, password).expect("the password is written");
            std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("our own file");
        }
        Self { nats, admin, dir }
    }

    /// A configuration that logs in as this user.
    fn config(&self, user: &str) -> Config {
        let login = format!("user = {user:?}\npassword_file = {:?}\n", self.dir.path().join(user));
        Config::on(&self.nats).nats(&login).tables(LIVE).tables(SMALL_HISTORY)
    }

    /// Runs a command that logs in as this user; gives its exit code and all it said.
    async fn run(&self, user: &str, args: &[&str]) -> (Option<i32>, String) {
        let file = self.dir.path().join(format!("{user}.toml"));
        std::fs::write(&file, self.config(user).render()).expect("the configuration is written");
        run(args, &file).await
    }

    /// A client of this user, and what the server complains of to it.
    async fn client(&self, user: &str) -> (async_nats::Client, mpsc::UnboundedReceiver<String>) {
        let password = USERS.iter().find(|(name, ..)| *name == user).expect("a user").1;
        let (sender, complaints) = mpsc::unbounded_channel();
        let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
        let options = options.custom_inbox_prefix("_INBOX_sidestream").event_callback(move |event| {
            if let async_nats::Event::ServerError(error) = event {
                let _ = sender.send(error.to_string().to_lowercase());
            }
            std::future::ready(())
        });
        (options.connect(self.nats.url()).await.expect("NATS lets it in"), complaints)
    }

    /// Shows that this user can neither subscribe nor publish to these.
    async fn refused(&self, user: &str, subscribe: &[&str], publish: &[&str]) {
        let (client, mut complaints) = self.client(user).await;
        let mut told = async |what: &str, subject: &str| {
            let wanted = format!("permissions violation for {what} to {:?}", subject.to_lowercase());
            let complaint = tokio::time::timeout(COMPLAINT, complaints.recv()).await;
            let complaint =
                complaint.unwrap_or_else(|_| panic!("{user} may do it: {wanted}")).expect("the client runs");
            assert!(complaint.contains(&wanted), "{complaint:?} instead of {wanted:?}");
        };
        for subject in subscribe {
            let _subscription = client.subscribe((*subject).to_owned()).await.expect("sent");
            told("subscription", subject).await;
        }
        for subject in publish {
            client.publish((*subject).to_owned(), "x".into()).await.expect("sent");
            told("publish", subject).await;
        }
    }
}

async fn run(args: &[&str], config: &Path) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidestream"));
    let output = command.args(args).arg("--config").arg(config).kill_on_drop(true).output();
    let output = tokio::time::timeout(DEADLINE, output).await.expect("ends in time").expect("the program starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

on_both_servers_at_once! {
    async fn the_account_of_the_example_is_enough(version: Version) {
        let scene = Scene::set(version).await;
        let (code, said) = scene.run("sidestream", &["check", "--connect"]).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("a consumer can be created") && !said.contains("more than a sidecar needs"), "{said}");

        let app = App::start(&scene.config("sidestream").tables(PRESENCE)).await;
        let mut alice = app.events("alice").await;
        // Published, and heard by itself: otherwise it would not go on to say so.
        app.metric_is("sidestream_presence_published_total", &[("event", "connect")], 1.0, DEADLINE).await;
        let start = alice.connected.id.clone().expect("a cursor");
        scene.admin.publish_all(expect::broadcasts(0..10)).await;
        expect::all("alice", &mut alice, &expect::numbered(0..10), DEADLINE).await;

        // More than the history holds: what came before is read from the stream.
        let bulk = (0..300).map(|n| ("events.user.bob.x".to_owned(), format!("{n} {}", "x".repeat(500)).into_bytes()));
        scene.admin.publish_all(bulk).await;
        let mut late = app.stream(get("/events").user("alice").header("Last-Event-ID", &start)).await;
        assert_eq!(late.resume(), "exact");
        expect::all("late", &mut late, &expect::numbered(0..10), DEADLINE).await;

        // A service publishes: to a stream, to one user, to everybody, and to a core subject.
        let mut live = app.stream(get("/live").user("alice")).await;
        let published = async |args: &[&str]| {
            let (code, said) = scene.run("publisher", args).await;
            assert_eq!(code, Some(0), "{args:?}: {said}");
            said
        };
        let stored = published(&["publish", "events.user.alice.note", "by hand"]).await;
        assert!(stored.contains("\"stream\":\"EVENTS\""), "{stored}");
        let reached = published(&["notify", "alice", "to alice"]).await;
        assert!(reached.contains("\"sent\":2") && reached.contains("\"complete\":true"), "{reached}");
        published(&["broadcast", "to all"]).await;
        published(&["publish", "live.alice.x", "now"]).await;
        for data in ["by hand", "to alice", "to all"] {
            assert_eq!(alice.event().await.data, data);
        }
        assert_eq!(live.event().await.data, "now");
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
        for told in ["lacks a permission", "more than a sidecar needs", "$SRV"] {
            assert!(!app.log_lines().iter().any(|line| line.contains(told)), "{told}");
        }
    }

    async fn nothing_else_is_allowed(version: Version) {
        let scene = Scene::set(version).await;
        scene.admin.publish("events.user.alice.note", "stays").await;
        scene.admin.publish("other.x", "stays").await;
        let subscribe = [
            ">", "events.>", "events.user.alice.note", "other.>", "$SYS.>", "$JS.API.>", "$JS.ACK.>", "_INBOX.>",
            "_INBOX_sidestream_command.>", "*.>", "sidestream.presence.more",
        ];
        let publish = [
            "events.user.alice.note", "events.broadcast.x", "live.alice.x", "other.x",
            "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.CREATE.MORE",
            "$JS.API.STREAM.DELETE.EVENTS", "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.UPDATE.EVENTS",
            "$JS.API.STREAM.MSG.DELETE.EVENTS", "$JS.API.STREAM.SNAPSHOT.EVENTS", "$JS.API.STREAM.RESTORE.EVENTS",
            "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.mine", "$JS.API.CONSUMER.CREATE.EVENTS.mine",
            "$JS.API.CONSUMER.LIST.EVENTS", "$JS.API.STREAM.LEADER.STEPDOWN.EVENTS",
            "$JS.API.STREAM.INFO.OTHER", "$JS.API.STREAM.MSG.GET.OTHER", "$JS.API.CONSUMER.CREATE.OTHER",
            "$JS.API.CONSUMER.DELETE.OTHER.theirs", "$JS.API.STREAM.DELETE.OTHER",
            "$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO", "_INBOX.theirs", "$SRV.PING",
        ];
        scene.refused("sidestream", &subscribe, &publish).await;
        // A service that publishes hears nothing, of what is delivered to the sidecar neither.
        let subscribe = [
            ">", "events.>", "live.>", "_INBOX_sidestream.>", "_sidestream.>", "_sidestream.send", "sidestream.presence",
            "$SRV.>", "$SYS.>",
        ];
        let publish = [
            "$JS.API.CONSUMER.CREATE.EVENTS", "$JS.API.STREAM.MSG.GET.EVENTS", "$JS.API.STREAM.DELETE.EVENTS",
            "$JS.API.STREAM.INFO.EVENTS", "other.x", "_INBOX_sidestream.x", "sidestream.presence",
            // Nor may it end streams, speak to a connection, see who is there, pretend to be a sidecar or ask for them.
            "_sidestream.kick", "_sidestream.send", "_sidestream.connections", "_sidestream.node", "_sidestream.presence",
            "$SRV.PING",
        ];
        scene.refused("publisher", &subscribe, &publish).await;
        for stream in ["EVENTS", "OTHER"] {
            let left = scene.admin.jetstream().get_stream(stream).await.expect("it still exists");
            assert_eq!(left.cached_info().state.messages, 1, "{stream}");
        }
    }

    async fn what_crosses_sidecars_works_on_the_account_of_the_example(version: Version) {
        let scene = Scene::set(version).await;
        let config = scene.config("sidestream").admin(&format!("token_file = {:?}\n", scene.dir.path().join("sys")));
        let (first, second) = (App::start(&config).await, App::start(&config).await);
        let mut alice = second.events("alice").await;
        let ask = async |method: &str, path: &str, body: &str| {
            let answer = first.admin_send(method, path, Some("sys"), body).await;
            (answer.head.status, answer.text())
        };
        eventually("they know each other", DEADLINE, async || {
            let (_, said) = ask("GET", "/connections?scope=cluster", "").await;
            (said.contains("\"total\":1") && said.contains("\"complete\":true")).then_some(())
        })
        .await;
        let path = format!("/send/{}", json(&alice.connected)["connection"].as_str().expect("an id"));
        assert_eq!(ask("POST", &path, "{\"data\":\"hello\"}").await.0, 200);
        assert_eq!(alice.event().await.data, "hello");
        // A sidecar publishes no event here, and says why not.
        let (status, said) = ask("POST", "/broadcast", "{\"data\":1}").await;
        assert_eq!((status, said.contains("nats_denied")), (502, true), "{said}");
        assert!(ask("POST", "/kick?user=alice", "").await.1.contains("\"kicked\":1"));
        // It is found as a service by who may ask.
        let (client, _) = scene.client("admin").await;
        let info = client.request("$SRV.INFO.sidestream", "".into()).await.expect("an instance answers");
        assert!(String::from_utf8_lossy(&info.payload).contains("_sidestream.audience"));
    }

    async fn an_account_that_lacks_presence_is_told_so_before_it_runs(version: Version) {
        let scene = Scene::set(version).await;
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conf/nats-server.conf");
        let whole = std::fs::read_to_string(path).expect("the file is there");
        // A stream that keeps what is published: trying leaves nothing in it.
        scene.admin.create_stream("PRESENCE", &["sidestream.presence"]).await;
        let file = scene.dir.path().join("presence.toml");
        std::fs::write(&file, scene.config("sidestream").tables(PRESENCE).render()).expect("it is written");
        let check = async || run(&["check", "--connect"], &file).await;
        let (code, said) = check().await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("presence: sidestream.presence can be published and heard"), "{said}");
        let kept = scene.admin.jetstream().get_stream("PRESENCE").await.expect("it exists");
        assert_eq!(kept.cached_info().state.messages, 0);

        for (lost, less) in [
            ("publish", "              \"sidestream.presence\"\n"),
            ("subscribe", ", \"sidestream.presence\""),
        ] {
            let narrower = whole.replace(less, "");
            assert_ne!(whole, narrower);
            scene.nats.reconfigure(&narrower).await;
            let (code, said) = check().await;
            assert_eq!(code, Some(77), "{said}");
            let lacks = format!("error: presence: the account needs permission to {lost} to sidestream.presence");
            assert!(said.contains(&lacks) && said.matches("error: ").count() == 1, "{said}");
        }
    }

    async fn an_account_that_may_do_more_is_told_so(version: Version) {
        let scene = Scene::set(version).await;
        scene.admin.publish("events.user.alice.note", "stays").await;
        let excess = [
            "subscribe to `>`: everything in the account",
            "delete any stream (`$JS.API.STREAM.DELETE.*`)",
            "empty any stream (`$JS.API.STREAM.PURGE.*`)",
            "change any stream (`$JS.API.STREAM.UPDATE.*`)",
        ];
        let (code, said) = scene.run("admin", &["check", "--connect"]).await;
        assert_eq!(code, Some(0), "{said}");
        let app = App::start(&scene.config("admin")).await;
        app.logs("The NATS account can do more than a sidecar needs", DEADLINE).await;
        let log = app.log_lines().join("\n");
        for more in excess {
            assert!(said.contains(&format!("warning: more than a sidecar needs: the account may {more}")), "{said}");
            assert!(log.contains(more), "{log}");
        }
        // Nothing has come of trying.
        let left = scene.admin.jetstream().get_stream("EVENTS").await.expect("it still exists");
        assert_eq!(left.cached_info().state.messages, 1);

        // Who reads the stream's subjects past the stream is told that.
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conf/nats-server.conf");
        let file = std::fs::read_to_string(path).expect("the file is there");
        let wider = file.replace("\"_sidestream.>\", \"live.>\"", "\"_sidestream.>\", \"live.>\", \"events.>\"");
        assert_ne!(file, wider);
        scene.nats.reconfigure(&wider).await;
        let (code, said) = scene.run("sidestream", &["check", "--connect"]).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("the account may subscribe to `events.>`") && said.matches("may ").count() == 1, "{said}");
    }
}

#[tokio::test]
async fn without_a_login_there_is_nothing_to_lose_but_check_says_what_is_allowed() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("open.toml");
        std::fs::write(&file, Config::on(&nats).render()).expect("the configuration is written");
        let (code, said) = run(&["check", "--connect"], &file).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("more than a sidecar needs: the account may subscribe to `>`"), "{said}");

        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        nats.publisher().await.publish("events.user.alice.note", "one").await;
        assert_eq!(alice.event().await.data, "one");
        assert!(!app.log_lines().iter().any(|line| line.contains("more than a sidecar needs")));
    })
    .await;
}
