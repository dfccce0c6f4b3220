//! A response's head, read from bytes. No I/O.
//!
//! In:  bytes as they come, and the method that was asked with.
//! Out: head, how its body ends, whether the connection may be used again; or why the bytes are no response.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, response};
use hyper::ext::ReasonPhrase;
use smallvec::SmallVec;

use crate::http::check;

/// Response heads beyond this are a protocol error. Source: Envoy's `max_response_headers_kb` (60).
pub const MAX_HEAD_BYTES: usize = 60 << 10;
/// Fields of a head or of trailers. Source: Envoy's `max_headers_count` (100).
pub const MAX_FIELDS: usize = 100;

/// A complete head.
#[derive(Debug)]
pub struct Head {
    pub parts: response::Parts,
    pub body: BodyEnd,
    /// By version and `Connection`: RFC 9112, section 9.3.
    pub keep_alive: bool,
    /// Bytes behind it.
    pub rest: Bytes,
}

/// Where a response's body ends. Source: RFC 9112, section 6.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// There is none.
    None,
    Length(u64),
    Chunked,
    Close,
    /// What follows is no HTTP.
    Upgrade,
}

/// Why bytes are no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("invalid HTTP version parsed")]
    Version,
    #[error("invalid HTTP status-code parsed")]
    Status,
    #[error("invalid HTTP header parsed")]
    Field,
    #[error("invalid content-length parsed")]
    Length,
    #[error("unexpected transfer-encoding parsed")]
    TransferEncoding,
    #[error("a transfer coding that is not `chunked` alone, or a length beside it")]
    Ambiguous,
    #[error("message head is too large")]
    TooLarge,
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::Version => Self::Version,
            httparse::Error::Status => Self::Status,
            httparse::Error::TooManyHeaders => Self::TooLarge,
            httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine | httparse::Error::Token => Self::Field,
        }
    }
}

/// Read a head from `buffer`, passing over interim responses. `None`: more bytes are needed.
///
/// `seen`: bytes of `buffer` that were looked at in vain; it is kept from call to call and begins with 0.
///
/// # Errors
/// When the bytes are no response, or one that can be read in two ways.
pub fn parse(buffer: &mut BytesMut, seen: &mut usize, method: &Method) -> Result<Option<Head>, HeadError> {
    while !buffer.is_empty() && (*seen == 0 || may_be_complete(buffer, *seen)) {
        match parse_one(buffer, method)? {
            One::Final(head) => return Ok(Some(head)),
            One::Interim(length) => {
                buffer.advance(length);
                *seen = 0;
            }
            One::Partial => break,
        }
    }
    if buffer.len() >= MAX_HEAD_BYTES {
        return Err(HeadError::TooLarge);
    }
    *seen = buffer.len();
    Ok(None)
}

/// Whether the empty line that ends a head may have come with the bytes behind `seen`: a head that trickles in is not read anew each time.
fn may_be_complete(bytes: &[u8], seen: usize) -> bool {
    let bytes = &bytes[seen.saturating_sub(3)..];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        rest = &rest[at + 1..];
        if rest.starts_with(b"\n") || rest.starts_with(b"\r\n") {
            return true;
        }
    }
    false
}

/// What the first head of a buffer is.
#[allow(clippy::large_enum_variant)] // The large variant is the frequent one; a box would cost each response an allocation.
enum One {
    Final(Head),
    Interim(usize),
    Partial,
}

/// Where a field is in its head.
struct Place {
    name: HeaderName,
    from: usize,
    to: usize,
}

fn parse_one(buffer: &mut BytesMut, method: &Method) -> Result<One, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let read = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields)?;
    let httparse::Status::Complete(length) = read else { return Ok(One::Partial) };
    if length > MAX_HEAD_BYTES {
        return Err(HeadError::TooLarge);
    }
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| HeadError::Status)?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(One::Interim(length));
    }
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let reason = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let base = buffer.as_ptr().addr();
    let mut places: SmallVec<[Place; 24]> = SmallVec::new();
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Field)?;
        let from = field.value.as_ptr().addr() - base;
        places.push(Place { name, from, to: from + field.value.len() });
    }

    let bytes = std::mem::take(buffer).freeze();
    let mut facts = Facts { keep_alive: version == Version::HTTP_11, ..Facts::default() };
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.headers.reserve(places.len());
    for Place { name, from, to } in places {
        // An empty value may lie anywhere.
        let value = if from == to { Bytes::new() } else { bytes.slice(from..to) };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeadError::Field)?;
        facts.note(&name, &value);
        parts.headers.append(name, value);
    }
    parts.status = status;
    parts.version = version;
    if let Some(reason) = reason {
        parts.extensions.insert(reason);
    }
    let body = facts.body_end(&parts, method)?;
    let keep_alive = facts.keep_alive && !matches!(body, BodyEnd::Close | BodyEnd::Upgrade);
    Ok(One::Final(Head { parts, body, keep_alive, rest: bytes.slice(length..) }))
}

/// What a head's fields say about the message and its connection.
#[derive(Default)]
struct Facts {
    keep_alive: bool,
    closes: bool,
    coded: bool,
    length: Option<Option<u64>>,
}

impl Facts {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        if *name == CONTENT_LENGTH {
            self.length = Some(add_lengths(self.length, value));
        } else if *name == TRANSFER_ENCODING {
            self.coded = true;
        } else if *name == CONNECTION {
            // Whoever asks to close is not overruled by another line.
            if self.closes || has_word(value, b"close") {
                self.closes = true;
                self.keep_alive = false;
            } else if !self.keep_alive {
                self.keep_alive = has_word(value, b"keep-alive");
            }
        }
    }

    /// A message with two lengths, or in a coding that passing it on would lose, is refused.
    ///
    /// Source: RFC 9112, section 6.1; Envoy does the same.
    fn body_end(&self, head: &response::Parts, method: &Method) -> Result<BodyEnd, HeadError> {
        let ambiguous = self.coded && (self.length.is_some() || !check::is_chunked(&head.headers));
        let end = match head.status.as_u16() {
            101 => BodyEnd::Upgrade,
            204 | 304 => BodyEnd::None,
            _ if *method == Method::HEAD => BodyEnd::None,
            200..=299 if *method == Method::CONNECT => BodyEnd::Upgrade,
            _ if self.coded && head.version == Version::HTTP_10 => return Err(HeadError::TransferEncoding),
            _ if self.coded => BodyEnd::Chunked,
            _ => match self.length {
                None => BodyEnd::Close,
                Some(None) => return Err(HeadError::Length),
                Some(Some(0)) => BodyEnd::None,
                Some(Some(length)) => BodyEnd::Length(length),
            },
        };
        if ambiguous { Err(HeadError::Ambiguous) } else { Ok(end) }
    }
}

/// Whether a list has a word.
pub fn has_word(value: &HeaderValue, word: &[u8]) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(word))
}

/// The length that a head's `Content-Length` fields agree on. `Some(None)`: they do not, or are no numbers. Source: RFC 9112, section 6.3.
pub fn parse_lengths(headers: &HeaderMap) -> Option<Option<u64>> {
    headers.get_all(CONTENT_LENGTH).iter().fold(None, |known, value| Some(add_lengths(known, value)))
}

fn add_lengths(mut known: Option<Option<u64>>, value: &HeaderValue) -> Option<u64> {
    for part in value.as_bytes().split(|byte| *byte == b',') {
        let length = number(part.trim_ascii())?;
        if known.is_some_and(|known| known != Some(length)) {
            return None;
        }
        known = Some(Some(length));
    }
    known.flatten()
}

/// Digits and nothing else: no sign.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}
