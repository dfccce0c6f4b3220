//! Heads that the codec can read and that are no proper requests all the same, or that two readers could understand differently.
//!
//! In:  a head as received.
//! Out: it may go on, or why not, in Envoy's words.

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request};

use super::headers::{self, Fields};
use super::local_reply::RequestError;
use super::path::authority;

/// What is wrong with a head.
///
/// Source: Envoy `Http1ResponseCodeDetails`, `SharedResponseCodeDetails`; all have flag `DPE` and end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Two hosts (RFC 9112, section 3.2), or one that is no host.
    Authority,
    /// A target of a form that the method does not have.
    Target,
    /// A transfer coding other than `chunked`: taking it away unread would change the body.
    TransferEncoding,
    /// A `CONNECT` with a body.
    Body,
    /// `Connection` names a field that tells where the request comes from.
    Connection,
    TooManyFields,
    /// What the codec could not read: a head, or the chunks of a body.
    Codec,
    /// A head beyond the limits of size.
    TooLarge,
}

impl Malformed {
    /// Status, details and body of the answer.
    pub const fn answer(self) -> (StatusCode, &'static str, &'static str) {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        const LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        match self {
            Self::Authority => (BAD, "http.invalid_authority", "Bad Request"),
            Self::Target => (BAD, "http1.invalid_url", "Bad Request"),
            Self::TransferEncoding => (StatusCode::NOT_IMPLEMENTED, "http1.invalid_transfer_encoding", "Not Implemented"),
            Self::Body => (BAD, "http1.body_disallowed", "Bad Request"),
            Self::Connection => (BAD, "http1.connection_header_rejected", "Bad Request"),
            Self::TooManyFields => (LARGE, "http2.too_many_headers", "Request Header Fields Too Large"),
            Self::Codec => (BAD, "http1.codec_error", "Bad Request"),
            Self::TooLarge => (LARGE, "http1.headers_too_large", "Request Header Fields Too Large"),
        }
    }
}

/// Look at a head before anything is done with it. `most_fields`: the manager's `max_request_headers`.
///
/// # Errors
/// When it may not go on.
pub fn head(head: &request::Parts, fields: Fields, most_fields: u32) -> Result<(), RequestError> {
    let headers = &head.headers;
    let refuse = |what| Err(RequestError::Malformed(what));
    let repeats = headers.len() != headers.keys_len();
    if repeats && headers.get_all(HOST).iter().nth(1).is_some() {
        return refuse(Malformed::Authority);
    }
    if head.version == Version::HTTP_2 {
        // The HTTP/1.1 codec counts them itself.
        if headers.len() > most_fields as usize {
            return refuse(Malformed::TooManyFields);
        }
    } else if !has_target(head) {
        return refuse(Malformed::Target);
    }
    let authority = authority(head);
    if authority.is_empty() {
        return Err(RequestError::MissingHost);
    }
    if !authority.bytes().all(is_of_authority) {
        return refuse(Malformed::Authority);
    }
    let encoded = fields.has(Fields::TRANSFER_ENCODING);
    if encoded && !is_chunked(headers) {
        return refuse(Malformed::TransferEncoding);
    }
    if head.method == Method::CONNECT && (encoded || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")) {
        return refuse(Malformed::Body);
    }
    if fields.has(Fields::CONNECTION) && names_origin(headers) {
        return refuse(Malformed::Connection);
    }
    Ok(())
}

/// Whether the form of an HTTP/1.1 target is one of its method's: `CONNECT` has the authority form alone, the others origin or absolute form,
/// `OPTIONS` the asterisk too.
///
/// Source: RFC 9112, section 3.2.
fn has_target(head: &request::Parts) -> bool {
    let (scheme, authority, path) = (head.uri.scheme().is_some(), head.uri.authority().is_some(), head.uri.path());
    if head.method == Method::CONNECT {
        return authority && !scheme;
    }
    scheme == authority && (path.starts_with('/') || (path == "*" && head.method == Method::OPTIONS))
}

/// Letters of a host with its port. Userinfo is refused with the rest: RFC 9110, section 4.2.4.
fn is_of_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&byte)
}

/// Whether `chunked` is the only transfer coding.
pub fn is_chunked(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = values.next().is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    chunked && values.next().is_none()
}

/// Source: Envoy `Utility::sanitizeConnectionHeader`.
fn names_origin(headers: &HeaderMap) -> bool {
    const ORIGIN: [http::HeaderName; 3] = [headers::FORWARDED_FOR, headers::FORWARDED_HOST, headers::FORWARDED_PROTO];
    let words = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut words = words.map(<[u8]>::trim_ascii);
    words.any(|word| ORIGIN.iter().any(|name| word.eq_ignore_ascii_case(name.as_str().as_bytes())))
}

/// Put the pieces of `Cookie` together, which HTTP/2 may send as fields of their own: rules and applications expect one.
///
/// Source: RFC 9113, section 8.2.3.
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.len() == headers.keys_len() {
        return;
    }
    let mut pieces = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (pieces.next(), pieces.next()) else { return };
    let mut all = first.as_bytes().to_vec();
    for piece in std::iter::once(second).chain(pieces) {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(piece.as_bytes());
    }
    if let Ok(all) = HeaderValue::from_bytes(&all) {
        headers.insert(COOKIE, all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(line: &str, fields: &[(&str, &str)]) -> request::Parts {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn heads_that_could_be_misunderstood_are_refused() {
        type Pairs = &'static [(&'static str, &'static str)];
        let cases: [(&str, Pairs, Option<Malformed>); 27] = [
            ("GET /", &[("host", "a")], None),
            ("GET /", &[("host", "a_b.c:80")], None),
            ("GET /", &[("host", "[::1]:80")], None),
            ("GET /", &[("host", "a"), ("host", "b")], Some(Malformed::Authority)),
            ("GET /", &[("host", "a"), ("host", "a")], Some(Malformed::Authority)),
            ("GET http://a/", &[("host", "b")], None),
            ("GET http://a/", &[("host", "b"), ("host", "c")], Some(Malformed::Authority)),
            ("GET /", &[("host", "a/b")], Some(Malformed::Authority)),
            ("GET /", &[("host", "a b")], Some(Malformed::Authority)),
            ("GET /", &[("host", "u@a")], Some(Malformed::Authority)),
            ("GET http://u:p@a/", &[("host", "a")], Some(Malformed::Authority)),
            ("OPTIONS *", &[("host", "a")], None),
            ("GET *", &[("host", "a")], Some(Malformed::Target)),
            ("GET a:80", &[("host", "a")], Some(Malformed::Target)),
            ("GET a", &[("host", "a")], Some(Malformed::Target)),
            ("CONNECT a:80", &[("host", "a")], None),
            ("CONNECT /", &[("host", "a")], Some(Malformed::Target)),
            ("CONNECT http://a:80/", &[("host", "a")], Some(Malformed::Target)),
            ("CONNECT a:80", &[("content-length", "0")], None),
            ("CONNECT a:80", &[("content-length", "5")], Some(Malformed::Body)),
            ("CONNECT a:80", &[("transfer-encoding", "chunked")], Some(Malformed::Body)),
            ("POST /", &[("host", "a"), ("transfer-encoding", "Chunked")], None),
            ("POST /", &[("host", "a"), ("transfer-encoding", "gzip, chunked")], Some(Malformed::TransferEncoding)),
            (
                "POST /",
                &[("host", "a"), ("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
                Some(Malformed::TransferEncoding),
            ),
            ("GET /", &[("host", "a"), ("connection", "close, X-Forwarded-For")], Some(Malformed::Connection)),
            ("GET /", &[("host", "a"), ("connection", "x-forwarded-proto")], Some(Malformed::Connection)),
            ("GET /", &[("host", "a"), ("connection", "keep-alive, x-foo")], None),
        ];
        for (line, pairs, want) in cases {
            let parts = parts(line, pairs);
            let got = match head(&parts, Fields::of(&parts.headers), 100) {
                Ok(()) => None,
                Err(RequestError::Malformed(what)) => Some(what),
                Err(other) => panic!("{line} {pairs:?}: {other}"),
            };
            assert_eq!(got, want, "{line} {pairs:?}");
        }
    }

    #[test]
    fn pieces_of_a_cookie_become_one() {
        type Pairs = &'static [(&'static str, &'static str)];
        let cases: [(Pairs, &[&str]); 3] = [
            (&[("host", "a"), ("cookie", "a=1")], &["a=1"]),
            (&[("host", "a"), ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")], &["a=1; b=2; c=3"]),
            (&[("host", "a"), ("x", "y"), ("x", "z")], &[]),
        ];
        for (fields, want) in cases {
            let mut headers = parts("GET /", fields).headers;
            join_cookies(&mut headers);
            assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), want, "{fields:?}");
        }
    }
}
