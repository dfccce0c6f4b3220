//! A response's body, read from bytes. No I/O.
//!
//! In:  bytes as they come.
//! Out: pieces of data without copying, trailers, the end; or that the bytes are no such body.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::response::{BodyEnd, MAX_FIELDS, MAX_HEAD_BYTES};

/// Bytes of chunk lines, beside the sizes, in one body: extensions, white space, leading zeros.
const MAX_LINE_EXTRA_BYTES: usize = 16 << 10;

/// Where in a body its reader is.
#[derive(Debug)]
pub enum Decoder {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Box<Chunks>),
    /// All until the connection ends.
    Close,
    Ended,
}

/// What the next bytes are.
#[derive(Debug)]
pub enum Decoded {
    Data(Bytes),
    /// They are the end too.
    Trailers(HeaderMap),
    End,
    More,
}

/// The bytes are no body of the kind announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed body")]
pub struct Malformed;

/// State of a chunked body. Source: RFC 9112, section 7.1.
#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
    /// Of the chunk being read.
    left: u64,
    extra: usize,
    trailers: Vec<u8>,
    fields: usize,
}

/// ```text
/// Start -> Size -> [Space | Extension] -> SizeLf -> Data -> DataCr -> DataLf -> Start
///                                            \ (size 0) -> Line -> [Field -> FieldLf -> Line] -> EndLf
/// ```
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Size,
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a line behind the last chunk.
    Line,
    Field,
    FieldLf,
    EndLf,
}

impl Decoder {
    pub fn new(end: BodyEnd) -> Self {
        match end {
            BodyEnd::None | BodyEnd::Upgrade | BodyEnd::Length(0) => Self::Ended,
            BodyEnd::Length(length) => Self::Length(length),
            BodyEnd::Chunked => Self::Chunked(Box::default()),
            BodyEnd::Close => Self::Close,
        }
    }

    /// Whether nothing more belongs to the body.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Take the next piece from `input`.
    ///
    /// # Errors
    /// When there is none of the kind announced.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        match self {
            Self::Ended => Ok(Decoded::End),
            _ if input.is_empty() => Ok(Decoded::More),
            Self::Close => Ok(Decoded::Data(std::mem::take(input))),
            Self::Length(left) => {
                let data = take(input, left);
                if *left == 0 {
                    *self = Self::Ended;
                }
                Ok(Decoded::Data(data))
            }
            Self::Chunked(chunks) => {
                let decoded = chunks.decode(input)?;
                if matches!(decoded, Decoded::End | Decoded::Trailers(_)) {
                    *self = Self::Ended;
                }
                Ok(decoded)
            }
        }
    }

    /// The connection has ended: whether the body has too, as it should.
    pub fn ends_here(&mut self) -> bool {
        let ends = matches!(self, Self::Close | Self::Ended);
        *self = Self::Ended;
        ends
    }
}

/// At most `left` bytes of `input`.
fn take(input: &mut Bytes, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= length as u64;
    if length == input.len() { std::mem::take(input) } else { input.split_to(length) }
}

impl Chunks {
    fn decode(&mut self, input: &mut Bytes) -> Result<Decoded, Malformed> {
        let mut read = 0;
        while let Some(byte) = input.get(read).copied() {
            if self.state == State::Data {
                input.advance(read);
                let data = take(input, &mut self.left);
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Decoded::Data(data));
            }
            read += 1;
            if self.step(byte)? {
                input.advance(read);
                return if self.trailers.is_empty() { Ok(Decoded::End) } else { self.parse_trailers().map(Decoded::Trailers) };
            }
        }
        *input = Bytes::new();
        Ok(Decoded::More)
    }

    /// Take one byte that is no data. `true`: it was the last.
    fn step(&mut self, byte: u8) -> Result<bool, Malformed> {
        self.state = match (self.state, byte) {
            (State::Start | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                if self.left == 0 {
                    self.count()?;
                }
                self.left = self.left.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit))).ok_or(Malformed)?;
                State::Size
            }
            (State::Size | State::Space, b'\t' | b' ') => {
                self.count()?;
                State::Space
            }
            (State::Size | State::Space, b';') => State::Extension,
            (State::Size | State::Space | State::Extension, b'\r') => State::SizeLf,
            // Readers that end a line here would see another chunk.
            (State::Extension, b'\n') => return Err(Malformed),
            (State::Extension, _) => {
                self.count()?;
                State::Extension
            }
            (State::SizeLf, b'\n') => {
                if self.left == 0 {
                    State::Line
                } else {
                    State::Data
                }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Start,
            (State::Line, b'\r') => State::EndLf,
            (State::Field, b'\r') => {
                self.keep(byte)?;
                State::FieldLf
            }
            (State::Line | State::Field, _) => {
                self.keep(byte)?;
                State::Field
            }
            (State::FieldLf, b'\n') => {
                self.keep(byte)?;
                self.fields += 1;
                if self.fields > MAX_FIELDS {
                    return Err(Malformed);
                }
                State::Line
            }
            (State::EndLf, b'\n') => return Ok(true),
            (State::Start | State::Size | State::Space | State::SizeLf, _)
            | (State::Data | State::DataCr | State::DataLf | State::FieldLf | State::EndLf, _) => return Err(Malformed),
        };
        Ok(false)
    }

    fn count(&mut self) -> Result<(), Malformed> {
        self.extra += 1;
        if self.extra >= MAX_LINE_EXTRA_BYTES { Err(Malformed) } else { Ok(()) }
    }

    fn keep(&mut self, byte: u8) -> Result<(), Malformed> {
        self.trailers.push(byte);
        if self.trailers.len() >= MAX_HEAD_BYTES { Err(Malformed) } else { Ok(()) }
    }

    fn parse_trailers(&mut self) -> Result<HeaderMap, Malformed> {
        let mut text = std::mem::take(&mut self.trailers);
        text.extend_from_slice(b"\r\n");
        let mut fields = vec![httparse::EMPTY_HEADER; self.fields];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&text, &mut fields) else { return Err(Malformed) };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
            trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Malformed)?);
        }
        Ok(trailers)
    }
}
