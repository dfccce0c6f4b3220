//! HTTP/1.1 towards an endpoint. One of the three places that name the codec.
//!
//! In:  a dialled socket; one request at a time.
//! Out: a response whose body streams; the sender is usable again when that body has ended.

use std::borrow::Cow;
use std::error::Error as _;
use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Failure;
use super::pool::OpenConnection;
use crate::http::check;
use crate::http::server::Incoming;
use crate::retry::replay::RequestBody;

/// Response heads beyond this are a protocol error. Source: Envoy's `max_response_headers_kb` (60).
const MAX_RESPONSE_HEADER_BYTES: usize = 60 << 10;
/// One connection, free to send.
#[derive(Debug)]
pub struct Sender {
    inner: http1::SendRequest<RequestBody>,
    /// When it became free.
    pub since: Instant,
    /// Requests sent so far.
    pub requests: u32,
    pub local: Option<SocketAddr>,
}

/// Start the codec on a socket; its task ends with the connection.
pub async fn open(stream: TcpStream, opened: Rc<OpenConnection>, now: Instant) -> Result<Sender, Failure> {
    let local = stream.local_addr().ok();
    let handshake =
        http1::Builder::new().max_header_size(MAX_RESPONSE_HEADER_BYTES).handshake::<_, RequestBody>(TokioIo::new(stream)).await;
    let (inner, connection) = handshake.map_err(|error| Failure::Terminated(Cow::Owned(error.to_string())))?;
    tokio::task::spawn_local(async move {
        // How it ended is told to the request in flight, if any.
        let _ = connection.with_upgrades().await;
        drop(opened);
    });
    Ok(Sender { inner, since: now, requests: 0, local })
}

impl Sender {
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Wait until the codec has finished the exchange before; `false` when the connection is gone.
    pub async fn ready(&mut self) -> bool {
        self.inner.is_ready() || self.inner.ready().await.is_ok()
    }

    /// Send one request.
    ///
    /// A connection that the peer has closed is not written to: the codec reads before it takes a request, and the reactor, which has just
    /// reported the downstream's bytes, has reported an EOF that came before them too.
    ///
    /// # Errors
    /// Says how far it got: [`Failure::Unsent`] gives the request back.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, Failure> {
        self.requests += 1;
        match self.inner.try_send_request(request).await {
            Ok(response) if is_ambiguous(response.headers()) => {
                Err(Failure::Protocol(Cow::Borrowed("a transfer coding that is not `chunked` alone, or a length beside it")))
            }
            Ok(response) => Ok(response),
            Err(mut refused) => Err(match refused.take_message() {
                Some(request) => Failure::Unsent(Box::new(request)),
                None => failure(&refused.into_error()),
            }),
        }
    }
}

/// Whether a response can be read in two ways, or its body is in a coding that passing it on would lose.
///
/// Source: RFC 9112, section 6.1; Envoy refuses the same.
fn is_ambiguous(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) && (headers.contains_key(CONTENT_LENGTH) || !check::is_chunked(headers))
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::Protocol(Cow::Owned(error.to_string()));
    }
    if error.is_user() && !error.is_body_write_aborted() {
        return Failure::RequestBody;
    }
    match error.source() {
        Some(source) => Failure::Terminated(Cow::Owned(source.to_string())),
        None => Failure::Terminated(Cow::Borrowed("")),
    }
}
