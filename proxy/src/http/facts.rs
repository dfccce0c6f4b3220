//! What header templates may ask about an exchange.
//!
//! In:  the exchange, the request's head or the response's. Out: values for `route::template`.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, StatusCode, Version, request};

use super::context::RequestContext;
use super::path::look;
use crate::config::route_table::HeaderKey;
use crate::route::template::{Fact, Facts};

/// Facts for header templates while the request is at hand.
pub struct RequestFacts<'a> {
    pub context: &'a RequestContext,
    pub head: &'a request::Parts,
    /// Of the answer, where there is one already.
    pub response: Option<(StatusCode, &'a HeaderMap)>,
}

impl Facts for RequestFacts<'_> {
    fn request_header<'a>(&'a self, key: &'a HeaderKey) -> Option<&'a [u8]> {
        look(self.head, self.context.grpc).value(key)
    }

    fn response_headers(&self) -> Option<&HeaderMap> {
        self.response.map(|(_, headers)| headers)
    }

    fn fact(&self, fact: Fact, out: &mut BytesMut) {
        put_fact(self.context, fact, self.response.map(|(status, _)| status), out);
    }
}

/// Facts for header templates when the request has gone; its head was kept if any template asks for it.
pub struct ResponseFacts<'a> {
    pub context: &'a RequestContext,
    pub response: &'a HeaderMap,
    pub status: StatusCode,
}

impl Facts for ResponseFacts<'_> {
    fn request_header<'a>(&'a self, key: &'a HeaderKey) -> Option<&'a [u8]> {
        look(self.context.asked.as_deref()?, self.context.grpc).value(key)
    }

    fn response_headers(&self) -> Option<&HeaderMap> {
        Some(self.response)
    }

    fn fact(&self, fact: Fact, out: &mut BytesMut) {
        put_fact(self.context, fact, Some(self.status), out);
    }
}

fn put_fact(context: &RequestContext, fact: Fact, status: Option<StatusCode>, out: &mut BytesMut) {
    use std::fmt::Write as _;
    let connection = &context.connection;
    // Writing to memory does not fail.
    let _ = match fact {
        Fact::DownstreamRemoteAddress => write!(out, "{}", context.remote),
        Fact::DownstreamRemoteAddressWithoutPort => write!(out, "{}", context.remote.ip()),
        Fact::DownstreamLocalAddress => write!(out, "{}", connection.local),
        Fact::DownstreamLocalAddressWithoutPort => write!(out, "{}", connection.local.ip()),
        Fact::Protocol => {
            out.put_slice(if context.version == Version::HTTP_2 { b"HTTP/2" } else { b"HTTP/1.1" });
            Ok(())
        }
        Fact::UpstreamHost => context.endpoint.as_ref().map_or(Ok(()), |endpoint| write!(out, "{}", endpoint.endpoint.address)),
        Fact::UpstreamCluster => context.cluster.as_ref().map_or(Ok(()), |cluster| write!(out, "{}", cluster.cluster.name)),
        Fact::RouteName => context.route.as_ref().map_or(Ok(()), |route| write!(out, "{}", route.name)),
        Fact::Hostname => write!(out, "{}", connection.worker.hostname()),
        Fact::ResponseCode => status.map_or(Ok(()), |status| write!(out, "{}", status.as_u16())),
    };
}
