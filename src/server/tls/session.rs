//! One TLS session without a socket: the peer's bytes in, plaintext out; plaintext in, records out.
//!
//! rustls' unbuffered API keeps keys and nothing else. Between two calls a session therefore holds what rustls would have:
//! the beginning of a record whose end has not come, and records that have not been sent. Both are freed when empty.
//!
//! After each call rustls has seen everything that came and given everything it wants to send, so that a session which is
//! asked to encrypt can always do so at once.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::{CommonState, ServerConfig};

use super::waiting::Waiting;

/// Plaintext of one record at most, in bytes (RFC 8446 section 5.1).
pub(super) const PLAINTEXT_BYTES_MAX: usize = 1 << 14;
/// One record at most, in bytes: its header, and ciphertext as TLS 1.2 allows it (RFC 5246 section 6.2.3; TLS 1.3 allows
/// less, RFC 8446 section 5.2). rustls refuses the header of a longer one.
pub(super) const RECORD_BYTES_MAX: usize = 5 + PLAINTEXT_BYTES_MAX + 2048;
/// What a peer may have sent of handshake messages that are not complete, in bytes: rustls' own bound for one message.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// A TLS session.
pub(super) struct Session {
    rustls: UnbufferedServerConnection,
    /// The peer's bytes that rustls is not through with. Within [`Session::incoming_bytes_max`].
    incoming: Waiting,
    /// Records that the socket has not taken. At most one of application data: nothing is encrypted behind what waits. Of
    /// rustls' own, the handshake's and what it answers later, which it bounds.
    outgoing: Waiting,
    peer_closed: bool,
    failed: bool,
}

impl Session {
    /// A session that waits for the peer's first message.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let rustls = UnbufferedServerConnection::new(config)?;
        Ok(Self {
            rustls,
            incoming: Waiting::default(),
            outgoing: Waiting::default(),
            peer_closed: false,
            failed: false,
        })
    }

    /// What was agreed with the peer.
    pub fn agreed(&self) -> &CommonState {
        &self.rustls
    }

    /// Whether the peer has said that it sends no more (`close_notify`, RFC 8446 section 6.1).
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// How many bytes [`Session::receive`] takes at most. Never 0.
    pub fn room(&self) -> usize {
        self.incoming_bytes_max() - self.incoming.len()
    }

    /// A record that is complete is never kept, so what fills this is no record. In the handshake one message may take
    /// several records, and all of them stay until its end is there.
    fn incoming_bytes_max(&self) -> usize {
        if self.rustls.is_handshaking() { HANDSHAKE_BYTES_MAX } else { RECORD_BYTES_MAX }
    }

    /// Takes what was read from the peer, which is decrypted in place, and gives plaintext, in order, record by record. After
    /// an error the session is over; the alert that tells the peer waits in [`Session::outgoing`].
    pub fn receive(&mut self, read: &mut [u8], plaintext: impl FnMut(&[u8])) -> Result<(), rustls::Error> {
        if self.failed {
            return Err(rustls::Error::General("the session is over".to_owned()));
        }
        if self.incoming.is_empty() {
            let used = self.process(read, plaintext)?;
            self.incoming.append(&read[used..]);
        } else {
            let mut incoming = std::mem::take(&mut self.incoming);
            incoming.append(read);
            let used = self.process(&mut incoming, plaintext)?;
            incoming.consume(used);
            self.incoming = incoming;
        }
        if self.incoming.len() >= self.incoming_bytes_max() {
            self.failed = true;
            self.incoming = Waiting::default();
            return Err(rustls::Error::PeerSentOversizedRecord);
        }
        Ok(())
    }

    /// Lets rustls work until it wants more from the peer. Gives how many bytes of `input` it is through with.
    fn process(&mut self, input: &mut [u8], mut plaintext: impl FnMut(&[u8])) -> Result<usize, rustls::Error> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.rustls.process_tls_records(&mut input[used..]);
            let blocked = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plaintext(record.payload);
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, &mut self.outgoing);
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It is in order behind everything else that waits, which is all that rustls asks for.
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    false
                }
                // Early data is not offered, so it is never there to be read.
                Ok(_) => true,
                Err(error) => {
                    self.fail(&mut input[used..]);
                    return Err(error);
                }
            };
            used += discard;
            if blocked {
                // What follows close_notify is ignored (RFC 8446 section 6.1).
                return Ok(if self.peer_closed { input.len() } else { used });
            }
        }
    }

    /// Collects the alert for the peer. rustls hands it out before it looks at its input again.
    fn fail(&mut self, input: &mut [u8]) {
        self.failed = true;
        while self.rustls.wants_write() {
            let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(data)), .. } =
                self.rustls.process_tls_records(input)
            else {
                return;
            };
            encode(data, &mut self.outgoing);
        }
    }

    /// Encrypts at most [`PLAINTEXT_BYTES_MAX`] into the front of `sealed`, which grows as needed, behind what rustls itself
    /// has to say: an answer to the peer's KeyUpdate, or a KeyUpdate of our own before the keys have protected as many records
    /// as they may (RFC 8446 sections 4.6.3 and 5.5). Gives the bytes to send. TLS 1.2 cannot change keys: it ends there.
    pub fn encrypt(&mut self, plaintext: &[u8], sealed: &mut BytesMut) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        debug_assert!(self.outgoing.is_empty() && plaintext.len() <= PLAINTEXT_BYTES_MAX);
        let ConnectionState::WriteTraffic(mut traffic) =
            self.rustls.process_tls_records(&mut self.incoming).state.map_err(io::Error::other)?
        else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        into_room(sealed, |room| traffic.encrypt(plaintext, room)).map_err(|error| {
            // rustls has queued close_notify.
            self.fail(&mut []);
            io::Error::other(error)
        })
    }

    /// Queues `close_notify`, once: nothing may be encrypted after it.
    pub fn close(&mut self) {
        if self.failed || self.rustls.is_handshaking() {
            return;
        }
        let state = self.rustls.process_tls_records(&mut self.incoming).state;
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            let mut sealed = BytesMut::new();
            let written = into_room(&mut sealed, |room| traffic.queue_close_notify(room));
            self.outgoing.append(&sealed[..written.unwrap_or(0)]);
        }
    }

    /// Bytes of memory that its buffers take.
    #[cfg(test)]
    pub fn kept_bytes(&self) -> usize {
        self.incoming.memory() + self.outgoing.memory()
    }

    /// What waits to be sent.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// Keeps what the socket did not take of a record.
    pub fn keep(&mut self, rest: &[u8]) {
        self.outgoing.append(rest);
    }

    /// The socket has taken so many bytes of what waited.
    pub fn sent(&mut self, bytes: usize) {
        self.outgoing.consume(bytes);
    }
}

/// Appends a record of rustls' own.
fn encode<Data>(mut data: EncodeTlsData<'_, Data>, outgoing: &mut Waiting) {
    // Nothing fits into no room, but it says how much it needs.
    if let Err(EncodeError::InsufficientSize(error)) = data.encode(&mut []) {
        data.encode(outgoing.append_zeros(error.required_size)).expect("as much room as it asked for");
    }
}

/// Lets rustls write into a buffer, which grows to what it asks for.
fn into_room(
    buffer: &mut BytesMut,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<usize, EncryptError> {
    match write(buffer) {
        Err(EncryptError::InsufficientSize(error)) => {
            buffer.resize(error.required_size, 0);
            write(buffer)
        }
        written => written,
    }
}
