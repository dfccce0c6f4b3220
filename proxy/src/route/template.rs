//! Header values with `%…%` operators, parsed once and rendered per request.
//!
//! In:  a value of `request_headers_to_add` or `response_headers_to_add`.
//! Out: the text for one request. A value without operators costs a reference count.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A compiled header value. Source: Envoy's substitution formatter, the operators that make sense in headers.
#[derive(Debug, Clone)]
pub struct Template(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Literal(HeaderValue),
    Parts(Vec<Part>),
}

#[derive(Debug, Clone)]
enum Part {
    Text(Bytes),
    Request { name: HeaderKey, alternative: Option<HeaderKey>, limit: usize },
    Response { name: HeaderName, alternative: Option<HeaderName>, limit: usize },
    Fact(Fact),
}

/// A request header, or what stands for `:authority`, `:path`, `:method`, `:scheme`.
type HeaderKey = crate::config::route_table::HeaderKey;

/// Facts of an exchange beside its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    Protocol,
    UpstreamHost,
    UpstreamCluster,
    RouteName,
    Hostname,
    ResponseCode,
}

/// Answers what a template asks.
pub trait Facts {
    /// A request header's first value, or a pseudo-header.
    fn request_header<'a>(&'a self, key: &'a HeaderKey) -> Option<&'a [u8]>;
    fn response_headers(&self) -> Option<&HeaderMap>;
    /// Append the fact's text; nothing when it is not known.
    fn fact(&self, fact: Fact, out: &mut BytesMut);
}

/// Why a value is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("'%' without an end in {0:?}; a literal '%' is written '%%'")]
    Unterminated(String),
    #[error("operator %{0}% is not supported in header values")]
    UnknownOperator(String),
    #[error("{0:?} is no header name")]
    BadHeaderName(String),
    #[error("{0:?} has characters that a header value cannot have")]
    BadValue(String),
}

impl Template {
    /// A value that is used as it is.
    pub fn literal(value: HeaderValue) -> Self {
        Self(Kind::Literal(value))
    }

    /// Parse a value with operators.
    ///
    /// # Errors
    /// When an operator is not closed, not known, or the text cannot be in a header.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let end = rest.find('%').ok_or_else(|| TemplateError::Unterminated(text.into()))?;
            if !literal.is_empty() {
                parts.push(Part::Text(text_part(&literal)?));
                literal.clear();
            }
            parts.push(operator(&rest[..end])?);
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if parts.is_empty() {
            let value = HeaderValue::from_str(&literal).map_err(|_| TemplateError::BadValue(literal))?;
            return Ok(Self(Kind::Literal(value)));
        }
        if !literal.is_empty() {
            parts.push(Part::Text(text_part(&literal)?));
        }
        Ok(Self(Kind::Parts(parts)))
    }

    /// Whether the value is made of the request's head.
    pub fn asks_for_request(&self) -> bool {
        match &self.0 {
            Kind::Literal(_) => false,
            Kind::Parts(parts) => parts.iter().any(|part| matches!(part, Part::Request { .. })),
        }
    }

    /// The value for one request. What is not known comes out as nothing, as in Envoy; `None` when the result cannot be in a header.
    pub fn render(&self, facts: &impl Facts) -> Option<HeaderValue> {
        let parts = match &self.0 {
            Kind::Literal(value) => return Some(value.clone()),
            Kind::Parts(parts) => parts,
        };
        let mut out = BytesMut::new();
        for part in parts {
            match part {
                Part::Text(text) => out.put_slice(text),
                Part::Request { name, alternative, limit } => {
                    let value = facts.request_header(name).or_else(|| facts.request_header(alternative.as_ref()?));
                    put_limited(&mut out, value, *limit);
                }
                Part::Response { name, alternative, limit } => {
                    let headers = facts.response_headers();
                    let get = |name: &HeaderName| headers?.get(name).map(HeaderValue::as_bytes);
                    put_limited(&mut out, get(name).or_else(|| get(alternative.as_ref()?)), *limit);
                }
                Part::Fact(fact) => facts.fact(*fact, &mut out),
            }
        }
        HeaderValue::from_maybe_shared(out.freeze()).ok()
    }
}

fn put_limited(out: &mut BytesMut, value: Option<&[u8]>, limit: usize) {
    if let Some(value) = value {
        out.put_slice(&value[..value.len().min(limit)]);
    }
}

fn text_part(text: &str) -> Result<Bytes, TemplateError> {
    HeaderValue::from_str(text).map_err(|_| TemplateError::BadValue(text.into()))?;
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}

fn operator(text: &str) -> Result<Part, TemplateError> {
    let unknown = || TemplateError::UnknownOperator(text.into());
    if let Some((name, rest)) = text.split_once('(') {
        let (arguments, limit) = rest.rsplit_once(')').ok_or_else(unknown)?;
        let limit = match limit.strip_prefix(':') {
            Some(digits) => digits.parse().map_err(|_| unknown())?,
            None if limit.is_empty() => usize::MAX,
            None => return Err(unknown()),
        };
        let (main, alternative) = match arguments.split_once('?') {
            Some((main, alternative)) => (main, Some(alternative)),
            None => (arguments, None),
        };
        return match name {
            "REQ" => Ok(Part::Request { name: request_key(main)?, alternative: alternative.map(request_key).transpose()?, limit }),
            "RESP" => Ok(Part::Response { name: header_name(main)?, alternative: alternative.map(header_name).transpose()?, limit }),
            _ => Err(unknown()),
        };
    }
    Ok(Part::Fact(match text {
        "DOWNSTREAM_REMOTE_ADDRESS" => Fact::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Fact::DownstreamRemoteAddressWithoutPort,
        "DOWNSTREAM_LOCAL_ADDRESS" => Fact::DownstreamLocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Fact::DownstreamLocalAddressWithoutPort,
        "PROTOCOL" => Fact::Protocol,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Fact::UpstreamHost,
        "UPSTREAM_CLUSTER" => Fact::UpstreamCluster,
        "ROUTE_NAME" => Fact::RouteName,
        "HOSTNAME" => Fact::Hostname,
        "RESPONSE_CODE" => Fact::ResponseCode,
        _ => return Err(unknown()),
    }))
}

fn request_key(name: &str) -> Result<HeaderKey, TemplateError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":authority" | "host" => HeaderKey::Authority,
        ":path" => HeaderKey::Path,
        ":method" => HeaderKey::Method,
        ":scheme" => HeaderKey::Scheme,
        _ => HeaderKey::Name(header_name(name)?),
    })
}

fn header_name(name: &str) -> Result<HeaderName, TemplateError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| TemplateError::BadHeaderName(name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(HeaderMap);

    impl Facts for Fixed {
        fn request_header<'a>(&'a self, key: &'a HeaderKey) -> Option<&'a [u8]> {
            match key {
                HeaderKey::Authority => Some(b"shop.example"),
                HeaderKey::Name(name) => self.0.get(name).map(HeaderValue::as_bytes),
                _ => None,
            }
        }

        fn response_headers(&self) -> Option<&HeaderMap> {
            None
        }

        fn fact(&self, fact: Fact, out: &mut BytesMut) {
            if fact == Fact::Protocol {
                out.put_slice(b"HTTP/1.1");
            }
        }
    }

    #[test]
    fn values_are_rendered_per_request() {
        let facts = Fixed(HeaderMap::from_iter([(HeaderName::from_static("x-user"), HeaderValue::from_static("maria"))]));
        let cases = [
            ("plain", "plain"),
            ("100%%", "100%"),
            ("%REQ(x-user)%", "maria"),
            ("%REQ(x-none?x-user)%", "maria"),
            ("%REQ(x-user):3%", "mar"),
            ("%REQ(:authority)%/%PROTOCOL%", "shop.example/HTTP/1.1"),
            ("<%REQ(x-none)%>", "<>"),
            ("%RESP(server)%", ""),
        ];
        for (text, want) in cases {
            let got = Template::parse(text).unwrap().render(&facts).unwrap();
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn what_is_no_template_says_why() {
        let cases = ["%REQ(x", "100%", "%NOPE%", "%REQ(bad name)%", "line\nbreak", "%REQ(x):a%"];
        for text in cases {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
