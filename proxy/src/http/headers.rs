//! Header fields that a proxy must take away, may not pass on, or adds.
//!
//! In:  heads as received. Out: heads as passed on.

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, request};

use super::trust;
use crate::retry::asked;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub const UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
pub const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
pub use crate::route::FORWARDED_PROTO;
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const PEER_METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
pub const PEER_METADATA_ID: HeaderName = HeaderName::from_static("x-envoy-peer-metadata-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Which of the fields that a proxy cares for a head has: found in one walk over it, instead of a look-up for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fields(u16);

impl Fields {
    pub const CONNECTION: Self = Self(1);
    pub const KEEP_ALIVE: Self = Self(1 << 1);
    pub const PROXY_CONNECTION: Self = Self(1 << 2);
    pub const TRANSFER_ENCODING: Self = Self(1 << 3);
    pub const UPGRADE: Self = Self(1 << 4);
    pub const TE: Self = Self(1 << 5);
    pub const EXPECT: Self = Self(1 << 6);
    pub const CONTENT_TYPE: Self = Self(1 << 7);
    pub const REQUEST_ID: Self = Self(1 << 8);
    pub const FORWARDED_PROTO: Self = Self(1 << 9);
    pub const PEER_METADATA: Self = Self(1 << 10);
    pub const PEER_METADATA_ID: Self = Self(1 << 11);
    /// What a request asks of its proxy, or what a proxy told the one before.
    pub const ASKED: Self = Self(1 << 12);
    /// What a request may not say of itself.
    pub const CLAIMS: Self = Self(1 << 13);
    pub const FORWARDED_FOR: Self = Self(1 << 14);
    /// What belongs to one connection only.
    const HOP_BY_HOP: Self = Self(0b11_1111);

    pub fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |fields, name| fields | Self::bit(name.as_str()).0))
    }

    fn bit(name: &str) -> Self {
        // The length first: it tells nearly all names apart from these.
        match name.len() {
            2 if name == "te" => Self::TE,
            6 if name == "expect" => Self::EXPECT,
            7 if name == "upgrade" => Self::UPGRADE,
            10 if name == "connection" => Self::CONNECTION,
            10 if name == "keep-alive" => Self::KEEP_ALIVE,
            12 if name == "content-type" => Self::CONTENT_TYPE,
            12 if name == "x-request-id" => Self::REQUEST_ID,
            15 if name == "x-forwarded-for" => Self::FORWARDED_FOR,
            16 if name == "proxy-connection" => Self::PROXY_CONNECTION,
            17 if name == "transfer-encoding" => Self::TRANSFER_ENCODING,
            17 if name == "x-forwarded-proto" => Self::FORWARDED_PROTO,
            21 if name == "x-envoy-peer-metadata" => Self::PEER_METADATA,
            24 if name == "x-envoy-peer-metadata-id" => Self::PEER_METADATA_ID,
            16 | 19 | 21 | 30 | 32 | 38 if asked::is_one(name) => Self::ASKED,
            15.. if name.starts_with("x-envoy-") && trust::is_claim(name) => Self::CLAIMS,
            _ => Self::default(),
        }
    }

    /// Whether any of the fields is there.
    pub const fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }
}

/// Take away what belongs to one connection only: the known fields and those named in `Connection`. `TE: trailers` stays.
///
/// True when a field that the sender named was there, so that `fields` may be too many now. Source: RFC 9110, section 7.6.1. With `upgrade`,
/// `Upgrade` and a plain `Connection: upgrade` stay.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, fields: Fields, upgrade: bool) -> bool {
    if !fields.has(Fields::HOP_BY_HOP) {
        return false;
    }
    let named = fields.has(Fields::CONNECTION) && strip_named(headers, upgrade);
    if fields.has(Fields(Fields::KEEP_ALIVE.0 | Fields::PROXY_CONNECTION.0 | Fields::TRANSFER_ENCODING.0)) {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING] {
            headers.remove(name);
        }
    }
    if fields.has(Fields::UPGRADE) && !upgrade {
        headers.remove(UPGRADE);
    }
    if fields.has(Fields::TE)
        && let Some(te) = headers.get(TE)
    {
        let trailers = te.to_str().is_ok_and(|te| te.split(',').any(|word| word.trim().eq_ignore_ascii_case("trailers")));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
    named
}

fn strip_named(headers: &mut HeaderMap, upgrade: bool) -> bool {
    let mut found = false;
    let mut named = smallvec::SmallVec::<[HeaderName; 4]>::new();
    for value in headers.get_all(CONNECTION) {
        let words = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        named.extend(words.filter_map(|word| HeaderName::from_bytes(word).ok()));
    }
    for name in named {
        // A field that routing or framing needs cannot be made hop-by-hop by its sender; `TE` has its own rule.
        let kept = name == TE || name == HOST || name == UPGRADE || name == http::header::CONTENT_LENGTH;
        if !kept {
            found |= headers.remove(name).is_some();
        }
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(CONNECTION);
    }
    found
}

/// Whether a content type is gRPC's. Source: Envoy `Grpc::Common::hasGrpcContentType`.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// The downstream's `Expect: 100-continue` is answered by this proxy, when the body is first asked for.
pub fn strip_expect(headers: &mut HeaderMap, fields: Fields) {
    if fields.has(Fields::EXPECT) {
        headers.remove(EXPECT);
    }
}

/// Make a head fit for HTTP/1.1: origin form, the host in `Host`.
pub fn to_http1(head: &mut request::Parts, host: Option<HeaderValue>) {
    if head.uri.authority().is_some() || head.uri.scheme().is_some() {
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        head.uri = Uri::from(path);
    }
    if let Some(host) = host {
        head.headers.insert(HOST, host);
    }
    head.version = Version::HTTP_11;
}

/// Make a head fit for HTTP/2: absolute form, no `Host`. `None` when the parts make no URI.
pub fn to_http2(head: &mut request::Parts, authority: Authority) -> Option<()> {
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = Some(parts.scheme.unwrap_or(Scheme::HTTP));
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(parts).ok()?;
    head.headers.remove(HOST);
    head.version = Version::HTTP_2;
    Some(())
}

/// Header values of small numbers, made without allocation.
pub fn small_number(number: u32) -> HeaderValue {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match SMALL.get(number as usize) {
        Some(text) => HeaderValue::from_static(text),
        None => HeaderValue::from(number),
    }
}

/// A time in whole milliseconds.
pub fn milliseconds(time: Duration) -> HeaderValue {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match u32::try_from(milliseconds) {
        Ok(small) if small < 10 => small_number(small),
        _ => HeaderValue::from(milliseconds),
    }
}

/// A fresh `x-request-id`: a random UUID (version 4).
pub fn request_id(random: u128) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let random = random & !(0xf << 76) | (0x4 << 76);
    let random = random & !(0x3 << 62) | (0x2 << 62);
    let mut text = [b'-'; 36];
    // Where each byte's two digits go, around the four dashes.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    for (byte, at) in random.to_be_bytes().into_iter().zip(PLACES) {
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 0xf)];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<(&str, &str)> {
        let mut all: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn fields_of_one_connection_are_not_passed_on() {
        type Pairs = &'static [(&'static str, &'static str)];
        let cases: [(&str, bool, Pairs, Pairs); 7] = [
            (
                "known",
                false,
                &[("connection", "close"), ("keep-alive", "5"), ("proxy-connection", "x"), ("transfer-encoding", "chunked"), ("a", "b")],
                &[("a", "b")],
            ),
            ("named", false, &[("connection", "x-one, X-Two"), ("x-one", "1"), ("x-two", "2"), ("x-three", "3")], &[("x-three", "3")]),
            ("named twice", false, &[("connection", "x-one"), ("connection", "x-two"), ("x-one", "1"), ("x-two", "2")], &[]),
            ("trailers stay", false, &[("connection", "te"), ("te", "gzip, trailers")], &[("te", "trailers")]),
            ("other te goes", false, &[("te", "gzip")], &[]),
            (
                "upgrade stays when it is one",
                true,
                &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")],
                &[("connection", "upgrade"), ("upgrade", "websocket")],
            ),
            (
                "the host cannot be named away",
                false,
                &[("connection", "host, content-length"), ("host", "a"), ("content-length", "1")],
                &[("content-length", "1"), ("host", "a")],
            ),
        ];
        for (name, upgrade, before, after) in cases {
            let mut headers = map(before);
            let fields = Fields::of(&headers);
            assert_eq!(strip_hop_by_hop(&mut headers, fields, upgrade), name.starts_with("named"), "{name}");
            assert_eq!(names(&headers), after, "{name}");
        }
    }

    #[test]
    fn every_field_that_is_looked_for_is_found() {
        let names = [
            ("connection", Fields::CONNECTION),
            ("keep-alive", Fields::KEEP_ALIVE),
            ("proxy-connection", Fields::PROXY_CONNECTION),
            ("transfer-encoding", Fields::TRANSFER_ENCODING),
            ("upgrade", Fields::UPGRADE),
            ("te", Fields::TE),
            ("expect", Fields::EXPECT),
            ("content-type", Fields::CONTENT_TYPE),
            ("x-request-id", Fields::REQUEST_ID),
            ("x-forwarded-proto", Fields::FORWARDED_PROTO),
            ("x-forwarded-for", Fields::FORWARDED_FOR),
            ("x-envoy-peer-metadata", Fields::PEER_METADATA),
            ("x-envoy-peer-metadata-id", Fields::PEER_METADATA_ID),
            ("x-envoy-retry-on", Fields::ASKED),
            ("x-envoy-retry-grpc-on", Fields::ASKED),
            ("x-envoy-max-retries", Fields::ASKED),
            ("x-envoy-retriable-status-codes", Fields::ASKED),
            ("x-envoy-retriable-header-names", Fields::ASKED),
            ("x-envoy-upstream-rq-timeout-ms", Fields::ASKED),
            ("x-envoy-upstream-rq-per-try-timeout-ms", Fields::ASKED),
            ("x-envoy-hedge-on-per-try-timeout", Fields::ASKED),
            ("x-envoy-expected-rq-timeout-ms", Fields::ASKED),
            ("x-other", Fields::default()),
        ];
        for (name, want) in names {
            assert_eq!(Fields::of(&map(&[("a", "b"), (name, "x"), ("host", "c")])), want, "{name}");
        }
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let cases = [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ];
        for (value, want) in cases {
            assert_eq!(is_grpc(&map(&[("content-type", value)])), want, "{value}");
        }
    }

    fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let (mut head, ()) = http::Request::builder().uri(uri).body(()).unwrap().into_parts();
        head.headers = map(headers);
        head
    }

    #[test]
    fn heads_change_between_the_protocols() {
        let mut down = head("http://shop:80/a?b=c", &[("x", "y")]);
        to_http1(&mut down, Some(HeaderValue::from_static("shop:80")));
        assert_eq!((down.uri.to_string().as_str(), names(&down.headers)), ("/a?b=c", vec![("host", "shop:80"), ("x", "y")]));
        to_http2(&mut down, Authority::from_static("shop:80")).unwrap();
        assert_eq!((down.uri.to_string().as_str(), names(&down.headers)), ("http://shop:80/a?b=c", vec![("x", "y")]));
    }

    #[test]
    fn request_ids_are_random_uuids() {
        assert_eq!(request_id(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(request_id(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(request_id(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), "01234567-89ab-4def-8123-456789abcdef");
    }
}
