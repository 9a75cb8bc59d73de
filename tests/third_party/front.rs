//! What stands between the clients and the sidecar, as nginx would: it says who the user is, in its own words, and passes on nothing
//! else that a client sent but the cursor. On request it cuts, holds everybody back, or answers something else; it keeps a record.
//!
//! A client asks for `/NAME`, and is the user NAME.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// To the sidecar; where none is there, the connection ends without an answer.
    Through,
    /// To the sidecar, with this for a cursor.
    Astray(&'static str),
    /// To the sidecar, with an identity that lasts for some seconds only.
    Briefly(Duration),
    /// To the sidecar, without an identity.
    Anonymous,
    /// It waits for another way.
    Barred,
    /// Nowhere: the connection ends without an answer.
    Nowhere,
    /// Answered here by these bytes, and then left open.
    Canned(String),
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Attempt {
    /// Whose it is.
    pub user: String,
    /// The reason of a soft refusal.
    pub refused: Option<String>,
}

/// The front. Dropping it closes every connection.
pub struct Front {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    upstream: Mutex<String>,
    way: watch::Sender<Way>,
    cut: broadcast::Sender<()>,
    attempts: Mutex<Vec<Attempt>>,
}

impl Front {
    /// Listens.
    pub async fn start(way: Way) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared {
            upstream: Mutex::default(),
            way: watch::Sender::new(way),
            cut: broadcast::Sender::new(1),
            attempts: Mutex::default(),
        });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&of_task)));
            }
        });
        Self { port, shared, task }
    }

    /// Where the sidecar is from now on.
    pub fn leads_to(&self, upstream: &str) {
        upstream.clone_into(&mut self.shared.upstream.lock().expect("no holder panics"));
    }

    /// What becomes of requests from now on, those that wait among them.
    pub fn goes(&self, way: Way) {
        self.shared.way.send_replace(way);
    }

    /// Resets every connection.
    pub fn cut(&self) {
        let _ = self.shared.cut.send(());
    }

    /// Looks at every request so far.
    pub fn attempts<T>(&self, look: impl FnOnce(&[Attempt]) -> T) -> T {
        look(&self.shared.attempts.lock().expect("no holder panics"))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

/// Takes one request to its end, or to the cut.
async fn serve(mut near: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.cut.subscribe();
    tokio::select! {
        _ = answer(&mut near, &shared) => {}
        _ = cut.recv() => near.set_zero_linger().expect("our own socket"),
    }
}

async fn answer(near: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    let Some(asked) = read_head(near).await? else { return Ok(()) };
    let (user, cursor) = understood(&asked);
    let number = {
        let mut attempts = shared.attempts.lock().expect("no holder panics");
        attempts.push(Attempt { user: user.clone(), refused: None });
        attempts.len() - 1
    };
    let mut ways = shared.way.subscribe();
    let way = ways.wait_for(|way| *way != Way::Barred).await.expect("the front lives").clone();
    match way {
        Way::Nowhere => return Ok(()),
        Way::Canned(bytes) => {
            near.write_all(bytes.as_bytes()).await?;
            // What else comes on this connection is nobody's business, until its end.
            tokio::io::copy(near, &mut tokio::io::sink()).await?;
            return Ok(());
        }
        Way::Through | Way::Astray(_) | Way::Briefly(_) | Way::Anonymous | Way::Barred => {}
    }
    let upstream = shared.upstream.lock().expect("no holder panics").clone();
    let mut far = TcpStream::connect(upstream).await?;
    far.write_all(request(&way, &user, cursor).as_bytes()).await?;
    let Some(head) = read_head(&mut far).await? else { return Ok(()) };
    shared.attempts.lock().expect("no holder panics")[number].refused = header(&head, "sidestream-refused");
    near.write_all(head.as_bytes()).await?;
    tokio::io::copy_bidirectional(near, &mut far).await?;
    Ok(())
}

/// What the sidecar is asked in a client's place.
fn request(way: &Way, user: &str, cursor: Option<String>) -> String {
    let cursor = if let Way::Astray(cursor) = way { Some((*cursor).to_owned()) } else { cursor };
    // One request for each connection: what came behind it would be passed on as it is.
    let mut request = "GET /events HTTP/1.1\r\nHost: sidestream\r\nConnection: close\r\n".to_owned();
    request += "Accept: text/event-stream\r\n";
    if *way != Way::Anonymous {
        request += &format!("X-Forwarded-User: {user}\r\n");
    }
    if let Some(cursor) = cursor {
        request += &format!("Last-Event-ID: {cursor}\r\n");
    }
    if let Way::Briefly(lasts) = way {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        request += &format!("X-Auth-Expires: {}\r\n", (now + *lasts).as_secs());
    }
    request + "\r\n"
}

/// Who asks, and from where on. Every client says what it wants to hear: without it, soft refusals are none.
fn understood(head: &str) -> (String, Option<String>) {
    assert_eq!(header(head, "accept").as_deref(), Some("text/event-stream"), "{head}");
    let target = head.split(' ').nth(1).expect("a request line");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let of_query = query.strip_prefix("last_event_id=").map(str::to_owned);
    (path.trim_start_matches('/').to_owned(), header(head, "last-event-id").or(of_query))
}

/// The head of a request or an answer with its blank line; `None` where the other side is gone before.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8(head).expect("ASCII")))
}

/// A header's value, empty or not.
fn header(head: &str, name: &str) -> Option<String> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(field, _)| field.eq_ignore_ascii_case(name))?;
    Some(value.trim().to_owned())
}
