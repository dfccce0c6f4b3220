//! HTTP/2 towards an endpoint: many requests on one connection. One of the three places that name the codec.
//!
//! In:  a dialled socket; requests with absolute URIs.
//! Out: responses whose bodies stream. Requests are driven by their own task, not by one per stream.
//!
//! The `h2` crate is used without a client layer above it: that saves a task and two channels per request, and tells exactly which streams
//! a peer has disowned and how many it allows.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Failure;
use super::pool::OpenConnection;
use crate::config::listener::Http2Settings;
use crate::retry::replay::RequestBody;

/// Streams before the peer's SETTINGS say how many it allows.
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// Response heads beyond this are refused. Source: Envoy's `max_response_headers_kb` (60).
const MAX_RESPONSE_HEADER_BYTES: u32 = 60 << 10;

/// One connection of a pool.
#[derive(Debug)]
pub struct Connection {
    sender: RefCell<SendRequest<Bytes>>,
    /// Streams in use.
    open: Cell<usize>,
    requests: Cell<u32>,
    /// Ended, or told to end: takes no new request.
    gone: Cell<bool>,
    idle_since: Cell<Instant>,
    pub local: Option<SocketAddr>,
}

/// Start the codec on a socket; its task ends with the connection.
///
/// # Errors
/// When the peer closes before the preface is written.
pub async fn open(
    stream: TcpStream,
    settings: &Http2Settings,
    opened: Rc<OpenConnection>,
    now: Instant,
) -> Result<Rc<Connection>, Failure> {
    let local = stream.local_addr().ok();
    let (sender, mut connection) = h2::client::Builder::new()
        .initial_window_size(settings.initial_stream_window)
        .initial_connection_window_size(settings.initial_connection_window)
        .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
        .max_header_list_size(MAX_RESPONSE_HEADER_BYTES)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|error| Failure::Terminated(Cow::Owned(error.to_string())))?;
    let ours = Rc::new(Connection {
        sender: RefCell::new(sender),
        open: Cell::new(0),
        requests: Cell::new(0),
        gone: Cell::new(false),
        idle_since: Cell::new(now),
        local,
    });
    // The task must not keep its own connection alive: without senders the codec says goodbye and ends.
    let watched = Rc::downgrade(&ours);
    let pinger = settings.keep_alive_interval.zip(connection.ping_pong());
    let timeout = settings.keep_alive_timeout;
    tokio::task::spawn_local(async move {
        match pinger {
            None => drop(connection.await),
            Some((interval, pings)) => tokio::select! {
                ended = connection => drop(ended),
                () = keep_alive(pings, interval, timeout) => {}
            },
        }
        if let Some(connection) = watched.upgrade() {
            connection.gone.set(true);
        }
        drop(opened);
    });
    Ok(ours)
}

/// Ends when a PING is not answered in time.
async fn keep_alive(mut pings: h2::PingPong, interval: std::time::Duration, timeout: std::time::Duration) {
    loop {
        tokio::time::sleep(interval).await;
        match tokio::time::timeout(timeout, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

impl Connection {
    /// Whether a request may be sent now: the connection lives, and neither side's limit of streams is reached.
    pub fn has_room(&self, limit: u32) -> bool {
        let limit = limit as usize;
        !self.gone.get() && self.open.get() < limit && self.open.get() < self.sender.borrow().current_max_send_streams()
    }

    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Give it no more requests; those in flight finish.
    pub fn retire(&self) {
        self.gone.set(true);
    }

    pub fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// Since when it has no stream; `None` while it has.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.open.get() == 0).then(|| self.idle_since.get())
    }
}

/// A stream in use.
#[derive(Debug)]
struct InUse(Rc<Connection>);

impl InUse {
    fn new(connection: &Rc<Connection>) -> Self {
        connection.open.set(connection.open.get() + 1);
        connection.requests.set(connection.requests.get().saturating_add(1));
        Self(Rc::clone(connection))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let open = self.0.open.get() - 1;
        self.0.open.set(open);
        if open == 0 {
            self.0.idle_since.set(Instant::now());
        }
    }
}

/// Send one request on a connection that has room.
///
/// # Errors
/// Says how far it got: [`Failure::Unsent`] gives the request back.
pub async fn send(connection: &Rc<Connection>, request: Request<RequestBody>) -> Result<Response<ResponseStream>, Failure> {
    let ready = poll_fn(|cx| connection.sender.borrow_mut().poll_ready(cx)).await;
    if ready.is_err() {
        // GOAWAY or closed: this request was never on it.
        connection.retire();
        return Err(Failure::Unsent(Box::new(request)));
    }
    let in_use = InUse::new(connection);
    let (head, body) = request.into_parts();
    let end = body.is_end_stream();
    let sent = connection.sender.borrow_mut().send_request(Request::from_parts(head, ()), end);
    let (mut response, stream) = sent.map_err(|error| failure(&error))?;
    let mut pump = (!end).then(|| Pump { stream, body });
    let response = poll_fn(|cx| {
        if let Some(sending) = &mut pump {
            match sending.poll(cx) {
                Poll::Ready(Ok(())) => pump = None,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        Pin::new(&mut response).poll(cx).map_err(|error| failure(&error))
    })
    .await?;
    if let Some(mut pump) = pump {
        // The response came before the request ended (streaming in both directions): the rest goes on beside it.
        tokio::task::spawn_local(async move {
            let _ = poll_fn(|cx| pump.poll(cx)).await;
        });
    }
    Ok(response.map(|body| ResponseStream { body, data_ended: false, in_use: Some(in_use) }))
}

/// Moves a request's body into its stream.
struct Pump {
    stream: SendStream<Bytes>,
    body: RequestBody,
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            self.stream.reserve_capacity(1);
            if self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(0)) => continue,
                    Some(Ok(_)) => {}
                    // The stream is over; the response says how.
                    Some(Err(_)) | None => return Poll::Ready(Ok(())),
                }
            } else if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => {
                    self.stream.send_reset(h2::Reason::CANCEL);
                    return Poll::Ready(Err(Failure::RequestBody));
                }
                None => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(Ok(()));
                }
            };
            let end = self.body.is_end_stream();
            match frame.into_data() {
                Ok(data) => {
                    if self.stream.send_data(data, end).is_err() || end {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let _ = self.stream.send_trailers(trailers);
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

fn failure(error: &h2::Error) -> Failure {
    // A peer's GOAWAY ends only the streams above its last one.
    if error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)) {
        return Failure::Disowned;
    }
    if error.is_remote() && error.is_reset() {
        return Failure::RemoteReset;
    }
    if error.is_library() || error.is_go_away() {
        return Failure::Protocol(Cow::Owned(error.to_string()));
    }
    Failure::Terminated(Cow::Owned(error.to_string()))
}

/// A response's body. Flow-control credit is given back as data is taken.
#[derive(Debug)]
pub struct ResponseStream {
    body: RecvStream,
    data_ended: bool,
    in_use: Option<InUse>,
}

/// How a body failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFailure {
    /// The peer reset the stream.
    RemoteReset,
    /// The connection ended, or the peer broke the protocol.
    Terminated,
}

impl ResponseStream {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamFailure>>> {
        if !self.data_ended {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = self.body.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.fail(&error)),
                None => self.data_ended = true,
            }
        }
        match ready!(self.body.poll_trailers(cx)) {
            Ok(trailers) => {
                self.in_use = None;
                Poll::Ready(trailers.map(|trailers: HeaderMap| Ok(Frame::trailers(trailers))))
            }
            Err(error) => Poll::Ready(self.fail(&error)),
        }
    }

    fn fail(&mut self, error: &h2::Error) -> Option<Result<Frame<Bytes>, StreamFailure>> {
        self.data_ended = true;
        // NO_ERROR after a complete response means "no more of the request, please".
        if error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) && error.is_reset() {
            return None;
        }
        Some(Err(if error.is_remote() && error.is_reset() { StreamFailure::RemoteReset } else { StreamFailure::Terminated }))
    }

    pub fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
