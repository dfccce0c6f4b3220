//! Which route serves a request, and what the route changes about it. Pure rules.
//!
//! In:  a request's head and a route table.
//! Out: the route; rewritten heads; redirects; faults to inject.

pub mod cors;
pub mod fault;
pub mod mutate;
pub mod redirect;
pub mod rewrite;
pub mod select;
pub mod template;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::config::route_table::HeaderKey;

/// The scheme by which the client, or a proxy before this one, was asked.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A request's head as rules look at it. The path is already normalised where the manager says so.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    pub method: &'a Method,
    /// `Host` or `:authority`, as received; empty when missing.
    pub authority: &'a str,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// Content type of gRPC.
    pub grpc: bool,
}

impl<'a> Head<'a> {
    /// What an absolute target or HTTP/2 says, else what `x-forwarded-proto` does. Source: Envoy `ConnectionManagerUtility`, `setScheme`.
    pub fn scheme(&self) -> &'a str {
        self.uri.scheme_str().unwrap_or_else(|| self.forwarded_scheme())
    }

    /// `http`, unless `x-forwarded-proto` says `https`.
    pub fn forwarded_scheme(&self) -> &'a str {
        let https = self.headers.get(FORWARDED_PROTO).is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"));
        if https { "https" } else { "http" }
    }

    /// The path without query.
    pub fn path(&self) -> &'a str {
        self.uri.path()
    }

    /// The path with query.
    pub fn path_and_query(&self) -> &'a str {
        self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }

    /// The first value of a header or pseudo-header.
    pub fn value(&self, key: &HeaderKey) -> Option<&'a [u8]> {
        match key {
            HeaderKey::Method => Some(self.method.as_str().as_bytes()),
            HeaderKey::Authority => Some(self.authority.as_bytes()),
            HeaderKey::Scheme => Some(self.scheme().as_bytes()),
            HeaderKey::Path => Some(self.path_and_query().as_bytes()),
            HeaderKey::Name(name) => self.headers.get(name).map(HeaderValue::as_bytes),
        }
    }
}
