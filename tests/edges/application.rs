//! The application behind the proxy: says who a session belongs to, serves its key set, and a page for everything else.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::session::{FACTS, of_alice};
use crate::support::ports::free_port;

/// What a page holds.
pub const PAGE: &str = "<!doctype html><title>application</title>";

/// A running application.
pub struct Application {
    /// Where it listens.
    pub port: u16,
    answers: Arc<Answers>,
    task: JoinHandle<()>,
}

struct Answers {
    keys: String,
    page: String,
    /// Answered to everything, if it is not 0.
    status: AtomicU16,
    /// Request heads, as they came.
    heads: Mutex<Vec<String>>,
}

impl Application {
    /// Starts it. `keys`: the key set. `page`: its page.
    pub async fn start(keys: String, page: &str) -> Self {
        let port = free_port();
        let answers =
            Arc::new(Answers { keys, page: page.to_owned(), status: AtomicU16::new(0), heads: Mutex::default() });
        Self { port, task: tokio::spawn(serve(listen(port).await, Arc::clone(&answers))), answers }
    }

    /// Nothing listens any more, and every connection ends.
    pub async fn stop(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// From now on everything is answered with this status and nothing else.
    pub fn fail(&self, status: u16) {
        self.answers.status.store(status, Ordering::Relaxed);
    }

    /// The heads of the requests so far, which are then forgotten.
    pub fn take_heads(&self) -> Vec<String> {
        std::mem::take(&mut self.answers.heads.lock().expect("no writer panics"))
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).await.expect("a free port")
}

async fn serve(listener: TcpListener, answers: Arc<Answers>) {
    // Connections end with the set.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("accepts");
        connections.spawn(connection(stream, Arc::clone(&answers)));
    }
}

async fn connection(mut stream: TcpStream, answers: Arc<Answers>) {
    let mut bytes = Vec::new();
    loop {
        let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") else {
            if stream.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
                continue;
            }
            return;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes.drain(..end + 4);
        let answer = answers.to(&head);
        answers.heads.lock().expect("no writer panics").push(head);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

impl Answers {
    fn to(&self, head: &str) -> String {
        let status = self.status.load(Ordering::Relaxed);
        if status != 0 {
            return format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/auth") {
            return auth(session(head));
        }
        if path.split('?').next() == Some("/events") {
            return hand_over(session(head));
        }
        let (kind, body) = if path == "/.well-known/jwks.json" {
            ("application/json", &self.keys)
        } else {
            ("text/html; charset=utf-8", &self.page)
        };
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }
}

/// The value of the cookie `session`.
fn session(head: &str) -> Option<&str> {
    let cookies =
        head.lines().filter_map(|line| line.split_once(": ")).filter(|(name, _)| name.eq_ignore_ascii_case("cookie"));
    cookies.flat_map(|(_, value)| value.split("; ")).find_map(|cookie| cookie.strip_prefix("session="))
}

/// What of a user's facts is missing; the refusal where there is no user.
fn without(session: Option<&str>) -> Result<Option<&str>, &'static str> {
    match session {
        Some("forbidden") => Err("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        Some("alice") => Ok(None),
        Some(name) if name.starts_with("alice-without-") => Ok(name.strip_prefix("alice-without-")),
        _ => Err("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
    }
}

/// Who this is, in the headers of all proxies that ask.
fn auth(session: Option<&str>) -> String {
    let without = match without(session) {
        Err(refusal) => return refusal.to_owned(),
        Ok(without) => without,
    };
    let mut answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n".to_owned();
    for fact in FACTS.iter().filter(|fact| Some(fact.claim) != without) {
        let value = of_alice(fact.claim);
        answer += &format!("{}: {value}\r\n{}: {value}\r\n", fact.header, fact.nginx);
    }
    answer + "\r\n"
}

/// What frameworks put into every answer.
const OF_A_FRAMEWORK: &str =
    "Content-Type: text/html; charset=utf-8\r\nCache-Control: private\r\nSet-Cookie: seen=1\r\nX-Powered-By: it\r\n";

/// The application's own route: the request goes on to sidestream, with all that this user may hear beside the route's.
fn hand_over(session: Option<&str>) -> String {
    let without = match without(session) {
        Err(refusal) => return refusal.to_owned(),
        Ok(without) => without,
    };
    let says = |claim: &'static str| Some(of_alice(claim)).filter(|_| without != Some(claim));
    let subjects = [says("tenant").map(|tenant| format!("events.tenant.{tenant}.>")), says("subjects")];
    let subjects = subjects.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let user = says("sub").map(|user| format!("X-Sidestream-User: {user}\r\n")).unwrap_or_default();
    let expires = says("exp").map(|time| format!("X-Sidestream-Expires: {time}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Accel-Redirect: /_sidestream/events\r\n{OF_A_FRAMEWORK}\
         X-Sidestream-Subjects: {subjects}\r\n{user}{expires}\r\n"
    )
}
