//! The tricks: what a client that is alice, or nobody, tries in order to be served as somebody else.

use serde_json::json;

use crate::attempt::{Attempt, HOST};
use crate::session::{FACTS, Session};
use crate::token::encoded;

/// A header that speaks for somebody, and what a liar writes into it.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Its name.
    pub name: &'static str,
    /// What would make the client somebody else, or end its stream.
    pub lie: &'static str,
}

/// The headers that sidestream may be told to believe, under the names that `conf/` uses.
pub fn headers() -> [Header; 6] {
    [
        Header { name: "X-Forwarded-User", lie: "admin" },
        Header { name: "X-Tenant", lie: "evil" },
        Header { name: "X-Sidestream-Subjects", lie: "events.project.manhattan.>" },
        Header { name: "X-Auth-Expires", lie: "1" },
        Header { name: "X-Jwt-Payload", lie: payload() },
        Header { name: "X-Sidestream-Secret", lie: "open-sesame-open-sesame" },
    ]
}

/// Claims as Envoy forwards them, of somebody else.
fn payload() -> &'static str {
    static PAYLOAD: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| encoded(&json!({ "sub": "admin", "exp": 4_102_444_800_u64 })));
    &PAYLOAD
}

/// One row of the table, or its part for one header.
pub struct Row {
    /// What is tried.
    pub trick: String,
    /// With which header of trust, where it is about one.
    pub header: Option<Header>,
    /// What is sent.
    pub attempt: Attempt,
}

/// A table.
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// All of them.
pub fn sections() -> Vec<Section> {
    vec![
        Section { title: "Headers of trust", rows: headers().into_iter().flat_map(spoofs).collect() },
        Section { title: "What the application leaves out", rows: omissions() },
        Section { title: "Headers about the way", rows: ways() },
        Section { title: "Paths", rows: paths() },
        Section { title: "Hosts, origins, methods, versions, bodies", rows: requests() },
    ]
}

fn row(trick: impl Into<String>, attempt: Attempt) -> Row {
    Row { trick: trick.into(), header: None, attempt }
}

/// Every trick with one header.
fn spoofs(header: Header) -> Vec<Row> {
    let Header { name, lie } = header;
    let honest = Attempt::honest;
    let lower = name.to_ascii_lowercase();
    let with = |value: &[u8]| honest().line(name, value);
    let around = |middle: &[u8]| with(&[lie.as_bytes(), middle, b"x"].concat());
    let nominated = |option: &str| honest().line("Connection", format!("{option}{name}"));
    let rows = [
        ("`H: v`", with(lie.as_bytes())),
        ("two lines", with(lie.as_bytes()).line(name, "mallory")),
        ("`H: v, w`", with(format!("{lie}, mallory").as_bytes())),
        ("lower case", honest().line(&lower, lie)),
        ("upper case", honest().line(name.to_ascii_uppercase(), lie)),
        ("`_` for `-`", honest().line(name.replace('-', "_"), lie)),
        ("`_` for the last `-`", honest().line(last_hyphen_replaced(name), lie)),
        ("`.` for `-`", honest().line(name.replace('-', "."), lie)),
        ("`Connection: H`", nominated("")),
        ("`Connection: close, H` and `H: v`", nominated("close, ").line(name, lie)),
        (
            "`Keep-Alive: H`, `TE: H`, `Upgrade: H`",
            honest().line("Keep-Alive", name).line("TE", name).line("Upgrade", name),
        ),
        ("empty value", with(b"")),
        ("white space as value", with(b" \t ")),
        ("a tab within", around(b"\t")),
        ("`\\xff` within", around(b"\xff")),
        ("U+200B within", around("\u{200b}".as_bytes())),
        ("NUL within (CVE-2019-9900)", around(b"\0")),
        ("DEL within", around(b"\x7f")),
        ("200 bytes", with(&[b'a'; 200])),
        ("7000 bytes", with(&[b'a'; 7000])),
        ("`H : v`", honest().line(format!("{name} "), lie)),
        ("` H: v`, as if the line before went on", honest().line(format!(" {name}"), lie)),
        ("value on the next line", with(format!("\r\n {lie}").as_bytes())),
        ("`X: x<CR>H: v`", honest().line("X", format!("x\r{name}: {lie}"))),
        ("`X: x<LF>H: v`", honest().line("X", format!("x\n{name}: {lie}"))),
        ("`H<NUL>: v`", honest().line(format!("{name}\0"), lie)),
        ("HTTP/2: `h: v`", honest().h2().line(&lower, lie)),
        ("HTTP/2: two fields", honest().h2().line(&lower, lie).line(&lower, "mallory")),
        ("HTTP/2: upper case", honest().h2().line(name, lie)),
        ("HTTP/2: `_` for `-`", honest().h2().line(lower.replace('-', "_"), lie)),
        ("HTTP/2: `.` for `-`", honest().h2().line(lower.replace('-', "."), lie)),
        ("HTTP/2: `connection: h`", honest().h2().line("connection", &lower)),
        ("HTTP/2: `te: h`", honest().h2().line("te", &lower)),
        ("HTTP/2: `x: x<CR><LF>h: v`", honest().h2().line("x", format!("x\r\n{lower}: {lie}"))),
        ("HTTP/2: `x: x<LF>h: v`", honest().h2().line("x", format!("x\n{lower}: {lie}"))),
        ("HTTP/2: `x<CR><LF>h: v`", honest().h2().line(format!("x: x\r\n{lower}"), lie)),
        ("HTTP/2: `:h: v`", honest().h2().line(format!(":{lower}"), lie)),
        ("HTTP/2: NUL within", honest().h2().line(&lower, format!("{lie}\0x"))),
        ("HTTP/2: white space around", honest().h2().line(&lower, format!(" {lie} "))),
    ];
    rows.map(|(trick, attempt)| Row { trick: trick.to_owned(), header: Some(header), attempt }).into()
}

fn last_hyphen_replaced(name: &str) -> String {
    let (front, back) = name.rsplit_once('-').expect("each of them has one");
    format!("{front}_{back}")
}

/// CVE-2026-30851: what the application does not say, the client says.
fn omissions() -> Vec<Row> {
    let mut rows = vec![
        row("no session", Attempt::honest().session(Session::Nobody)),
        row("no session, `X-Forwarded-User: admin`", {
            Attempt::honest().session(Session::Nobody).line("X-Forwarded-User", "admin")
        }),
        row("no session, `Authorization: Basic`", {
            Attempt::honest().session(Session::Nobody).line("Authorization", "Basic YWRtaW46YWRtaW4=")
        }),
        row("a session that may have no streams", Attempt::honest().session(Session::Forbidden)),
    ];
    for fact in FACTS {
        let without = Attempt::honest().session(Session::AliceWithout(fact.claim));
        let lie = headers().iter().find(|header| header.name == fact.header).expect("a header of trust").lie;
        let lied = without.clone().line(fact.header, lie).line(fact.nginx, lie);
        rows.push(row(format!("no `{}`", fact.header), without));
        rows.push(row(format!("no `{}`, and the client's", fact.header), lied));
    }
    rows
}

/// What some proxies and frameworks move their decisions by (CVE-2026-40575).
fn ways() -> Vec<Row> {
    let lines = [
        ("X-Forwarded-For", "192.0.2.66"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Port", "1"),
        ("X-Forwarded-Uri", "/admin?user=admin"),
        ("X-Forwarded-Prefix", "/admin"),
        ("X-Forwarded-Method", "POST"),
        ("Forwarded", "for=192.0.2.66;host=evil.example"),
        ("X-Real-IP", "192.0.2.66"),
        ("X-Original-URL", "/admin"),
        ("X-Original-URI", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("X-HTTP-Method-Override", "POST"),
        ("X-User-Id", "admin"),
        ("X-Accel-Redirect", "/admin"),
        ("X-Envoy-Original-Path", "/admin"),
        ("X-Envoy-External-Address", "192.0.2.66"),
        ("X-Envoy-Upstream-Rq-Timeout-Ms", "1"),
        ("Authorization", "Bearer admin"),
        ("Proxy-Authorization", "Basic YWRtaW46YWRtaW4="),
        ("Proxy-Connection", "keep-alive"),
        ("Expect", "100-continue"),
        ("Upgrade", "h2c"),
        ("Via", "1.1 evil"),
    ];
    lines.map(|(name, value)| row(format!("`{name}: {value}`"), Attempt::honest().line(name, value))).into()
}

fn paths() -> Vec<Row> {
    let targets = [
        "//events",
        "/events/",
        "/events/.",
        "/./events",
        "/x/../events",
        "/x/%2e%2e/events",
        "/events%2f..%2fadmin",
        "/events/..%2fadmin",
        "/events;x",
        "/events;/../events",
        "/%65vents",
        "/%2565vents",
        "/events%00",
        "/events%0d%0aX-Forwarded-User:%20admin",
        "/events%20HTTP/1.1",
        "/events%ff",
        "/events\\",
        "/EVENTS",
        "/events#x",
        "/events?",
        "/events?user=admin&x-forwarded-user=admin&access_token=admin",
        "/events?last_event_id=a&last_event_id=b",
        "/_auth",
        "/@retry",
        "events",
        "*",
    ];
    let h2 = ["//events", "/x/../events", "/events x", "events", "*", "/events\r\nX-Forwarded-User: admin"];
    let absolute = [
        format!("https://{HOST}/events"),
        "https://evil.example/events".to_owned(),
        format!("https://admin@{HOST}/events"),
    ];
    let shown = |target: &str| target.replace('\r', "<CR>").replace('\n', "<LF>");
    let elsewhere = Attempt::honest().target(&absolute[0]).hosts(&["evil.example"]);
    let elsewhere = row("the first of these with `Host: evil.example`", elsewhere);
    let h1 = targets.iter().map(|target| (*target).to_owned()).chain(absolute);
    let h1 = h1.map(|target| row(format!("`{target}`"), Attempt::honest().target(&target)));
    let h2 = h2.iter().map(|target| row(format!("HTTP/2: `{}`", shown(target)), Attempt::honest().target(target).h2()));
    h1.chain([elsewhere]).chain(h2).collect()
}

fn requests() -> Vec<Row> {
    let honest = Attempt::honest;
    let post = |lines: Attempt| lines.method("POST");
    let chunked = |attempt: Attempt| attempt.line("Transfer-Encoding", "chunked").body("3\r\nabc\r\n0\r\n\r\n");
    let lengthy = |attempt: Attempt| attempt.line("Content-Length", "3").body("abc");
    vec![
        row("an honest request", honest()),
        row("HTTP/2: an honest request", honest().h2()),
        row("`Host: evil.example`", honest().hosts(&["evil.example"])),
        row("two `Host`s", honest().hosts(&[HOST, "evil.example"])),
        row("no `Host`", honest().hosts(&[])),
        row("`Host: admin@…`", honest().hosts(&["admin@events.example.com"])),
        row("`Host: …:443`", honest().hosts(&["events.example.com:443"])),
        row("HTTP/2: `:authority: evil.example`", honest().hosts(&["evil.example"]).h2()),
        row("HTTP/2: `host: evil.example` beside `:authority`", honest().hosts(&[HOST, "evil.example"]).h2()),
        row("HTTP/2: no authority", honest().hosts(&[]).h2()),
        row("HTTP/2: a second `:path`", honest().h2().line(":path", "/admin")),
        row("HTTP/2: a second `:method`", honest().h2().line(":method", "POST")),
        row("HTTP/2: `transfer-encoding: chunked`", honest().h2().line("transfer-encoding", "chunked")),
        row("HTTP/2: `content-length: 3` without a body", honest().h2().line("content-length", "3")),
        row("`Origin: https://evil.example`", honest().line("Origin", "https://evil.example")),
        row("`Origin: null`", honest().line("Origin", "null")),
        row("`Origin` of our own host", honest().line("Origin", "https://events.example.com")),
        row("`Origin` that is allowed", honest().line("Origin", "https://app.example.com")),
        row("no `Origin`, `Sec-Fetch-Site: cross-site`", honest().line("Sec-Fetch-Site", "cross-site")),
        row("a preflight that is allowed", {
            honest().session(Session::Nobody).method("OPTIONS").line("Origin", "https://app.example.com")
        }),
        row("a preflight with `X-Forwarded-User: admin`", {
            honest().session(Session::Nobody).method("OPTIONS").line("X-Forwarded-User", "admin")
        }),
        row("`POST`", post(honest()).line("Content-Length", "0")),
        row("`POST` with a body", post(lengthy(honest()))),
        row("`get`", honest().method("get")),
        row("`TRACE`", honest().method("TRACE")),
        row("`CONNECT`", honest().method("CONNECT").target("events.example.com:443")),
        row("HTTP/1.0", honest().version("HTTP/1.0")),
        row("HTTP/0.9", honest().version("HTTP/0.9")),
        row("HTTP/1.2", honest().version("HTTP/1.2")),
        row("`Content-Length: 3`", lengthy(honest())),
        row("`Transfer-Encoding: chunked`", chunked(honest())),
        row("not for event streams", honest().without("Accept").line("Accept", "application/json")),
    ]
}
