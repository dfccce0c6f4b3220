//! A request as bytes: its head, and its body as far as that has come.
//!
//! In:  a head without hop-by-hop fields, and its body.
//! Out: bytes written to a stream. Until the first of them is written the request can be taken back whole.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, MAX_FORWARDS, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, Method, request};
use http_body::Body;
use smallvec::SmallVec;
use tokio::io::AsyncWrite;

use super::response::parse_lengths;

/// A connection keeps the buffer of its heads up to this size.
const KEPT_LEAD_BYTES: usize = 4 << 10;

/// How the end of a request's body is told.
///
/// Source: RFC 9112, section 6.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body is sent. What the head says of one stays as it is.
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks, and the trailers that the head has announced.
    Chunked(SmallVec<[HeaderName; 2]>),
}

/// A request on its way.
#[derive(Debug)]
pub struct Upload<B> {
    body: B,
    framing: Framing,
    /// Bytes before `data`: the head, or the line of a chunk.
    lead: Vec<u8>,
    /// How much of `lead` is written.
    led: usize,
    data: Bytes,
    tail: &'static [u8],
    /// Of the body nothing is left to be asked for.
    ended: bool,
    /// A byte has been written.
    begun: bool,
    /// What was taken from the body cannot be put back.
    spent: bool,
}

/// Why a request could not be written to its end.
#[derive(Debug)]
pub enum UploadError {
    /// The body broke off.
    Body,
    /// The body was shorter than its head said.
    Short,
    /// The stream takes no more.
    Stream(io::Error),
}

/// How a body is framed: what the head says counts before what the body knows of itself.
fn framing<B: Body>(head: &request::Parts, body: &B) -> Framing {
    if body.is_end_stream() {
        return Framing::None;
    }
    let headers = &head.headers;
    if headers.contains_key(TRANSFER_ENCODING) {
        return Framing::Chunked(announced(headers));
    }
    if let Some(Some(length)) = parse_lengths(headers) {
        return Framing::Length(length);
    }
    match body.size_hint().exact() {
        Some(length) => Framing::Length(length),
        None if head.method == Method::CONNECT => Framing::None,
        None => Framing::Chunked(announced(headers)),
    }
}

/// Trailers that a head announces. Source: RFC 9110, section 6.6.2.
fn announced(headers: &HeaderMap) -> SmallVec<[HeaderName; 2]> {
    let values = headers.get_all(TRAILER).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    values.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

/// Write a head. `Host` comes first: RFC 9112, section 3.2.
fn write_head(out: &mut Vec<u8>, head: &request::Parts, framing: &Framing) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    match head.uri.path_and_query() {
        Some(path) if head.uri.scheme().is_none() && head.uri.authority().is_none() => out.extend_from_slice(path.as_str().as_bytes()),
        // Writing to memory does not fail.
        _ => drop(write!(out, "{}", head.uri)),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut said = false;
    let mut coding: SmallVec<[&[u8]; 2]> = SmallVec::new();
    for host in head.headers.get_all(HOST) {
        write_field(out, HOST.as_str(), host.as_bytes());
    }
    for (name, value) in &head.headers {
        if *name == HOST {
            continue;
        }
        if *name == TRANSFER_ENCODING {
            coding.push(value.as_bytes());
            continue;
        }
        if *name == CONTENT_LENGTH {
            match framing {
                Framing::None => {}
                // One that says nothing understandable is replaced below.
                Framing::Length(_) if matches!(parse_lengths(&head.headers), Some(Some(_))) => said = true,
                Framing::Length(_) | Framing::Chunked(_) => continue,
            }
        }
        write_field(out, name.as_str(), value.as_bytes());
    }
    match framing {
        Framing::None => {}
        Framing::Length(_) if said => {}
        Framing::Length(length) => drop(write!(out, "content-length: {length}\r\n")),
        Framing::Chunked(_) => {
            let chunked = |coding: &&[u8]| {
                let last = coding.rsplit(|byte| *byte == b',').next();
                last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"))
            };
            if !coding.last().is_some_and(chunked) {
                coding.push(b"chunked");
            }
            write_field(out, TRANSFER_ENCODING.as_str(), &coding.join(&b", "[..]));
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Fields that a recipient must not take from trailers. Source: RFC 9110, section 6.5.1.
fn may_trail(name: &HeaderName) -> bool {
    ![
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        HOST,
        MAX_FORWARDS,
        SET_COOKIE,
        TRAILER,
        TRANSFER_ENCODING,
        TE,
    ]
    .contains(name)
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// `lead`: a buffer to use again, with nothing in it.
    pub fn new(head: &request::Parts, body: B, mut lead: Vec<u8>) -> Self {
        let framing = framing(head, &body);
        write_head(&mut lead, head, &framing);
        let ended = matches!(framing, Framing::None | Framing::Length(0));
        Self { body, framing, lead, led: 0, data: Bytes::new(), tail: b"", ended, begun: false, spent: false }
    }

    /// Whether a byte has been written.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// The body, with the piece that was taken from it and not written. `None`: it cannot be made whole.
    pub fn take_back(self) -> Option<(B, Bytes)> {
        (!self.begun && !self.spent).then_some((self.body, self.data))
    }

    /// The buffer of heads, for the next request.
    pub fn into_lead(mut self) -> Vec<u8> {
        self.lead.clear();
        if self.lead.capacity() > KEPT_LEAD_BYTES { Vec::new() } else { self.lead }
    }

    /// Write what there is, a head and the piece of a body that is at hand together. Ready when all of the request is written.
    pub fn poll<S: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<Result<(), UploadError>> {
        loop {
            let through = self.data.is_empty() && self.tail.is_empty() && (self.lead.is_empty() || !self.begun);
            if through
                && !self.ended
                && let Poll::Ready(taken) = self.take(cx)
            {
                taken?;
            }
            if self.lead.is_empty() && self.data.is_empty() && self.tail.is_empty() {
                return if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            ready!(self.poll_flush(cx, stream)).map_err(UploadError::Stream)?;
        }
    }

    /// Take the next piece of the body.
    fn take(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => Some(frame),
                Some(Err(_)) => return Poll::Ready(Err(UploadError::Body)),
                None => None,
            };
            let (data, trailers) = match frame.map(http_body::Frame::into_data) {
                Some(Ok(data)) if data.is_empty() && !self.body.is_end_stream() => continue,
                Some(Ok(data)) => (data, None),
                Some(Err(frame)) => (Bytes::new(), frame.into_trailers().ok()),
                None => (Bytes::new(), None),
            };
            self.spent |= trailers.is_some();
            return Poll::Ready(self.put(data, trailers.as_ref()));
        }
    }

    /// Make a piece ready to be written. An empty one is the end.
    fn put(&mut self, mut data: Bytes, trailers: Option<&HeaderMap>) -> Result<(), UploadError> {
        match &mut self.framing {
            Framing::None => self.ended = true,
            Framing::Length(_) if data.is_empty() => return Err(UploadError::Short),
            Framing::Length(left) => {
                // More than was announced would be the beginning of another request.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                self.ended = *left == 0;
                self.data = data;
            }
            Framing::Chunked(announced) if data.is_empty() => {
                self.ended = true;
                let fields = trailers.into_iter().flatten();
                let mut fields = fields.filter(|(name, _)| announced.contains(name) && may_trail(name)).peekable();
                if fields.peek().is_none() {
                    self.tail = b"0\r\n\r\n";
                } else {
                    self.lead.extend_from_slice(b"0\r\n");
                    for (name, value) in fields {
                        write_field(&mut self.lead, name.as_str(), value.as_bytes());
                    }
                    self.lead.extend_from_slice(b"\r\n");
                }
            }
            Framing::Chunked(_) => {
                drop(write!(self.lead, "{:X}\r\n", data.len()));
                self.data = data;
                self.ended = self.body.is_end_stream();
                self.tail = if self.ended { b"\r\n0\r\n\r\n" } else { b"\r\n" };
            }
        }
        Ok(())
    }

    fn poll_flush<S: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<()>> {
        loop {
            let slices = [IoSlice::new(&self.lead[self.led..]), IoSlice::new(&self.data), IoSlice::new(self.tail)];
            let used = if self.tail.is_empty() { 1 + usize::from(!self.data.is_empty()) } else { 3 };
            let mut written = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..used]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            let of_lead = written.min(self.lead.len() - self.led);
            self.led += of_lead;
            written -= of_lead;
            if self.led == self.lead.len() {
                self.lead.clear();
                self.led = 0;
            }
            let of_data = written.min(self.data.len());
            self.data.advance(of_data);
            self.tail = &self.tail[written - of_data..];
            if self.lead.is_empty() && self.data.is_empty() && self.tail.is_empty() {
                self.data = Bytes::new();
                return Poll::Ready(Ok(()));
            }
        }
    }
}
