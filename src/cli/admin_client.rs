//! Requests to the admin listener of a running instance, for the commands that are thin clients of it. Where it is and what its
//! token is comes from the options or from the configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::exit::Exit;
use super::options::ConfigArgs;
use crate::config::{Listen, Secret, load};
use crate::publish::KEY_HEADER;
use crate::text::printable;

/// From dialling to the end of the answer; the listener itself gives a request five seconds.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Far above any answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Which instance, and how it knows us.
#[derive(Debug, Clone, clap::Args)]
pub struct AdminArgs {
    /// Admin listener, host:port or unix:/path [default: admin.listen of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
    /// File with the admin token [default: admin.token_file of the configuration]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// A listener that can be asked.
pub(super) struct Admin {
    at: Where,
    token: Option<Secret>,
}

enum Where {
    Tcp(String),
    Unix(PathBuf),
}

/// Why there is no answer to work with.
pub(super) enum Failed {
    /// Nobody answers.
    Unreachable(String),
    /// Somebody is there, and does not answer in time.
    Late,
    /// It answered no: the status, and what it said.
    Refused(StatusCode, String),
}

impl Failed {
    /// Says it, and how that ends a command.
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Unreachable(why) => {
                super::complain(format_args!("error: the admin listener does not answer: {}", printable(&why)));
                Exit::Unavailable
            }
            Self::Late => {
                super::complain(format_args!(
                    "error: the admin listener does not answer: nothing within {} s",
                    EXCHANGE_TIMEOUT.as_secs()
                ));
                Exit::Unavailable
            }
            Self::Refused(status, said) => {
                super::complain(format_args!(
                    "error: the admin listener says {}: {}",
                    status.as_u16(),
                    printable(&said)
                ));
                match status {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::NoPermission,
                    StatusCode::BAD_REQUEST => Exit::Usage,
                    _ => Exit::Unavailable,
                }
            }
        }
    }
}

impl AdminArgs {
    /// Finds address and token.
    pub(super) fn find(&self) -> Result<Admin, Exit> {
        let named = self.admin.as_deref().map(Where::named);
        let config = match (&named, &self.token_file) {
            (Some(_), Some(_)) => None,
            // Only its token is wanted. Where it cannot be used, the instance says whether a token is needed.
            (Some(_), None) if self.config.is_unnamed() => load::load(&self.config.sources()).ok(),
            _ => Some(self.config.load_or_defaults()?),
        };
        let config = config.map(|loaded| loaded.config.admin);
        let token = match &self.token_file {
            Some(file) => Some(read_token(file)?),
            None => config.as_ref().and_then(|admin| admin.token.clone()),
        };
        let at = match (named, config.map(|admin| admin.listen)) {
            (Some(at), _) => at,
            (None, Some(Listen::Tcp(address))) => Where::Tcp(address.to_string()),
            (None, Some(Listen::Unix(path))) => Where::Unix(path),
            (None, _) => {
                super::complain(format_args!(
                    "error: admin.listen is an inherited socket; say where it is with --admin"
                ));
                return Err(Exit::Usage);
            }
        };
        Ok(Admin { at, token })
    }
}

impl Where {
    fn named(text: &str) -> Self {
        text.strip_prefix("unix:").map_or_else(|| Self::Tcp(text.to_owned()), |path| Self::Unix(path.into()))
    }
}

fn read_token(file: &Path) -> Result<Secret, Exit> {
    std::fs::read(file).map(|bytes| Secret::new(&bytes)).map_err(|error| {
        super::complain(format_args!("error: {}: {error}", file.display()));
        match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NoInput,
            std::io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::Os,
        }
    })
}

impl Admin {
    /// One request, and the JSON of its answer.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Value, Failed> {
        self.answer(self.request(method, path, Bytes::new())?).await
    }

    /// A POST with a body, and with the key by which a repetition is known.
    pub(super) async fn post(&self, path: &str, body: Bytes, key: Option<&str>) -> Result<Value, Failed> {
        let mut request = self.request(Method::POST, path, body)?;
        if let Some(key) = key {
            let key = HeaderValue::from_str(key)
                .map_err(|_| Failed::Unreachable("the key cannot stand in a header".to_owned()))?;
            request.headers_mut().insert(KEY_HEADER, key);
        }
        self.answer(request).await
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Value, Failed> {
        let exchange = async {
            match &self.at {
                Where::Tcp(address) => {
                    self.exchange(TcpStream::connect(address.as_str()).await.map_err(unreachable)?, request).await
                }
                Where::Unix(socket) => {
                    self.exchange(UnixStream::connect(socket).await.map_err(unreachable)?, request).await
                }
            }
        };
        tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await.map_err(|_| Failed::Late)?
    }

    async fn exchange<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<Value, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(unreachable)?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(unreachable)?.to_bytes();
        driver.abort();
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        match value {
            Some(value) if status.is_success() => Ok(value),
            value => {
                let said =
                    value.as_ref().and_then(|value| value.pointer("/error/message").or(value.pointer("/error/code")));
                let said = said.and_then(Value::as_str).map(str::to_owned);
                Err(Failed::Refused(status, said.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned())))
            }
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failed> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| Failed::Unreachable(format!("`{path}` cannot be asked for")))?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_bytes(&[b"Bearer ", token.expose()].concat())
                .map_err(|_| Failed::Unreachable("the token cannot stand in a header".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(request)
    }
}

fn unreachable(error: impl std::fmt::Display) -> Failed {
    Failed::Unreachable(error.to_string())
}
