//! The HTML standard, section 9.2.6 "Interpreting an event stream", on a whole stream at once.

/// What a reader makes of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub events: Vec<Event>,
    pub last_event_id: String,
    /// Milliseconds; the largest number there is where the stream asked for more.
    pub retry: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
    /// Of the lines since the event before, not of the whole stream.
    pub own_id: Option<String>,
}

/// Reads a stream that ends here: what has no blank line behind it is discarded.
pub fn read(stream: &[u8]) -> Reading {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut blocks: Vec<Vec<&str>> = vec![Vec::new()];
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What no line end follows is no line.
    lines.pop();
    for line in lines {
        match line {
            "" => blocks.push(Vec::new()),
            line => blocks.last_mut().expect("never empty").push(line),
        }
    }
    let mut reading = Reading::default();
    let mut id = String::new();
    let last = blocks.len() - 1;
    for (place, block) in blocks.iter().enumerate() {
        let fields: Vec<(&str, &str)> = block.iter().map(|line| field(line)).collect();
        if let Some(retry) = fields.iter().filter_map(|(name, value)| retry(name, value)).next_back() {
            reading.retry = Some(retry);
        }
        if place == last {
            break;
        }
        let own_id =
            fields.iter().rev().find(|(name, value)| *name == "id" && !value.contains('\0')).map(|(_, id)| *id);
        if let Some(own) = own_id {
            id = own.to_owned();
        }
        reading.last_event_id.clone_from(&id);
        let data: Vec<&str> = fields.iter().filter(|(name, _)| *name == "data").map(|(_, value)| *value).collect();
        if data.is_empty() {
            continue;
        }
        let name = fields.iter().rev().find(|(name, _)| *name == "event").map_or("", |(_, value)| *value);
        reading.events.push(Event {
            name: if name.is_empty() { "message" } else { name }.to_owned(),
            data: data.join("\n"),
            own_id: own_id.map(str::to_owned),
        });
    }
    reading
}

fn field(line: &str) -> (&str, &str) {
    match line.find(':') {
        // A comment.
        Some(0) => ("", ""),
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(' ').unwrap_or(value))
        }
        None => (line, ""),
    }
}

fn retry(name: &str, value: &str) -> Option<u64> {
    let digits = name == "retry" && !value.is_empty() && value.chars().all(|c| c.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}
