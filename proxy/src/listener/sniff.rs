//! What a connection's first bytes say: TLS, HTTP/1, HTTP/2 or none of them. Pure, but for the loop that reads them.
//!
//! In:  bytes as they come. Out: the kind, as soon as it is certain; the bytes go back to the stream.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::filter_chain::Sniffed;

/// How HTTP/2 with prior knowledge opens. Source: RFC 9113, section 3.4.
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line longer than this is still HTTP, but its kind must show before.
const MOST_BYTES: usize = 1024;

/// What is known so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tls,
    Http1,
    Http2,
    Other,
}

/// Look at first bytes. `None`: more are needed.
pub fn kind(bytes: &[u8]) -> Option<Kind> {
    let first = *bytes.first()?;
    // A TLS record: handshake, major version 3.
    if first == 0x16 {
        return match bytes.get(1) {
            None => None,
            Some(3) => Some(Kind::Tls),
            Some(_) => Some(Kind::Other),
        };
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Some(Kind::Http2);
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return None;
    }
    http1(bytes)
}

/// `METHOD SP target SP HTTP/1.x`; the answer comes with the line's end, or earlier when it cannot be one.
fn http1(bytes: &[u8]) -> Option<Kind> {
    let line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes, |end| &bytes[..end]);
    let complete = line.len() < bytes.len();
    let method = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let token = line[..method].iter().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_' | b'!' | b'*' | b'+' | b'.'));
    if !token || method == 0 || method > 32 {
        return Some(Kind::Other);
    }
    if complete {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let version = line.len().checked_sub(9).map(|at| &line[at..]);
        return Some(if matches!(version, Some(b" HTTP/1.1" | b" HTTP/1.0")) { Kind::Http1 } else { Kind::Other });
    }
    // A target this long is no reason to wait for the rest.
    if bytes.len() >= MOST_BYTES { Some(Kind::Http1) } else { None }
}

/// Read into `bytes` until the kind is certain. `None`: the peer ended before. Cut off, it has lost nothing: what came is in `bytes`.
///
/// # Errors
/// When reading fails.
pub async fn read(stream: &mut (impl AsyncRead + Unpin), bytes: &mut BytesMut) -> io::Result<Option<Kind>> {
    loop {
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
        if let Some(kind) = kind(bytes) {
            return Ok(Some(kind));
        }
        if bytes.len() >= MOST_BYTES {
            return Ok(Some(Kind::Other));
        }
    }
}

/// What filter chains match on.
pub fn sniffed(kind: Option<Kind>) -> Sniffed {
    match kind {
        Some(Kind::Tls) => Sniffed { tls: true, ..Sniffed::default() },
        Some(Kind::Http1) => Sniffed { protocols: vec!["http/1.1".into()], ..Sniffed::default() },
        Some(Kind::Http2) => Sniffed { protocols: vec!["h2c".into()], ..Sniffed::default() },
        Some(Kind::Other) | None => Sniffed::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        let cases: [(&[u8], Option<Kind>); 14] = [
            (b"", None),
            (b"\x16", None),
            (b"\x16\x03\x01\x02", Some(Kind::Tls)),
            (b"\x16\x09", Some(Kind::Other)),
            (b"PRI * HT", None),
            (HTTP2_PREFACE, Some(Kind::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(Kind::Other)),
            (b"GET", None),
            (b"GET / HTTP/1.1\r\n", Some(Kind::Http1)),
            (b"GET / HTTP/1.0\n", Some(Kind::Http1)),
            (b"GET /\r\n", Some(Kind::Other)),
            (b"P", None),
            (b"\x00\x01", Some(Kind::Other)),
            (b"SELECT 1\n", Some(Kind::Other)),
        ];
        for (bytes, want) in cases {
            assert_eq!(kind(bytes), want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn every_split_of_a_beginning_gives_the_same_answer() {
        for text in [HTTP2_PREFACE, b"POST /a HTTP/1.1\r\nhost: a\r\n"] {
            let whole = kind(text);
            for length in 0..text.len() {
                let part = kind(&text[..length]);
                assert!(part.is_none() || part == whole, "{length}");
            }
        }
    }
}
