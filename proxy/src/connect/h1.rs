//! HTTP/1.1 towards an endpoint. One of the three places that name the codec.
//!
//! In:  a dialled socket; one request at a time.
//! Out: a response whose body streams; the sender is usable again when that body has ended.
//!
//! The codec is our own: whoever waits for the response drives the exchange. A connection has no task, and a request no channel; only the
//! rest of a request whose response came early is sent by a task, because nobody may be waiting then.

mod decode;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::CONNECTION;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::decode::{Decoded, Decoder};
use self::request::{Upload, UploadError};
use self::response::{BodyEnd, Head};
use super::Failure;
use super::pool::OpenConnection;
use crate::retry::replay::RequestBody;

/// Room for the first read of an exchange.
const FIRST_READ_BYTES: usize = 8 << 10;
/// Room for a read when bytes keep coming.
const MOST_READ_BYTES: usize = 256 << 10;

/// One connection, free to send.
#[derive(Debug)]
pub struct Sender {
    wire: Rc<RefCell<Wire>>,
    /// When it became free.
    pub since: Instant,
    /// Requests sent so far.
    pub requests: u32,
    pub local: Option<SocketAddr>,
}

/// A connection, shared by its sender and the body that is read from it. It closes with the last of them.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    /// Heads of requests are written from here.
    lead: Vec<u8>,
    /// Bytes of a response whose head is not complete, or room for those of its body. Given back when the exchange ends.
    buffer: BytesMut,
    /// Bytes of `buffer` that are known to hold no complete head.
    seen: usize,
    /// Bytes read and not yet taken.
    input: Bytes,
    /// Room for the next read.
    room: usize,
    /// A response is being waited for or read.
    busy: bool,
    /// Not all of the request is written.
    sending: bool,
    keep_alive: bool,
    /// The request broke off behind the response's head.
    aborted: bool,
    /// Whom to tell of that.
    reader: Option<Waker>,
    _opened: Rc<OpenConnection>,
}

/// Start the codec on a socket.
pub fn open(stream: TcpStream, opened: Rc<OpenConnection>, now: Instant) -> Sender {
    let local = stream.local_addr().ok();
    let wire = Wire {
        stream,
        lead: Vec::new(),
        buffer: BytesMut::new(),
        seen: 0,
        input: Bytes::new(),
        room: FIRST_READ_BYTES,
        busy: false,
        sending: false,
        keep_alive: true,
        aborted: false,
        reader: None,
        _opened: opened,
    };
    Sender { wire: Rc::new(RefCell::new(wire)), since: now, requests: 0, local }
}

impl Sender {
    /// Whether it cannot take a request: its exchange has not ended cleanly, or the peer has closed it or said something unasked.
    ///
    /// The peer's part costs a system call only when the reactor has reported something.
    pub fn is_closed(&self) -> bool {
        self.wire.borrow().is_closed()
    }

    /// Send one request. Dropping this midway closes the connection.
    ///
    /// A connection that the peer has closed is not written to: the reactor, which has just reported the downstream's bytes, has reported
    /// an EOF that came before them too.
    ///
    /// # Errors
    /// Says how far it got: [`Failure::Unsent`] gives the request back.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Body>, Failure> {
        self.requests += 1;
        if self.is_closed() {
            return Err(Failure::Unsent(Box::new(request)));
        }
        let (head, body) = request.into_parts();
        let lead = self.wire.borrow_mut().begin(&head.headers);
        let mut upload = Some(Upload::new(&head, body, lead));
        let mut refused = None;
        let answered = poll_fn(|cx| {
            let wire = &mut *self.wire.borrow_mut();
            if let (Some(sending), None) = (&mut upload, &refused) {
                match sending.poll(cx, &mut wire.stream) {
                    Poll::Pending if sending.has_begun() => {}
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => upload.take().into_iter().for_each(|upload| wire.sent(upload)),
                    Poll::Ready(Err(UploadError::Body)) => return Poll::Ready(Err(Failure::RequestBody)),
                    Poll::Ready(Err(UploadError::Short)) => return Poll::Ready(Err(Failure::Terminated(Cow::Borrowed("")))),
                    Poll::Ready(Err(UploadError::Stream(error))) => {
                        let begun = sending.has_begun();
                        let error = refused.insert(error);
                        if !begun {
                            return Poll::Ready(Err(terminated(error)));
                        }
                        // A peer that takes no more may have said why.
                    }
                }
            }
            wire.poll_head(cx, &head.method)
        })
        .await;
        match (answered, upload, refused) {
            (Ok(answer), Some(upload), None) => self.accept(answer, Some(upload)),
            (Ok(answer), _, _) => self.accept(answer, None),
            (Err(failure), Some(upload), Some(error)) => Err(match (upload.take_back(), failure) {
                (Some((mut body, data)), _) => {
                    body.unread(data);
                    Failure::Unsent(Box::new(Request::from_parts(head, body)))
                }
                (None, Failure::Terminated(_)) => terminated(&error),
                (None, failure) => failure,
            }),
            (Err(failure), _, _) => Err(failure),
        }
    }

    /// A response's head is there. `upload`: what is left of the request.
    fn accept(&self, head: Head, upload: Option<Upload<RequestBody>>) -> Result<Response<Body>, Failure> {
        let upgrade = head.body == BodyEnd::Upgrade;
        if upgrade && self.wire.borrow().sending {
            return Err(Failure::Protocol(Cow::Borrowed("an upgrade before the request's end")));
        }
        let decoder = Decoder::new(head.body);
        {
            let wire = &mut *self.wire.borrow_mut();
            wire.input = head.rest;
            wire.keep_alive &= head.keep_alive;
            if decoder.has_ended() && !upgrade {
                wire.end();
            }
        }
        let wire = (upgrade || !decoder.has_ended()).then(|| Rc::clone(&self.wire));
        // The response came before the request ended: the rest goes on beside it.
        let upload = upload.map(|upload| tokio::task::spawn_local(pump(Rc::clone(&self.wire), upload)));
        Ok(Response::from_parts(head.parts, Body { wire, decoder, upload }))
    }
}

fn terminated(error: &io::Error) -> Failure {
    Failure::Terminated(Cow::Owned(error.to_string()))
}

/// Send the rest of a request.
async fn pump(wire: Rc<RefCell<Wire>>, mut upload: Upload<RequestBody>) {
    let sent = poll_fn(|cx| upload.poll(cx, &mut wire.borrow_mut().stream)).await;
    let wire = &mut *wire.borrow_mut();
    match sent {
        Ok(()) => wire.sent(upload),
        Err(UploadError::Body | UploadError::Short) => {
            wire.aborted = true;
            if let Some(reader) = wire.reader.take() {
                reader.wake();
            }
        }
        // The response may be whole all the same.
        Err(UploadError::Stream(_)) => {}
    }
}

impl Wire {
    fn is_closed(&self) -> bool {
        if self.busy || self.sending || !self.keep_alive {
            return true;
        }
        let peeked = self.stream.try_read(&mut [0]);
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// A request is about to be written: the buffer for its head.
    fn begin(&mut self, headers: &HeaderMap) -> Vec<u8> {
        self.busy = true;
        self.sending = true;
        self.keep_alive = !headers.get_all(CONNECTION).iter().any(|value| response::has_word(value, b"close"));
        std::mem::take(&mut self.lead)
    }

    /// All of the request is written.
    fn sent(&mut self, upload: Upload<RequestBody>) {
        self.sending = false;
        self.lead = upload.into_lead();
    }

    /// The response has ended. What follows it was not asked for.
    fn end(&mut self) {
        self.busy = false;
        self.keep_alive &= self.input.is_empty() && self.buffer.is_empty();
        self.input = Bytes::new();
        self.buffer = BytesMut::new();
        self.seen = 0;
        self.room = FIRST_READ_BYTES;
        self.reader = None;
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Head, Failure>> {
        loop {
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(Failure::Terminated(Cow::Borrowed("")))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(terminated(&error))),
            }
            match response::parse(&mut self.buffer, &mut self.seen, method) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(Failure::Protocol(Cow::Owned(error.to_string())))),
            }
        }
    }

    /// Read into `buffer`. Nothing read is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            // Who waits needs no room yet.
            ready!(self.stream.poll_read_ready(cx))?;
            if self.buffer.capacity() < self.room / 2 {
                // A new one, because one that grows may double.
                self.buffer = BytesMut::with_capacity(self.room);
            }
        } else if self.buffer.capacity() - self.buffer.len() < self.room / 2 {
            self.buffer.reserve(self.room);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = ready!(pin!(self.stream.read_buf(&mut self.buffer)).poll(cx))?;
        if read == room {
            self.room = (self.room * 2).min(MOST_READ_BYTES);
        } else if read < self.room / 4 {
            self.room = (self.room / 2).max(FIRST_READ_BYTES);
        }
        Poll::Ready(Ok(read))
    }
}

/// A response's body, read as it is asked for. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct Body {
    /// `None` when it has ended.
    wire: Option<Rc<RefCell<Wire>>>,
    decoder: Decoder,
    /// Sends what is left of the request.
    upload: Option<JoinHandle<()>>,
}

/// How a body failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// It ended before its announced end, or is no HTTP.
    Protocol,
    /// The connection was reset, or the request broke off.
    Terminated,
}

impl Body {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(wire) = &self.wire else { return Poll::Ready(None) };
        let polled = ready!(wire.borrow_mut().poll_body(cx, &mut self.decoder, self.upload.is_some()));
        if polled.is_err() {
            self.wire = None;
        } else if self.decoder.has_ended() {
            wire.borrow_mut().end();
            self.wire = None;
        }
        Poll::Ready(polled.transpose())
    }

    pub fn is_end_stream(&self) -> bool {
        self.wire.is_none()
    }

    pub fn size_hint(&self) -> SizeHint {
        match (&self.wire, &self.decoder) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Decoder::Length(left)) => SizeHint::with_exact(*left),
            (Some(_), _) => SizeHint::default(),
        }
    }

    /// After a 101: the connection, as it goes on.
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        if !self.decoder.has_ended() {
            return None;
        }
        self.wire.take().map(Tunnel)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

impl Wire {
    /// `None`: the end. `twofold`: the request is still being sent.
    fn poll_body(&mut self, cx: &mut Context<'_>, decoder: &mut Decoder, twofold: bool) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        loop {
            match decoder.decode(&mut self.input) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Ok(Some(Frame::trailers(trailers)))),
                Ok(Decoded::End) => return Poll::Ready(Ok(None)),
                Ok(Decoded::More) => {}
                Err(decode::Malformed) => return Poll::Ready(Err(BodyError::Protocol)),
            }
            if self.aborted {
                return Poll::Ready(Err(BodyError::Terminated));
            }
            if twofold {
                self.reader = Some(cx.waker().clone());
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if decoder.ends_here() => return Poll::Ready(Ok(None)),
                Ok(0) => return Poll::Ready(Err(BodyError::Protocol)),
                Ok(_) => self.input = self.buffer.split().freeze(),
                Err(_) => return Poll::Ready(Err(BodyError::Terminated)),
            }
        }
    }
}

/// A connection that has stopped being HTTP. Bytes that came with the response are read first.
#[derive(Debug)]
pub struct Tunnel(Rc<RefCell<Wire>>);

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.0.borrow_mut();
        if wire.input.is_empty() {
            return Pin::new(&mut wire.stream).poll_read(cx, buffer);
        }
        let length = wire.input.len().min(buffer.remaining());
        buffer.put_slice(&wire.input[..length]);
        wire.input.advance(length);
        if wire.input.is_empty() {
            wire.input = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_shutdown(cx)
    }
}
