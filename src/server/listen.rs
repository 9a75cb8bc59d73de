//! Binding: TCP, unix sockets, and sockets inherited from systemd.
//!
//! Every shard gets a listener of its own: for TCP by `SO_REUSEPORT`, so that the kernel spreads connections; for unix and
//! inherited sockets by duplicating the descriptor, so that whichever shard is free takes the next. Options set on a TCP
//! listener are inherited by its connections.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::{Admin, Listen};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Access to a unix socket: its owner and group.
const UNIX_MODE: u32 = 0o660;
/// The bit of a mode by which everybody may connect.
const OTHERS_WRITE: u32 = 0o002;
/// Unacknowledged or unaccepted data for this long ends a TCP connection: a backstop behind our own eviction, and the
/// only thing that notices a peer that vanished while data was on its way. With a heartbeat every 15 s, which is then that
/// data, such a peer is gone within 45 s whenever it vanished; the kernel looks only when it sends again, some seconds late.
/// A stream that is blocked goes without it ([`super::socket::Transport::set_user_timeout`]).
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(25);

/// A bound listener, not yet on any runtime.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

impl Bound {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(tcp) => Self::Tcp(tcp.try_clone()?),
            Self::Unix(unix) => Self::Unix(unix.try_clone()?),
        })
    }
}

/// The listeners of one configured address, one for each shard.
#[derive(Debug)]
pub struct Group {
    /// Where it really listens.
    pub address: Address,
    /// One for each shard.
    pub listeners: Vec<Bound>,
}

/// Where a listener really listens, port included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The operating system refused.
    #[error("cannot listen on {0}: {1}")]
    Bind(String, #[source] io::Error),
    /// systemd gave no such socket.
    #[error("systemd passed no socket named `{0}`; it passed: {1}")]
    NotInherited(String, String),
    /// Somebody answers there.
    #[error("cannot listen on {0}: another process is listening there")]
    InUse(String),
    /// Whose mode lets everybody connect (requirement R8).
    #[error("cannot listen on {0}: every user of this machine may connect to {1} (mode {2:o}); set SocketMode=0660")]
    OpenToAll(String, PathBuf, u32),
    /// Anybody could read what is for operators.
    #[error("cannot listen on {0}: {1}, and there is no admin.token_file")]
    AdminInPublic(String, &'static str),
}

/// Sockets inherited from systemd, by name. Read once, before any thread starts.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, Bound)>);

impl Inherited {
    /// Takes what `LISTEN_FDS` and `LISTEN_FDNAMES` announce; sockets that are no stream listeners are left alone.
    pub fn take() -> Self {
        let names: Vec<String> =
            sd_notify::listen_fds_with_names().map(|fds| fds.map(|(_, name)| name).collect()).unwrap_or_default();
        let mut fds = listenfd::ListenFd::from_env();
        let mut listener = |index| match fds.take_tcp_listener(index) {
            Ok(Some(tcp)) => Some(Bound::Tcp(tcp)),
            _ => fds.take_unix_listener(index).ok().flatten().map(Bound::Unix),
        };
        Self(names.into_iter().enumerate().filter_map(|(index, name)| Some((name, listener(index)?))).collect())
    }

    fn find(&self, name: &str) -> Result<&Bound, ListenError> {
        self.0.iter().find(|(theirs, _)| theirs == name).map(|(_, bound)| bound).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            ListenError::NotInherited(name.to_owned(), names)
        })
    }
}

/// Refuses an admin listener that others than this machine's operators can reach and that asks for no token. The configuration
/// tells that of addresses; where an inherited socket is bound is known only now.
pub fn admin_is_private(admin: &Admin, bound: &Address) -> Result<(), ListenError> {
    let open = match bound {
        _ if admin.token.is_some() => return Ok(()),
        Address::Tcp(address) if !address.ip().is_loopback() => "it can be reached from other machines",
        // No path: abstract, without owner and mode.
        Address::Unix(path) if path.as_os_str().is_empty() => "every user of this machine may connect to it",
        _ => return Ok(()),
    };
    let name = match &admin.listen {
        Listen::Systemd(name) => format!("systemd:{name} ({bound})"),
        _ => bound.to_string(),
    };
    Err(ListenError::AdminInPublic(name, open))
}

/// Binds an address for so many shards. `unsent` is `TCP_NOTSENT_LOWAT` in bytes.
pub fn bind(listen: &Listen, shards: usize, unsent: u32, inherited: &Inherited) -> Result<Group, ListenError> {
    match listen {
        Listen::Tcp(address) => bind_tcp(*address, shards, unsent),
        Listen::Unix(path) => {
            let name = format!("unix:{}", path.display());
            let first = bind_unix(path, &name)?;
            spread(Bound::Unix(first), Address::Unix(path.clone()), shards).map_err(|e| ListenError::Bind(name, e))
        }
        Listen::Systemd(name) => {
            let bound = inherited.find(name)?;
            let name = format!("systemd:{name}");
            closed_to_others(bound, &name)?;
            inherit(bound, shards, unsent).map_err(|e| ListenError::Bind(name, e))
        }
    }
}

fn bind_tcp(address: SocketAddr, shards: usize, unsent: u32) -> Result<Group, ListenError> {
    let failed = |e| ListenError::Bind(address.to_string(), e);
    // Without this probe SO_REUSEPORT would share the port with a process of the same user that already has it.
    if address.port() != 0 {
        tcp_socket(address, false).map_err(failed)?;
    }
    let first = tcp_socket(address, true).map_err(failed)?;
    let actual = first.local_addr().map_err(failed)?;
    let mut listeners = vec![first];
    for _ in 1..shards {
        listeners.push(tcp_socket(actual, true).map_err(failed)?);
    }
    for listener in &listeners {
        set_tcp_options(&SockRef::from(listener), unsent).map_err(failed)?;
        // Only now, so that no connection is accepted before the options are set.
        SockRef::from(listener).listen(BACKLOG).map_err(failed)?;
    }
    Ok(Group { address: Address::Tcp(actual), listeners: listeners.into_iter().map(Bound::Tcp).collect() })
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn set_tcp_options(socket: &SockRef<'_>, unsent: u32) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(unsent)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(5)).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

fn bind_unix(path: &Path, name: &str) -> Result<UnixListener, ListenError> {
    let failed = |e| ListenError::Bind(name.to_owned(), e);
    // A socket left behind by a process that is gone is replaced; nothing else is.
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Ok(_) => return Err(ListenError::InUse(name.to_owned())),
            // Such as permission denied: somebody else's, who may well listen.
            Err(error) => return Err(failed(error)),
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(failed)?;
    let address = socket2::SockAddr::unix(path).map_err(failed)?;
    socket.bind(&address).map_err(failed)?;
    // Nobody can connect before `listen`, so the mode is never wider than this for anyone.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(UNIX_MODE)).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    Ok(socket.into())
}

/// Refuses a unix socket that others than its owner and group may connect to, for which writing is enough (unix(7)).
fn closed_to_others(bound: &Bound, name: &str) -> Result<(), ListenError> {
    let Bound::Unix(unix) = bound else { return Ok(()) };
    let address = unix.local_addr().map_err(|e| ListenError::Bind(name.to_owned(), e))?;
    // One without a path is abstract, and has no mode: anybody may connect, and only `trust.peer_uids` tells who.
    let Some(path) = address.as_pathname() else { return Ok(()) };
    let mode = std::fs::metadata(path).map_err(|e| ListenError::Bind(name.to_owned(), e))?.permissions().mode() & 0o777;
    if mode & OTHERS_WRITE == 0 { Ok(()) } else { Err(ListenError::OpenToAll(name.to_owned(), path.to_owned(), mode)) }
}

fn inherit(bound: &Bound, shards: usize, unsent: u32) -> io::Result<Group> {
    let address = match bound {
        Bound::Tcp(tcp) => {
            tcp.set_nonblocking(true)?;
            set_tcp_options(&SockRef::from(tcp), unsent)?;
            Address::Tcp(tcp.local_addr()?)
        }
        Bound::Unix(unix) => {
            unix.set_nonblocking(true)?;
            Address::Unix(unix.local_addr()?.as_pathname().map(Path::to_path_buf).unwrap_or_default())
        }
    };
    spread(bound.try_clone()?, address, shards)
}

/// The same listening socket for every shard.
fn spread(first: Bound, address: Address, shards: usize) -> io::Result<Group> {
    let mut listeners = (1..shards).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
    listeners.push(first);
    Ok(Group { address, listeners })
}
