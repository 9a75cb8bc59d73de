//! Answers out of the bytes of a connection (RFC 9112), strictly: what we send has no other form.

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// Without chunk framing.
    pub body: Vec<u8>,
    pub is_stream: bool,
    /// An answer to HEAD.
    pub is_bodiless: bool,
    pub closes: bool,
}

/// Everything that was sent. Only a stream may be cut off.
pub fn read(mut bytes: &[u8], may_be_head: bool) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let (mut answer, rest) = head(bytes);
        let of = |name: &str| answer.headers.iter().find(|(theirs, _)| theirs == name).map(|(_, value)| value.as_str());
        let is_event_stream = of("content-type") == Some("text/event-stream");
        let length = of("content-length").map(|length| length.parse::<usize>().expect("a length"));
        answer.closes = of("connection") == Some("close");
        if of("transfer-encoding") == Some("chunked") {
            assert!(answer.status == 200 && is_event_stream && length.is_none() && answer.closes);
            answer.is_stream = true;
            answer.body = chunks(rest);
            bytes = &[];
        } else {
            let length = length.unwrap_or(0);
            let headless = may_be_head && (rest.is_empty() || rest.starts_with(b"HTTP/1."));
            answer.is_bodiless = headless && (length > 0 || is_event_stream);
            let taken = if answer.is_bodiless { 0 } else { length };
            assert!(taken <= rest.len(), "an answer is cut off: {answer:?}");
            let (body, behind) = rest.split_at(taken);
            answer.body = body.to_vec();
            bytes = behind;
        }
        answers.push(answer);
    }
    answers
}

fn head(bytes: &[u8]) -> (Answer, &[u8]) {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head: {}", bytes.escape_ascii()));
    let head = std::str::from_utf8(&bytes[..end]).expect("ASCII");
    let mut lines = head.split("\r\n");
    let status = match lines.next().and_then(|line| line.split_once(' ')) {
        // hyper answers whoever speaks 1.0 in kind.
        Some(("HTTP/1.0", "505 HTTP Version Not Supported")) => 505,
        Some(("HTTP/1.1", status)) => status.get(..3).and_then(|status| status.parse().ok()).unwrap_or(0),
        _ => 0,
    };
    assert!(status > 0, "no status: {head:?}");
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}"));
        (name.to_ascii_lowercase(), value.to_owned())
    });
    let headers: Vec<(String, String)> = headers.collect();
    let mut names: Vec<&String> = headers.iter().map(|(name, _)| name).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a header twice: {head:?}");
    let answer = Answer { status, headers, body: Vec::new(), is_stream: false, is_bodiless: false, closes: false };
    (answer, &bytes[end + 4..])
}

/// Chunks (RFC 9112 section 7.1), the last of which may be missing.
fn chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.unwrap_or_else(|| panic!("no chunk: {}", bytes.escape_ascii()));
        let rest = &bytes[end + 2..];
        if rest.len() < size + 2 {
            return body;
        }
        assert_eq!(&rest[size..size + 2], b"\r\n", "a chunk that does not end");
        body.extend_from_slice(&rest[..size]);
        bytes = &rest[size + 2..];
        if size == 0 {
            assert!(bytes.is_empty(), "something behind the last chunk: {}", bytes.escape_ascii());
        }
    }
    body
}
