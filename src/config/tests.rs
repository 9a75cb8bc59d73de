//! Whole configurations: what is accepted, every fault with its line, and that no input can panic us.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::error::{Fault, FaultKind, Report};
use super::load::{DEFAULT_TOML, Loaded, Sources, load, load_text};
use super::{Config, Listen, NatsAuth, UserEncoding};

fn read(text: &str) -> Result<Loaded, Report> {
    load_text("test.toml", text, &Sources::default())
}

fn accepted(text: &str) -> Config {
    match read(text) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{text}\nwas refused:\n{report}"),
    }
}

fn refused(text: &str) -> Report {
    match read(text) {
        Ok(_) => panic!("was accepted:\n{text}"),
        Err(report) => report,
    }
}

fn with_set(set: &[&str]) -> Result<Loaded, Report> {
    load_text("test.toml", "", &Sources { set: set.iter().map(|s| (*s).to_owned()).collect(), ..Sources::default() })
}

fn with_env(env: &[(&str, &str)]) -> Result<Loaded, Report> {
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    load_text("test.toml", "", &Sources { env, ..Sources::default() })
}

fn file(directory: &Path, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, content).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode set");
    path
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = accepted("");
    assert_eq!(config.server.listen, [Listen::Tcp("127.0.0.1:8080".parse().expect("an address"))]);
    assert_eq!(config.server.max_age, Some(Duration::from_secs(900)));
    assert_eq!(config.server.drain_window, Duration::from_secs(20));
    assert!(config.trust.is_none() && config.server.tls.is_none());
    assert!(matches!(config.nats.auth, NatsAuth::None));
    assert_eq!(config.identity.user_header, "x-forwarded-user");
    assert_eq!(config.identity.user_encoding, UserEncoding::Refuse);
    assert_eq!(config.limits.queue_bytes, 128 * 1024);
    assert_eq!(config.limits.unsent_buffer, 16 * 1024);
    assert_eq!(config.limits.replay_events, 100_000);
    assert_eq!(config.limits.memory, None);
    assert_eq!(accepted("[limits]\nmemory = \"256MiB\"").limits.memory, Some(256 << 20));
    assert_eq!(config.history_bytes, 64 << 20);
    assert_eq!(config.heartbeat.interval, Duration::from_secs(15));
    assert_eq!(config.routes.routes.len(), 1);
    assert_eq!(config.routes.streams, ["EVENTS"]);
    assert_eq!(config.streams.len(), 1);
}

#[test]
fn the_commented_default_file_says_exactly_what_is_built_in() {
    let (alone, twice) = (accepted(""), accepted(DEFAULT_TOML));
    assert_eq!(format!("{alone:?}"), format!("{twice:?}"));
}

/// Lines that start with `#` and no space are keys; with a proof added they must load, and state the real defaults.
#[test]
fn the_optional_keys_of_the_default_file_state_the_real_defaults() {
    let uncommented: String = DEFAULT_TOML
        .lines()
        .filter(|line| !["#[server.tls]", "#cert", "#key", "#client_"].iter().any(|tls| line.starts_with(tls)))
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') && !key.is_empty() => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let stated = accepted(&uncommented.replace("peer_uids = []", "peer_uids = [33]")).trust;
    let built_in = accepted("[trust]\nproxies = [\"127.0.0.1\", \"unix\"]\npeer_uids = [33]\n").trust;
    assert_eq!(format!("{stated:?}"), format!("{built_in:?}"));
    let entry = "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"events.>\"]\n[[route]]\npath = \"/events\"\nstream = \"EVENTS\"\nsubjects = [\"events.user.{user}.>\", \"events.broadcast.>\"]\n";
    assert_eq!(format!("{:?}", accepted(entry)), format!("{:?}", accepted("")));
}

#[test]
fn every_file_in_conf_loads() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut count = 0;
    for entry in fs::read_dir(directory).expect("conf/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            if let Err(report) = load(&Sources { files: vec![path.clone()], ..Sources::default() }) {
                panic!("{}:\n{report}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 0);
}

#[test]
fn a_file_with_routes_replaces_the_list_and_the_example_stream() {
    let config = accepted("[[route]]\npath = \"/a\"\nsubjects = [\"a.>\"]\naudience = \"anyone\"\n");
    assert_eq!(config.routes.routes.len(), 1);
    assert!(config.streams.is_empty() && config.routes.streams.is_empty());
}

#[test]
fn layers_win_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = file(directory.path(), "a.toml", "[server]\nhosts = [\"a\"]\nh2c = true\nmax_age = \"1m\"\n", 0o644);
    let second = file(directory.path(), "b.toml", "[server]\nhosts = [\"b\"]\nmax_age = \"2m\"\n", 0o644);
    let sources = Sources {
        files: vec![first, second],
        env: vec![("SIDESTREAM_SERVER__MAX_AGE".into(), "3m".into()), ("SIDESTREAM_SERVER__HOSTS".into(), "c".into())],
        set: vec!["server.max_age=4m".into()],
    };
    let loaded = load(&sources).expect("loaded");
    assert!(loaded.config.server.h2c);
    assert_eq!(loaded.config.server.hosts, ["c"]);
    assert_eq!(loaded.config.server.max_age, Some(Duration::from_secs(240)));
    let origin = |key: &str| {
        loaded.effective.iter().find(|line| line.key == key).map(|line| line.origin.clone()).expect("the key is shown")
    };
    assert!(origin("server.h2c").ends_with("a.toml:3"));
    assert_eq!(origin("server.hosts"), "env SIDESTREAM_SERVER__HOSTS");
    assert_eq!(origin("server.max_age"), "--set");
    assert_eq!(origin("log.level"), "default");
    assert_eq!(origin("route[0].select"), "default");
}

#[test]
fn values_of_the_environment_need_no_quotes() {
    let loaded = with_env(&[
        ("SIDESTREAM_SERVER__LISTEN", "0.0.0.0:0"),
        ("SIDESTREAM_SERVER__H2C", "true"),
        ("SIDESTREAM_LIMITS__MEMORY", "0"),
        ("SIDESTREAM_NATS__SERVERS", "[\"nats://a:1\", \"tls://b\"]"),
        ("SIDESTREAM_IDENTITY__VARIABLES__TENANT", "X-Tenant"),
        ("SIDESTREAM_PORT", "tcp://10.0.0.1:80"),
        ("PATH", "/bin"),
    ]);
    let config = loaded.expect("loaded").config;
    assert_eq!(config.nats.servers, ["nats://a:1", "tls://b"]);
    assert_eq!(config.identity.variables.get("tenant").map(String::as_str), Some("x-tenant"));
    let report = with_env(&[("SIDESTREAM_SERVER__LISEN", "a")]).expect_err("refused");
    assert!(report.to_string().contains("env SIDESTREAM_SERVER__LISEN:1:1"), "{report}");
    assert!(report.to_string().contains("did you mean `server.listen`?"), "{report}");
    assert!(with_env(&[("SIDESTREAM___", "1")]).is_err());
    assert!(with_set(&["server.h2c"]).is_err() && with_set(&["=1"]).is_err() && with_set(&["a..b=1"]).is_err());
}

#[test]
fn a_report_has_place_line_caret_and_advice() {
    let report = refused("version = 1\n[server]\n\tlisten = [\"é\", \"127.0.0.1\"]\nlisen = []\n");
    let text = report.to_string();
    let expected = [
        " --> test.toml:3:17\n  |\n3 | \tlisten = [\"é\", \"127.0.0.1\"]\n  | \t               ^^^^^^^^^^^\n",
        "error: server.listen: `127.0.0.1` has no port\n",
        "error: server.lisen: there is no such key\n --> test.toml:4:1\n  |\n4 | lisen = []\n  | ^^^^^\n  = did you mean `server.listen`?\n",
        "refused: 3 faults",
    ];
    for part in expected {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
}

#[test]
fn all_files_are_reported_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = file(directory.path(), "a.toml", "[server\n", 0o644);
    let second = file(directory.path(), "b.toml", "[serve]\n", 0o644);
    let missing = directory.path().join("c.toml");
    let report = load(&Sources { files: vec![first, second, missing], ..Sources::default() }).expect_err("refused");
    let text = report.to_string();
    for part in ["a.toml:1:", "b.toml:1:2", "did you mean `server`?", "c.toml` cannot be read"] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    assert_eq!(report.kind(), FaultKind::Invalid);
}

#[test]
fn secrets_come_from_files_and_stay_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let secret = file(directory.path(), "secret", "canary-canary-canary\n", 0o600);
    let open = file(directory.path(), "open", "canary-canary-canary", 0o644);
    let short = file(directory.path(), "short", "canary\n\n", 0o600);
    let empty = file(directory.path(), "empty", " \n", 0o600);
    let trust = |path: &Path| format!("[trust]\nproxies = [\"10.0.0.0/8\"]\nsecret_files = [\"{}\"]\n", path.display());
    let loaded = read(&trust(&secret)).expect("loaded");
    let config = &loaded.config;
    assert_eq!(config.trust.as_ref().map(|t| t.secrets[0].expose()), Some(&b"canary-canary-canary"[..]));
    let shown: String = loaded.effective.iter().map(|line| format!("{line}\n")).collect();
    assert!(!format!("{config:?}{shown}").contains("canary-"), "{shown}");
    let warned = read(&trust(&open)).expect("loaded").warnings;
    assert!(warned.iter().any(|w| w.message.contains("every user of this machine can read")), "{warned:?}");
    for (path, part) in [(&short, "has 6 bytes; at least 16"), (&empty, "is empty")] {
        let text = refused(&trust(path)).to_string();
        assert!(text.contains(part) && text.contains("test.toml:3:17") && !text.contains("canary"), "{text}");
    }
    let sources = Sources {
        env: vec![("CREDENTIALS_DIRECTORY".into(), directory.path().display().to_string())],
        ..Sources::default()
    };
    let text = "[nats]\nuser = \"u\"\npassword_file = \"credential:secret\"\n";
    let auth = load_text("test.toml", text, &sources).expect("loaded").config.nats.auth;
    assert!(matches!(&auth, NatsAuth::Password { password, .. } if password.expose() == b"canary-canary-canary"));
    assert!(refused(text).to_string().contains("$CREDENTIALS_DIRECTORY is not set"));
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let misplaced = [
        "[nats]\npassword_file = \"canary\"\nuser = \"u\"\n",
        "[nats]\npassword = \"canary\"\n",
        "[nats]\npassword = \"canary\n",
        "[nats]\nservers = [\n\"nats://u:canary@h\"\n]\n",
        "[admin]\ntoken_file = \"canary\"\n",
        "[trust]\nproxies = [\"unix\"]\nsecret_files = [\n  \"canary\"\n]\n",
        "[trust]\nproxies = [\"unix\"]\nsecret = \"canary\"\n",
        // Beside something else that is wrong, on one line.
        "nats = { user = 3, password_file = \"canary\" }\n",
        "trust = { secret_files = [\"canary\"], proxies = [\"nonsense\"] }\n",
        "[server]\ntls = { cert = 1, key = \"canary\" }\n",
        "nats = { nonsense = 1, seed = 'canary' }\n",
        // A line that cannot be parsed.
        "[trust]\nsecret_files = [\n  \"canary,\n]\n",
        "[server.tls]\nkey = \"canary\n",
        "[nats]\ncredentials = 'canary\n",
        "[nats]\npassword_file = /canary/ \"canary\"\n",
        // Another file than was meant.
        "canary\n",
        "canary==\n",
        "-----BEGIN PRIVATE KEY-----\ncanary/+=\n-----END\n",
    ];
    for text in misplaced {
        let report = refused(text);
        let shown: String = report.effective.iter().map(|line| format!("{line}\n")).collect();
        assert!(!format!("{report}{report:?}{shown}").contains("canary"), "{report}\n{shown}");
    }
    let report = with_env(&[("SIDESTREAM_NATS__TOKEN", "canary")]).expect_err("refused");
    assert!(!format!("{report:?}").contains("canary"), "{report}");
    for set in ["canary", "nats.password=canary", "nats={user=1,password_file=\"canary\"}", "server.tls.key=canary"] {
        let report = with_set(&[set]).expect_err("refused");
        let shown: String = report.effective.iter().map(|line| format!("{line}\n")).collect();
        assert!(!format!("{report:?}{shown}").contains("canary"), "{report}\n{shown}");
    }
}

#[test]
fn a_login_in_clear_to_another_machine_is_a_warning() {
    let directory = tempfile::tempdir().expect("a directory");
    let token = file(directory.path(), "token", "canary-canary", 0o600);
    let warned = |servers: &str, more: &str| {
        let text = format!("[nats]\nservers = [{servers}]\ntoken_file = \"{}\"\n{more}", token.display());
        read(&text).expect("loaded").warnings.iter().any(|w| w.message.contains("without TLS the login can be read"))
    };
    let ca = format!("ca = \"{}\"\n", token.display());
    assert!(warned("\"nats://nats.example\"", ""));
    assert!(warned("\"nats://localhost\", \"nats://10.0.0.1:4222\"", ""));
    for fine in ["\"tls://nats.example\"", "\"nats://localhost\", \"nats://[::1]:4222\", \"nats://127.0.0.1\""] {
        assert!(!warned(fine, ""), "{fine}");
    }
    assert!(!warned("\"nats://nats.example\"", &ca) && !warned("\"nats://nats.example\"", "tls_first = true\n"));
}

#[test]
fn lines_that_hold_no_secret_are_shown() {
    for (text, shown) in [
        ("[server]\nlisten = [\n  \"nonsense\",\n]\n", "\"nonsense\","),
        ("[trust]\nproxies = [\"nonsense\"]\nsecret_header = \"X-A\"\n", "proxies = [\"nonsense\"]"),
        ("[trust]\nsecret_header = \"a b\"\n", "secret_header = \"a b\""),
        ("[server]\nlisten = \"127.0.0.1:1\n", "listen = \"127.0.0.1:1"),
        ("[server.tls]\nkey = 3\ncert = \"/nonexistent\" # x\n", "cert = \"/nonexistent\""),
        ("[server\n", "[server"),
    ] {
        let report = refused(text).to_string();
        assert!(report.contains(shown), "{report}");
    }
}

#[test]
fn missing_files_have_a_kind_of_their_own() {
    let only = refused("[server.tls]\ncert = \"/nonexistent/cert.pem\"\nkey = \"/nonexistent/key.pem\"\n");
    assert_eq!((only.kind(), only.faults.len()), (FaultKind::Missing, 2));
    let mixed = refused("[server]\nh2c = 1\n[server.tls]\ncert = \"/nonexistent/c\"\nkey = \"/nonexistent/k\"\n");
    assert_eq!(mixed.kind(), FaultKind::Invalid);
}

#[test]
fn users_without_trust_are_a_warning() {
    let warnings = read("").expect("loaded").warnings;
    assert!(warnings.iter().any(|w: &Fault| w.key == "route.audience" && w.message.contains("nobody can connect")));
    let trusted = read("[trust]\nproxies = [\"unix\"]\npeer_uids = [33]\n").expect("loaded");
    assert!(trusted.warnings.is_empty(), "{:?}", trusted.warnings);
}

#[test]
fn this_machine_is_a_host() {
    let hosts = accepted("[server]\nhosts = [\"127.0.0.1\", \"LocalHost\", \"[::1]\"]\n").server.hosts;
    assert_eq!(hosts, ["127.0.0.1", "localhost", "[::1]"]);
}

#[test]
fn a_stream_that_no_route_names_is_a_warning() {
    let streams = "[[stream]]\nname = \"A\"\n[[stream]]\nname = \"B\"\nsubjects = [\"b\"]\ncreate = true\n";
    let route = "[[route]]\npath = \"/a\"\nstream = \"A\"\nsubjects = [\"a\"]\naudience = \"anyone\"\n";
    let warnings = read(&format!("{streams}{route}")).expect("loaded").warnings;
    let [warning] = &warnings[..] else { panic!("one warning is wanted: {warnings:?}") };
    assert_eq!(warning.key, "stream.name");
    assert_eq!(warning.message, "no route names the stream `B`: it is neither created nor checked");
    assert_eq!(warning.place.as_ref().map(|place| place.line), Some(4));
}

#[test]
fn heartbeats_come_each_second_to_each_hour() {
    for (text, seconds) in [("1s", 1), ("1h", 3600)] {
        let interval = accepted(&format!("[heartbeat]\ninterval = \"{text}\"\n")).heartbeat.interval;
        assert_eq!(interval, Duration::from_secs(seconds));
    }
}

#[test]
fn variables_that_are_nothing_else_are_claims() {
    let text = "[identity]\nclaims_header = \"X-Claims\"\nclaims_issuer = \"i\"\nclaims_audiences = [\"a\", \"b\"]\n\
                variables = { tenant = \"X-Tenant\" }\n[[route]]\npath = \"/{room}\"\n\
                subjects = [\"a.{user}.{tenant}.{room}.{team}\", \"b.{team}.{shift}\"]\nlive_subjects = [\"c.{team}\"]\n";
    let config = accepted(text);
    assert_eq!(config.routes.claims, ["team", "shift"]);
    assert_eq!(config.identity.claims_issuer.as_deref(), Some("i"));
    assert_eq!(config.identity.claims_audiences, ["a", "b"]);
}

#[test]
fn trust_is_normalised() {
    let text = "[trust]\nproxies = [\"10.1.2.3/8\", \"::1\", \"unix\"]\naddress_is_proof = true\n";
    let trust = accepted(text).trust.expect("trust");
    let networks: Vec<String> = trust.proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128"]);
    assert!(trust.unix);
    assert_eq!(trust.secret_header, "x-sidestream-secret");
}

/// A route's text around one line.
macro_rules! route {
    ($lines:literal) => {
        concat!("[[route]]\npath = \"/a\"\nsubjects = [\"a.>\"]\n", $lines)
    };
}

/// Text, line of the fault, part of its message or advice.
#[rustfmt::skip]
const REFUSED: &[(&str, usize, &str)] = &[
    // The file as such.
    ("version = 2", 1, "version 2 is not known"),
    ("version = \"1\"", 1, "an integer is wanted, a string was read"),
    ("version = 1\nversion = 1", 2, "duplicate key"),
    ("[server", 1, "unclosed table"),
    ("a = ", 1, "string values must be quoted"),
    ("servr = 1", 1, "did you mean `server`?"),
    ("[server]\nlisten = \"127.0.0.1:1\"", 2, "an array of strings is wanted, a string was read"),
    ("[server]\nlisten = [1]", 2, "a string is wanted, an integer was read"),
    ("[server]\nh2c = \"yes\"", 2, "true or false is wanted, a string was read"),
    ("[server]\nh2c = 1.5", 2, "a float was read"),
    ("[server]\nmax_age = 15", 2, "a string is wanted"),
    ("[server]\nmaxage = \"1m\"", 2, "did you mean `server.max_age`?"),
    ("[server]\nuser_header = \"X\"", 2, "did you mean `identity.user_header`?"),
    ("[server]\nzzzzzzzzz = 1", 2, "known here: listen, hosts"),
    ("server = 1", 1, "a table is wanted"),
    ("[route]\npath = \"/a\"", 1, "with two brackets"),
    ("route = [1]", 1, "a table is wanted, an integer was read"),
    ("route = []", 1, "no route is configured"),
    // Listeners.
    ("[server]\nlisten = []", 2, "at least one address is needed"),
    ("[server]\nlisten = [\":8080\"]", 2, "write \"0.0.0.0:8080\""),
    ("[server]\nlisten = [\"example.com:80\"]", 2, "is not an address to listen on"),
    ("[server]\nlisten = [\"127.0.0.1:65536\"]", 2, "is not an address to listen on"),
    ("[server]\nlisten = [\n  \"127.0.0.1:1\",\n  \"unix:relative\",\n]", 4, "an absolute path to the socket"),
    ("[server]\nlisten = [\"systemd:\"]", 2, "FileDescriptorName"),
    ("[server]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", 2, "is listed twice"),
    ("[server]\nhosts = [\"https://a\"]", 2, "is not a host name"),
    ("[server]\nhosts = [\"a:80\"]", 2, "without scheme, port"),
    ("[server]\nhosts = [\"::1\"]", 2, "or \"[::1]\""),
    ("[server]\norigins = [\"*\"]", 2, "every page on the web"),
    ("[server]\norigins = [\"null\"]", 2, "every sandboxed page"),
    ("[server]\norigins = [\"https://a/\"]", 2, "is not an origin"),
    ("[server]\ndrain_window = \"0s\"", 2, "must be longer than zero"),
    ("[server]\nmax_age = \"15x\"", 2, "is not a duration"),
    ("[server]\nheader_timeout = \"99999d\"", 2, "longer than 3650 days"),
    ("[server]\nheader_timeout = \"99999999999999999999s\"", 2, "is too large"),
    ("[server]\nproxy_protocol = true", 2, "no address in it"),
    ("[server]\nproxy_protocol = true\n[trust]\nproxies = [\"unix\"]\naddress_is_proof = true", 2, "no address in it"),
    ("[server]\nproxy_protocol = \"v2\"", 2, "true or false is wanted"),
    ("[server.tls]\ncert = \"/dev/null\"", 2, "both `cert` and `key`"),
    ("[server.tls]\ncert = \"cert.pem\"\nkey = \"/nonexistent/k\"", 2, "not a file name"),
    ("[server.tls]\ncert = \"/\"\nkey = \"/nonexistent/k\"", 2, "`/` is not a file"),
    ("[server.tls]\ncert = \"/nonexistent/c\"\nkey = \"/nonexistent/k\"", 3, "cannot be read: No such file"),
    ("[server.tls]\nclient_ca = \"/nonexistent/ca\"\ncert = \"/dev/null\"\nkey = \"/dev/null\"", 2, "cannot be read"),
    ("[server.tls]\nclient_names = [\"a.internal\"]\ncert = \"/c\"\nkey = \"/k\"", 2, "without client_ca"),
    ("[server.tls]\nclient_names = [\"*.internal\"]\ncert = \"/c\"\nkey = \"/k\"", 2, "is not a DNS name"),
    ("[server.tls]\nclient_names = [\"10.0.0.1\"]\ncert = \"/c\"\nkey = \"/k\"", 2, "no addresses"),
    ("[admin]\nlisten = \"0.0.0.0:9464\"", 2, "can be reached from other machines"),
    ("[admin]\nlisten = \"[::]:0\"", 2, "there is no admin.token_file"),
    ("[admin]\ntoken_file = \"credential:../x\"", 2, "not the name of a credential"),
    // NATS.
    ("[nats]\nservers = []", 2, "at least one server"),
    ("[nats]\nservers = [\"ws://a\"]", 2, "WebSocket is not supported"),
    ("[nats]\nservers = [\"a:4222\"]", 2, "is not the URL of a NATS server"),
    ("[nats]\nservers = [\"nats://a:0\"]", 2, "is not the URL of a NATS server"),
    ("[nats]\nservers = [\"nats://a/b\"]", 2, "is not the URL of a NATS server"),
    ("[nats]\nservers = [\"nats://u:p@a\"]", 2, "must not hold a user, password or token"),
    ("[nats]\nnkey = \"/nonexistent/n\"\ncredentials = \"/nonexistent/c\"", 2, "two ways to log in"),
    ("[nats]\nuser = \"u\"", 2, "a user without a password"),
    ("[nats]\npassword_file = \"/nonexistent/p\"", 2, "a password without a user"),
    ("[nats]\ncert = \"/nonexistent/c\"", 2, "both `cert` and `key`"),
    ("[nats]\nca = \"/nonexistent/ca\"", 2, "cannot be read"),
    // Trust: requirement R1.
    ("[trust]", 1, "at least one proxy is needed"),
    ("[trust]\nproxies = []\naddress_is_proof = true", 2, "at least one proxy is needed"),
    ("\n[trust]\nproxies = [\"127.0.0.1\"]", 2, "there is no proof"),
    ("[trust]\nproxies = [\"0.0.0.0/0\"]\naddress_is_proof = true", 2, "every address there is"),
    ("[trust]\nproxies = [\"::/0\"]\naddress_is_proof = true", 2, "every address there is"),
    ("[trust]\nproxies = [\"10.0.0.0/0\"]\naddress_is_proof = true", 2, "every address there is"),
    ("[trust]\nproxies = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\naddress_is_proof = true", 2, "together these are every address"),
    ("[trust]\nproxies = [\"::ffff:10.0.0.1\"]\naddress_is_proof = true", 2, "write it as IPv4"),
    ("[trust]\nproxies = [\"nginx\"]\naddress_is_proof = true", 2, "is not an address or CIDR"),
    ("[trust]\nproxies = [\"10.0.0.0/33\"]\naddress_is_proof = true", 2, "is not an address or CIDR"),
    ("[trust]\nproxies = [\"127.0.0.1\"]\npeer_uids = [33]", 3, "\"unix\" is not in trust.proxies"),
    ("[trust]\nproxies = [\"unix\"]\npeer_uids = [-1]", 3, "-1 was read; allowed are 0 to"),
    ("[trust]\nproxies = [\"unix\"]\npeer_uids = [\"www-data\"]", 3, "an integer is wanted"),
    ("[trust]\nproxies = [\"unix\"]\nclient_certificate = true", 3, "no address is in trust.proxies"),
    ("[trust]\nproxies = [\"127.0.0.1\"]\nclient_certificate = true", 3, "asks for no client certificate"),
    ("[trust]\nproxies = [\"127.0.0.1\"]\nclient_certificate = true\n[server.tls]\nclient_ca = \"/nonexistent\"", 3, "any certificate of"),
    ("[trust]\nproxies = [\"unix\"]\nsecret_files = [\"/a\", \"/b\", \"/c\"]", 3, "3 files; one, or two"),
    ("[trust]\nproxies = [\"unix\"]\npeer_uids = [1]\nsecret_header = \"X_S\"", 4, "treat as `-`"),
    ("[trust]\nproxies = [\"unix\"]\npeer_uids = [1]\nsecret_header = \"X-Forwarded-User\"", 4, "already carries part of the identity"),
    ("[trust]\nproxies = [\"unix\"]\npeer_uids = [1]\nforwarded_for_hops = 33", 4, "allowed are 0 to 32"),
    // Identity.
    ("[identity]\nuser_header = \"\"", 2, "a header name is needed"),
    ("[identity]\nuser_header = \"X User\"", 2, "is not a header name"),
    ("[identity]\nuser_header = \"X_User\"", 2, "treat as `-`"),
    ("[identity]\nuser_header = \"X!User\"", 2, "is not a header name"),
    ("[identity]\nuser_header = \"Proxy-Authorization\"", 2, "has a meaning of its own"),
    ("[identity]\nclaims_header = \"x.claims\"", 2, "treat as `-`"),
    ("[identity]\nuser_header = \"Authorization\"", 2, "has a meaning of its own"),
    ("[identity]\nexpires_header = \"x-forwarded-user\"", 2, "is already `identity.user_header`"),
    ("[identity]\nvariables = { user = \"X-U\" }", 2, "`user` is the user id itself"),
    ("[identity]\nvariables = { 1a = \"X-U\" }", 2, "is not a variable name"),
    ("[identity]\nvariables = { a = 1 }", 2, "a string is wanted"),
    ("[identity]\nclaims_issuer = \"https://issuer.example\"", 2, "identity.claims_header is not set"),
    ("[identity]\nclaims_audiences = [\"events\"]", 2, "identity.claims_header is not set"),
    ("[identity]\nclaims_header = \"X-C\"\nclaims_audiences = [\"\"]", 3, "cannot be empty"),
    ("[identity]\nclaims_header = \"X-C\"\n[[route]]\npath = \"/a\"\nsubjects = [\"a.{sub}\"]", 5, "the claim `sub` is the user"),
    ("[identity]\nclaims_header = \"X-C\"\n[[route]]\npath = \"/a\"\naudience = \"anyone\"\nsubjects = [\"a.{t}\"]", 6, "there is no variable `{t}`"),
    (concat!("[identity]\nclaims_header = \"X-C\"\n[[route]]\npath = \"/{t}\"\nsubjects = [\"a.{t}\"]\n", "[[route]]\npath = \"/a\"\nsubjects = [\"b.{t}\"]"), 4, "has the name of a claim that another route uses"),
    ("[identity]\nuser_encoding = \"hex\"", 2, "is not one of \"refuse\", \"base64url\""),
    // Streams.
    ("[[stream]]\nsubjects = [\"a\"]", 1, "a stream needs a `name`"),
    ("[[stream]]\nname = \"A.B\"", 2, "is not a stream name"),
    ("[[stream]]\nname = \"A\"\n[[stream]]\nname = \"A\"", 4, "is configured twice"),
    ("[[stream]]\nname = \"A\"\nsubjects = [\"a..b\"]", 3, "no empty tokens"),
    ("[[stream]]\nname = \"A\"\ncreate = true", 1, "needs subjects"),
    ("[[stream]]\nname = \"A\"\nmax_bytes = -1", 3, "cannot be negative"),
    ("[[stream]]\nname = \"A\"\nmax_bytes = \"1XB\"", 3, "is not a size"),
    // Routes.
    ("[[route]]\nsubjects = [\"a\"]", 1, "a route needs a `path`"),
    ("[[route]]\npath = \"/a\"", 1, "this route offers nothing"),
    ("[[route]]\npath = \"a\"\nsubjects = [\"a\"]", 2, "starts with `/`"),
    ("[[route]]\npath = \"/a/{b\"\nsubjects = [\"a\"]", 2, "a capture is a whole path segment"),
    ("[[route]]\npath = \"/{user}\"\nsubjects = [\"a\"]", 2, "let the client choose who it is"),
    ("[identity]\nvariables = { t = \"X-T\" }\n[[route]]\npath = \"/{t}\"\nsubjects = [\"a\"]", 4, "has the name of identity.variables.t"),
    (concat!("[[route]]\npath = \"/{a}\"\nsubjects = [\"a\"]\n", "[[route]]\npath = \"/{b}\"\nsubjects = [\"a\"]"), 5, "matches the same requests as the route `/{a}`"),
    ("[[route]]\npath = \"/a\"\nsubjects = [\"a.{room}\"]", 3, "there is no variable `{room}`"),
    ("[[route]]\npath = \"/a\"\nsubjects = [\"a.{room}\"]", 3, "available here: {user};"),
    ("[[route]]\npath = \"/a\"\nsubjects = [\"a.x{user}\"]", 3, "a variable must be a whole token"),
    ("[[route]]\npath = \"/a\"\nsubjects = [\n  \"a\",\n  \">.a\",\n]", 5, "must be the last token"),
    (route!("live_subjects = [\"$JS.API.>\"]"), 4, "belong to the NATS server"),
    (route!("audience = \"anyone\"\nlive_subjects = [\"a.{user}\"]"), 5, "audience = \"anyone\" has none"),
    ("[identity]\nvariables = { t = \"X-T\" }\n[[route]]\npath = \"/a\"\naudience = \"anyone\"\nsubjects = [\"a.{t}\"]", 6, "comes from the identity"),
    (route!("audience = \"all\""), 4, "is not one of \"user\", \"anyone\""),
    (route!("stream = \"\""), 4, "is not a stream name"),
    (route!("allow = [\"a b\"]"), 4, "white space"),
    (route!("allow = [\"a.{user}\"]"), 4, "`allow` takes patterns"),
    (route!("event = \"token:0\""), 4, "N is 1 to 32"),
    (route!("event = \"token:33\""), 4, "N is 1 to 32"),
    (route!("event = \"sidestream.x\""), 4, "cannot be an event name"),
    (route!("event = \"a\\nb\""), 4, "cannot be an event name"),
    (route!("payload = \"json\""), 4, "is not one of \"text\", \"base64\", \"envelope\""),
    (route!("last_value = true"), 4, "last values are kept by streams"),
    (route!("subject = [\"a\"]"), 4, "did you mean `route.subjects`?"),
    // Bounds, and the rest.
    ("[limits]\nconnections = 0", 2, "0 was read; allowed are 1 to"),
    ("[limits]\nconnections = -1", 2, "-1 was read"),
    ("[limits]\nconnects_per_second = 4294967295", 2, "allowed are 1 to 1000000000"),
    ("[limits]\nqueue_events = 99999999999999999999999", 2, "allowed are 1 to"),
    ("[limits]\nqueue_bytes = \"0\"", 2, "must be larger than zero"),
    ("[limits]\nqueue_bytes = \"16000000TiB\"", 2, "bytes"),
    ("[limits]\nqueue_bytes = \"99999999999TiB\"", 2, "is too large"),
    ("[limits]\nunsent_buffer = \"4GiB\"", 2, "allowed are 1 to 2147483647 bytes"),
    ("[limits]\nmemory = \"16MiB\"", 2, "the program itself needs more"),
    ("[limits]\nmemory = \"90MiB\"", 2, "leave nothing for clients"),
    ("[limits]\nmemory = \"much\"", 2, "is not a size"),
    ("[heartbeat]\ninterval = \"0s\"", 2, "allowed are 1s to 1h"),
    ("[heartbeat]\ninterval = \"999ms\"", 2, "`999ms` was read; allowed are 1s to 1h"),
    ("[heartbeat]\ninterval = \"1h1ms\"", 2, "allowed are 1s to 1h"),
    ("[heartbeat]\ninterval = \"15\"", 2, "is not a duration"),
    ("[history]\nbytes = true", 2, "a size such as \"256KiB\" is wanted"),
    ("[presence]\nsubject = \"a.*\"", 2, "has a wildcard"),
    ("[presence]\ngrace = \"0s\"", 2, "allowed are 1s to 10m"),
    ("[log]\nlevel = \"inof\"", 2, "is not a log level"),
    ("[log]\nlevel = \" info\"", 2, "is not a log level"),
    ("[log]\nformat = \"xml\"", 2, "is not one of \"auto\", \"text\", \"json\""),
];

/// Streams and formats are numbered in eight bits, so as many as can be told apart must also be servable.
#[test]
fn the_first_route_too_many_is_a_fault() {
    let routes = |count: usize| -> String {
        let one = |n| format!("[[route]]\npath = \"/{n}\"\nstream = \"S{n}\"\nsubjects = [\"a\"]\nevent = \"e{n}\"\n");
        (1..=count).map(one).collect()
    };
    let table = accepted(&routes(255)).routes;
    assert_eq!((table.routes.len(), table.streams.len(), table.formats.len()), (255, 255, 255));
    let report = refused(&routes(300));
    assert_eq!(report.faults.len(), 1, "{report}");
    assert_eq!(report.faults[0].message, "300 routes were read; allowed are 1 to 255");
    assert_eq!(report.faults[0].place.as_ref().map(|place| place.line), Some(255 * 5 + 1));
}

#[test]
fn every_fault_is_reported_at_its_line() {
    assert!(REFUSED.len() >= 60);
    for (text, line, part) in REFUSED {
        let report = refused(text);
        let says = |fault: &Fault| fault.message.contains(part) || fault.notes.iter().any(|note| note.contains(part));
        let there = |fault: &Fault| fault.place.as_ref().is_some_and(|place| place.line == *line);
        assert!(report.faults.iter().any(|f| says(f) && there(f)), "{text}\nline {line}, {part:?} is not in\n{report}");
    }
}

/// A million faults in one text are still one report, and deep nesting does not reach the stack's end.
#[test]
fn hostile_shapes_end_in_a_report() {
    let deep_key = vec!["a"; 50_000].join(".") + " = 1";
    let deep_array = format!("server = {}{}", "[".repeat(50_000), "]".repeat(50_000));
    let deep_table = format!("server = {}{}", "{ a = ".repeat(5_000), "}".repeat(5_000));
    let wide = "a".repeat(200_000) + " = 1";
    for text in [deep_key, deep_array, deep_table, wide] {
        assert!(!refused(&text).to_string().is_empty());
    }
    let nested = format!("{} = 1", ["a.".repeat(75), "a".into()].concat());
    let inline =
        format!("server.{} = {}1{}", "a.".repeat(70) + "b", "{ a.a.a.a.a.a.a.a = ".repeat(60), " }".repeat(60));
    let _ = (read(&nested), read(&inline));
    assert!(with_set(&[&format!("server.listen={}", "[".repeat(50_000))]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_panics(text in any::<String>(), key in "[a-z_.]{0,12}", value in any::<String>()) {
        let set = vec![format!("{key}={value}"), text.clone()];
        let env = vec![(format!("SIDESTREAM_{}", key.replace('.', "__")), value.clone())];
        let _ = read(&text).map_err(|report| report.to_string());
        let _ = load_text("t", &format!("[server]\n{key} = {value}\n"), &Sources { files: vec![], env, set })
            .map_err(|report| report.to_string());
    }

    /// Cuts, copies and splices of the real file reach the checks behind the parser.
    #[test]
    fn no_mutation_panics(
        from in 0..DEFAULT_TOML.len(),
        length in 0usize..40,
        insert in prop_oneof!["[\"'=\\[\\]{}#,.\n0-9a-z/:*>$-]{0,6}", any::<String>(), Just("\u{0}".to_owned()), Just("é\t".to_owned())],
    ) {
        let boundary = |mut at: usize| { while !DEFAULT_TOML.is_char_boundary(at) { at -= 1; } at };
        let end = boundary((from + length).min(DEFAULT_TOML.len()));
        let text = format!("{}{insert}{}", &DEFAULT_TOML[..boundary(from)], &DEFAULT_TOML[end..]);
        let _ = read(&text).map_err(|report| report.to_string());
    }

    /// One value of the default file replaced by any other kind of value.
    #[test]
    fn no_value_panics(line in any::<prop::sample::Index>(), value in prop_oneof![
        Just("-9223372036854775808".to_owned()), Just("0xffffffffffffffffff".to_owned()), Just("[[], {}, 1]".to_owned()),
        Just("1979-05-27".to_owned()), Just("nan".to_owned()), "\"[ -~]{0,30}\"", "\\[\"[a-z{}.:/*>]{0,20}\"\\]",
    ]) {
        let keys: Vec<usize> = DEFAULT_TOML.lines().enumerate().filter(|(_, l)| l.contains(" = ") && !l.starts_with('#')).map(|(i, _)| i).collect();
        let chosen = *line.get(&keys);
        let mutated: String = DEFAULT_TOML.lines().enumerate().map(|(i, l)| match l.split_once(" = ") {
            Some((key, _)) if i == chosen => format!("{key} = {value}\n"),
            _ => format!("{l}\n"),
        }).collect();
        let _ = read(&mutated).map_err(|report| report.to_string());
    }
}
