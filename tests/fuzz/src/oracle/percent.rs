//! Percent-encoding by hand.

/// Decodes `%XX`; `None` where a percent sign has no two hexadecimal digits behind it.
pub fn decode_strictly(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut place = 0;
    while place < text.len() {
        if text[place] == b'%' {
            decoded.push(escaped(text, place)?);
            place += 3;
        } else {
            decoded.push(text[place]);
            place += 1;
        }
    }
    Some(decoded)
}

/// Decodes a form's value: `+` is a space, and a percent sign that begins no escape stands for itself
/// (<https://url.spec.whatwg.org/#percent-decode>).
pub fn decode_form(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut place = 0;
    while place < text.len() {
        match (text[place], escaped(text, place)) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                place += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        place += 1;
    }
    decoded
}

/// Encodes every byte.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

fn escaped(text: &[u8], place: usize) -> Option<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (high, low) = (digit(place + 1)?, digit(place + 2)?);
    u8::try_from(16 * high + low).ok()
}
