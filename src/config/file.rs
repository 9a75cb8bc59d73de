//! The shape of the TOML file: every key there is, and what type of value it takes.
//!
//! One table, [`ROOT`], is the only list of keys; unknown keys, wrong types, environment names and `config show` all
//! the schema and the reference follow from it. The meaning of keys is documented in `default.toml`, their values are
//! checked in `check*`.

use super::error::{Fault, FaultKind};
use super::nearest::nearest;
use super::source::{At, Layer, Texts};
use super::tree::{Node, Table, Value};

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Flag,
    Integer,
    Text,
    /// A string with a unit of time.
    Duration,
    /// One of a few words; the checks refuse others.
    Choice(&'static [&'static str]),
    /// A string with a unit, or an integer: bytes.
    Size,
    Texts,
    Integers,
    /// Any key, each with a string.
    Map,
    Table(&'static [Key]),
    /// `[[name]]`.
    Tables(&'static [Key]),
}

/// One known key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// TOML text of the default, in tables that are absent from `default.toml` or repeat; everywhere else the default is
    /// what `default.toml` says.
    pub(super) default: Option<&'static str>,
    /// Whether its table is refused without it.
    pub(super) required: bool,
}

const fn key(name: &'static str, shape: Shape) -> Key {
    Key { name, shape, default: None, required: false }
}

const fn key_or(name: &'static str, shape: Shape, default: &'static str) -> Key {
    Key { name, shape, default: Some(default), required: false }
}

const fn needed(name: &'static str, shape: Shape) -> Key {
    Key { name, shape, default: None, required: true }
}

use Shape::{Choice, Duration, Flag, Integer, Integers, Map, Size, Tables, Text, Texts as TextList};

/// The whole file.
pub(super) static ROOT: &[Key] = &[
    key("version", Integer),
    key("server", Shape::Table(SERVER)),
    key("admin", Shape::Table(&[key("listen", Text), key("token_file", Text)])),
    key("nats", Shape::Table(NATS)),
    key("trust", Shape::Table(TRUST)),
    key("identity", Shape::Table(IDENTITY)),
    key("stream", Tables(STREAM)),
    key("route", Tables(ROUTE)),
    key("limits", Shape::Table(LIMITS)),
    key("heartbeat", Shape::Table(&[key("interval", Duration), key("event", Flag)])),
    key("history", Shape::Table(&[key("bytes", Size)])),
    key("presence", Shape::Table(&[key("subject", Text), key("grace", Duration)])),
    key("log", Shape::Table(&[key("level", Text), key("format", Choice(&["auto", "text", "json"]))])),
];

static SERVER: &[Key] = &[
    key("listen", TextList),
    key("hosts", TextList),
    key("origins", TextList),
    key("drain_window", Duration),
    key("max_age", Duration),
    key("header_timeout", Duration),
    key("h2c", Flag),
    key("proxy_protocol", Flag),
    key("tls", Shape::Table(TLS)),
];

static TLS: &[Key] = &[
    needed("cert", Text),
    needed("key", Text),
    key_or("client_ca", Text, "\"\""),
    key_or("client_names", TextList, "[]"),
];

static NATS: &[Key] = &[
    key("servers", TextList),
    key("credentials", Text),
    key("nkey", Text),
    key("user", Text),
    key("password_file", Text),
    key("token_file", Text),
    key("ca", Text),
    key("cert", Text),
    key("key", Text),
    key("tls_first", Flag),
];

static TRUST: &[Key] = &[
    needed("proxies", TextList),
    key_or("peer_uids", Integers, "[]"),
    key_or("client_certificate", Flag, "false"),
    key_or("secret_header", Text, "\"X-Sidestream-Secret\""),
    key_or("secret_files", TextList, "[]"),
    key_or("forwarded_for_hops", Integer, "1"),
    key_or("address_is_proof", Flag, "false"),
];

static IDENTITY: &[Key] = &[
    key("user_header", Text),
    key("claims_header", Text),
    key("claims_issuer", Text),
    key("claims_audiences", TextList),
    key("expires_header", Text),
    key("variables", Map),
    key("user_encoding", Choice(&["refuse", "base64url"])),
    key("subjects_header", Text),
];

static STREAM: &[Key] = &[
    needed("name", Text),
    key_or("subjects", TextList, "[]"),
    key_or("create", Flag, "false"),
    key_or("max_age", Duration, "\"24h\""),
    key_or("max_bytes", Size, "\"1GiB\""),
];

static ROUTE: &[Key] = &[
    needed("path", Text),
    key("stream", Text),
    key_or("subjects", TextList, "[]"),
    key_or("allow", TextList, "[]"),
    key_or("live_subjects", TextList, "[]"),
    key_or("audience", Choice(&["user", "anyone"]), "\"user\""),
    key_or("event", Text, "\"header\""),
    key_or("payload", Choice(&["text", "base64", "envelope"]), "\"text\""),
    key_or("last_value", Flag, "false"),
    key_or("select", Flag, "false"),
];

static LIMITS: &[Key] = &[
    key("connections", Integer),
    key("connections_per_user", Integer),
    key("connections_per_address", Integer),
    key("connects_per_second", Integer),
    key("connects_per_second_per_user", Integer),
    key("connects_per_second_per_address", Integer),
    key("queue_bytes", Size),
    key("queue_events", Integer),
    key("write_timeout", Duration),
    key("unsent_buffer", Size),
    key("event_bytes", Size),
    key("replay_events", Integer),
    key("replays", Integer),
    key("memory", Size),
];

/// Checks one layer against the shape: unknown keys are reported and dropped, wrong types reported and marked.
pub(super) fn check_shape(texts: &Texts, table: &mut Table, faults: &mut Vec<Fault>) {
    Shaper { texts, faults }.table(table, ROOT, "");
}

/// Fills the keys that a present but optional table leaves out.
pub(super) fn fill_defaults(texts: &mut Texts, table: &mut Table) {
    fill(texts, table, ROOT);
}

struct Shaper<'s> {
    texts: &'s Texts,
    faults: &'s mut Vec<Fault>,
}

impl Shaper<'_> {
    fn table(&mut self, table: &mut Table, keys: &'static [Key], path: &str) {
        table.retain(|name, node| {
            let full = join(path, name);
            match keys.iter().find(|key| key.name == name) {
                Some(key) => self.node(node, key.shape, &full),
                None => self.unknown(node, name, keys, path),
            }
            keys.iter().any(|key| key.name == name)
        });
    }

    fn node(&mut self, node: &mut Node, shape: Shape, path: &str) {
        self.lenient(node, shape);
        match (shape, &mut node.value) {
            (Flag, Value::Flag(_))
            | (Integer, Value::Integer(_))
            | (Text | Duration | Choice(_), Value::Text(_))
            | (Size, Value::Text(_) | Value::Integer(_)) => {}
            (TextList, Value::Array(items)) => items.iter_mut().for_each(|item| self.node(item, Text, path)),
            (Integers, Value::Array(items)) => items.iter_mut().for_each(|item| self.node(item, Integer, path)),
            (Map, Value::Table(entries)) => {
                entries.iter_mut().for_each(|(name, entry)| self.node(entry, Text, &join(path, name)));
            }
            (Shape::Table(keys), Value::Table(table)) => self.table(table, keys, path),
            (Tables(keys), Value::Array(items)) => self.tables(items, keys, path),
            _ => self.wrong_type(node, shape, path),
        }
    }

    fn tables(&mut self, items: &mut [Node], keys: &'static [Key], path: &str) {
        for item in items {
            match &mut item.value {
                Value::Table(table) => self.table(table, keys, path),
                _ => self.wrong_type(item, Shape::Table(keys), path),
            }
        }
    }

    /// The environment and the command line know no quotes: `12` may be a string there, and one string a list.
    fn lenient(&self, node: &mut Node, shape: Shape) {
        if self.texts.layer(&node.at) < Layer::Env {
            return;
        }
        if matches!(shape, Text | Duration | Choice(_))
            && matches!(node.value, Value::Integer(_) | Value::Flag(_) | Value::Other(_))
        {
            node.value = Value::Text(self.texts.slice(&node.at).to_owned());
        }
        if matches!(shape, TextList | Integers) && !matches!(node.value, Value::Array(_)) {
            node.value = Value::Array(vec![node.clone()]);
        }
    }

    fn wrong_type(&mut self, node: &mut Node, shape: Shape, path: &str) {
        let allowed = match shape {
            Flag => "true or false",
            Integer => "an integer",
            Text | Duration | Choice(_) => "a string",
            Size => "a size such as \"256KiB\"",
            TextList => "an array of strings",
            Integers => "an array of integers",
            Map => "a table of strings",
            Shape::Table(_) => "a table",
            Tables(_) => "an array of tables",
        };
        let mut fault =
            Fault::new(FaultKind::Invalid, path, format!("{allowed} is wanted, {} was read", node.value.kind()));
        if matches!(shape, Tables(_)) {
            fault = fault.note(format!("write `[[{path}]]`, with two brackets"));
        }
        self.faults.push(fault.at(self.texts, &node.at));
        node.value = Value::Wrong;
    }

    fn unknown(&mut self, node: &Node, name: &str, keys: &'static [Key], path: &str) {
        let full = join(path, name);
        let mut fault = Fault::new(FaultKind::Invalid, &full, "there is no such key").at(self.texts, &node.key_at);
        match suggestion(name, keys, path) {
            Some(known) => fault = fault.note(format!("did you mean `{known}`?")),
            None => {
                let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
                fault = fault.note(format!("known here: {}", known.join(", ")));
            }
        }
        self.faults.push(fault);
    }
}

/// The nearest key of the same table; failing that, the same name in another table.
fn suggestion(name: &str, keys: &'static [Key], path: &str) -> Option<String> {
    if let Some(known) = nearest(name, keys.iter().map(|key| key.name)) {
        return Some(join(path, known));
    }
    let elsewhere = ROOT.iter().find_map(|section| match section.shape {
        Shape::Table(keys) | Tables(keys) if keys.iter().any(|key| key.name == name) => Some(section.name),
        _ => None,
    });
    elsewhere.map(|section| join(section, name))
}

fn fill(texts: &mut Texts, table: &mut Table, keys: &'static [Key]) {
    for key in keys {
        match (key.shape, table.get_mut(key.name).map(|node| &mut node.value)) {
            (Shape::Table(keys), Some(Value::Table(table))) => fill(texts, table, keys),
            (Tables(keys), Some(Value::Array(items))) => {
                for item in items {
                    if let Value::Table(table) = &mut item.value {
                        fill(texts, table, keys);
                    }
                }
            }
            (_, None) => {
                if let Some(node) = key.default.and_then(|text| default_node(texts, text)) {
                    table.insert(key.name.to_owned(), node);
                }
            }
            _ => {}
        }
    }
}

fn default_node(texts: &mut Texts, text: &str) -> Option<Node> {
    let number = texts.add(Layer::Default, "built-in default", text);
    let value = toml::de::DeValue::parse(text).ok()?;
    Some(super::tree::from_value(number, At::new(number, 0..0), 0, value))
}

/// `server` and `listen` make `server.listen`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
