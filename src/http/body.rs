//! The body of a request, whichever protocol brought it. Only `sidestream dev` reads one; elsewhere it must be empty.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, Incoming};

/// A request as the request path sees it.
pub type Request = hyper::Request<RequestBody>;

/// What follows a request's head.
#[derive(Debug)]
pub enum RequestBody {
    /// HTTP/1.1.
    Http1(Incoming),
    /// HTTP/2.
    Http2(RecvStream),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut *self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(body) => body.poll_data(cx).map(|data| {
                Some(data?.map_err(Into::into).and_then(|data| {
                    // What was read makes room for more.
                    body.flow_control().release_capacity(data.len())?;
                    Ok(Frame::data(data))
                }))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }
}
