//! Answers that this proxy gives itself, as Envoy words them.
//!
//! In:  why the upstream's answer does not come.
//! Out: status, flag, details and body; for gRPC a trailers-only reply.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::check::Malformed;
use super::context::RequestContext;
use super::record::ResponseFlags;
use crate::config::route_table::FaultAbort;
use crate::connect::Failure;

/// Why this proxy, rather than the upstream, answers a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("the request has no host")]
    MissingHost,
    #[error("no proper request: {0:?}")]
    Malformed(Malformed),
    #[error("the path cannot be normalised")]
    BadPath,
    #[error("no route")]
    NoRoute,
    #[error("the route configuration is not there")]
    NoRouteConfiguration,
    #[error("no cluster of that name")]
    NoCluster { status: StatusCode },
    #[error("no endpoint")]
    NoEndpoint,
    #[error("the destination is this proxy itself")]
    Loop,
    #[error("the name does not resolve")]
    Unresolved,
    #[error("this upgrade is not allowed here")]
    UpgradeRefused,
    #[error("nothing listens at the tunnel's destination")]
    NoTunnel,
    #[error("fault injected")]
    Fault(FaultAbort),
    #[error("the route's timeout passed")]
    Timeout,
    #[error("the timeout of a try passed")]
    TryTimeout { exhausted: bool },
    #[error("nothing moved on the stream")]
    Idle,
    #[error("no response from upstream")]
    Upstream { failure: Failure, retried: bool, exhausted: bool },
}

/// What a local answer consists of.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub flags: ResponseFlags,
    pub details: Cow<'static, str>,
    pub body: Cow<'static, str>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub upstream_failure: Cow<'static, str>,
    /// Overrides the gRPC status that the HTTP status stands for.
    pub grpc: Option<u16>,
}

impl Reply {
    fn new(status: StatusCode, flags: ResponseFlags, details: &'static str, body: &'static str) -> Self {
        Self { status, flags, details: Cow::Borrowed(details), body: Cow::Borrowed(body), upstream_failure: Cow::Borrowed(""), grpc: None }
    }
}

impl RequestError {
    /// Whether where the next request begins is in doubt, so that the connection ends with the answer.
    pub const fn ends_connection(&self) -> bool {
        matches!(self, Self::MissingHost | Self::BadPath | Self::Malformed(_))
    }

    /// Whether the downstream is gone.
    pub const fn has_no_reader(&self) -> bool {
        matches!(self, Self::Upstream { failure: Failure::RequestBody, .. })
    }

    /// As Envoy reports it. No `_` arm: a new variant must choose.
    pub fn reply(self) -> Reply {
        use ResponseFlags as Flag;
        match self {
            Self::MissingHost => Reply::new(StatusCode::BAD_REQUEST, Flag::NONE, "missing_host_header", ""),
            Self::Malformed(what) => {
                let (status, details, body) = what.answer();
                Reply::new(status, Flag::DOWNSTREAM_PROTOCOL_ERROR, details, body)
            }
            Self::BadPath => Reply::new(StatusCode::BAD_REQUEST, Flag::NONE, "path_normalization_failed", ""),
            Self::NoRoute => Reply::new(StatusCode::NOT_FOUND, Flag::NO_ROUTE_FOUND, "route_not_found", ""),
            Self::NoRouteConfiguration => Reply::new(StatusCode::NOT_FOUND, Flag::NO_ROUTE_FOUND, "route_configuration_not_found", ""),
            Self::NoCluster { status } => Reply::new(status, Flag::NO_CLUSTER_FOUND, "cluster_not_found", ""),
            // Source: Istio, which leads connections to a proxy's own outbound port into a cluster without endpoints.
            Self::NoEndpoint | Self::Loop => {
                Reply::new(StatusCode::SERVICE_UNAVAILABLE, Flag::NO_HEALTHY_UPSTREAM, "no_healthy_upstream", "no healthy upstream")
            }
            Self::Unresolved => {
                Reply::new(StatusCode::SERVICE_UNAVAILABLE, Flag::DNS_RESOLUTION_FAILED, "dns_resolution_failure", "DNS resolution failure")
            }
            Self::UpgradeRefused => Reply::new(StatusCode::FORBIDDEN, Flag::NONE, "upgrade_failed", ""),
            Self::NoTunnel => Reply::new(StatusCode::BAD_GATEWAY, Flag::NO_ROUTE_FOUND, "route_not_found", ""),
            Self::Fault(abort) => fault(abort),
            Self::Timeout => {
                Reply::new(StatusCode::GATEWAY_TIMEOUT, Flag::UPSTREAM_REQUEST_TIMEOUT, "response_timeout", "upstream request timeout")
            }
            Self::TryTimeout { exhausted } => {
                let mut reply = Reply::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    Flag::UPSTREAM_REQUEST_TIMEOUT,
                    "upstream_per_try_timeout",
                    "upstream request timeout",
                );
                reply.flags = with_limit(reply.flags, exhausted);
                reply
            }
            Self::Idle => Reply::new(StatusCode::REQUEST_TIMEOUT, Flag::STREAM_IDLE_TIMEOUT, "stream_idle_timeout", "stream timeout"),
            Self::Upstream { failure, retried, exhausted } => upstream(failure, retried, exhausted),
        }
    }
}

fn with_limit(flags: ResponseFlags, exhausted: bool) -> ResponseFlags {
    if exhausted { flags.with(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED) } else { flags }
}

fn fault(abort: FaultAbort) -> Reply {
    let (status, grpc) = match abort {
        FaultAbort::Http(status) => (status, None),
        // Source: Envoy `FaultFilter::abortWithStatus`: 200 whoever asks, the code only to those who speak gRPC.
        FaultAbort::Grpc(code) => (StatusCode::OK, Some(code)),
    };
    let mut reply = Reply::new(status, ResponseFlags::FAULT_INJECTED, "fault_filter_abort", "fault filter abort");
    reply.grpc = grpc;
    reply
}

/// Source: Envoy `Filter::onUpstreamReset`, `Http::Utility::resetReasonToString`.
fn upstream(failure: Failure, retried: bool, exhausted: bool) -> Reply {
    use ResponseFlags as Flag;
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let (status, flag, reason, transport) = match failure {
        Failure::Connect { timed_out: true, .. } => {
            (unavailable, Flag::UPSTREAM_CONNECTION_FAILURE, "connection timeout", Cow::Borrowed(""))
        }
        Failure::Connect { timed_out: false, reason } => {
            (unavailable, Flag::UPSTREAM_CONNECTION_FAILURE, "remote connection failure", reason)
        }
        Failure::Unsent(_) | Failure::Terminated(_) => {
            (unavailable, Flag::UPSTREAM_CONNECTION_TERMINATION, "connection termination", Cow::Borrowed(""))
        }
        Failure::Disowned => (unavailable, Flag::UPSTREAM_REMOTE_RESET, "remote refused stream reset", Cow::Borrowed("")),
        Failure::RemoteReset => (unavailable, Flag::UPSTREAM_REMOTE_RESET, "remote reset", Cow::Borrowed("")),
        Failure::Protocol(_) => (StatusCode::BAD_GATEWAY, Flag::UPSTREAM_PROTOCOL_ERROR, "protocol error", Cow::Borrowed("")),
        // The downstream is gone: nobody reads this.
        Failure::RequestBody => {
            return Reply::new(StatusCode::BAD_REQUEST, Flag::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect", "");
        }
    };
    let latest = if retried { "retried and the latest reset reason" } else { "reset reason" };
    let body = format!("upstream connect error or disconnect/reset before headers. {latest}: {reason}");
    let mut details = format!("upstream_reset_before_response_started{{{}", reason.replace(' ', "_"));
    // For the operator's log only: what is behind this proxy is no business of its clients.
    let transport = if transport.contains(' ') { Cow::Owned(transport.replace(' ', "_")) } else { transport };
    if !transport.is_empty() {
        details.push('|');
        details.push_str(&transport);
    }
    details.push('}');
    Reply {
        status,
        flags: with_limit(flag, exhausted),
        details: Cow::Owned(details),
        body: Cow::Owned(body),
        upstream_failure: transport,
        grpc: None,
    }
}

/// How a response broke off after its head was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFailure {
    RemoteReset,
    Terminated,
    Protocol,
    Timeout,
    Idle,
}

impl BodyFailure {
    /// Flag and details.
    pub fn facts(self) -> (ResponseFlags, &'static str) {
        match self {
            Self::RemoteReset => (ResponseFlags::UPSTREAM_REMOTE_RESET, "upstream_reset_after_response_started{remote_reset}"),
            Self::Terminated => {
                (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, "upstream_reset_after_response_started{connection_termination}")
            }
            Self::Protocol => (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "upstream_reset_after_response_started{protocol_error}"),
            Self::Timeout => (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout"),
            Self::Idle => (ResponseFlags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout"),
        }
    }
}

/// What this proxy answers in the upstream's place; the record learns why.
pub fn refused(context: &mut RequestContext, error: RequestError) -> Response<Bytes> {
    context.last |= error.ends_connection();
    let reply = error.reply();
    // Also where gRPC is told 200. Source: as `path::own_answer`.
    context.last |= reply.status == StatusCode::BAD_REQUEST;
    context.flag(reply.flags);
    let response = response(&reply, context.grpc, context.head_only);
    context.details = reply.details;
    context.upstream_failure = reply.upstream_failure;
    response
}

/// Let configuration change the headers of an answer of our own. What says how to read the body comes after it.
///
/// Source: Envoy `Http::Utility::prepareLocalReply`, which keeps a content type that configuration set, unless the caller speaks gRPC.
pub fn change(response: &mut Response<Bytes>, change: impl FnOnce(&mut HeaderMap)) {
    let headers = response.headers_mut();
    let grpc = headers.contains_key(GRPC_STATUS);
    let own = [CONTENT_TYPE, CONTENT_LENGTH, GRPC_STATUS, GRPC_MESSAGE].map(|name| (headers.remove(&name), name));
    change(headers);
    for (value, name) in own {
        if let Some(value) = value
            && (grpc || name != CONTENT_TYPE || !headers.contains_key(CONTENT_TYPE))
        {
            headers.insert(name, value);
        }
    }
}

/// The response for a reply. gRPC callers get HTTP 200 with the status in the head.
///
/// Source: Envoy `Http::Utility::sendLocalReply`.
pub fn response(reply: &Reply, grpc: bool, head_only: bool) -> Response<Bytes> {
    if grpc {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(reply.grpc.unwrap_or_else(|| grpc_of_http(reply.status))));
        if !reply.body.is_empty()
            && !head_only
            && let Ok(message) = HeaderValue::from_str(&percent_encoded(&reply.body))
        {
            headers.insert(GRPC_MESSAGE, message);
        }
        return response;
    }
    text(reply.status, Bytes::copy_from_slice(reply.body.as_bytes()))
}

/// A text of our own.
pub fn text(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if length > 0 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// A redirect.
pub fn redirect(status: StatusCode, location: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
}

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Source: gRPC, "HTTP to gRPC Status Code Mapping"; Envoy `Grpc::Utility::httpToGrpcStatus`.
pub fn grpc_of_http(status: StatusCode) -> u16 {
    match status.as_u16() {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Source: gRPC over HTTP/2, `Percent-Encoded`.
fn percent_encoded(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if plain(byte) { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream_error(failure: Failure) -> RequestError {
        RequestError::Upstream { failure, retried: false, exhausted: false }
    }

    #[test]
    fn errors_are_answered_as_envoy_answers_them() {
        let refused = || Failure::Connect { timed_out: false, reason: "delayed connect error: Connection refused".into() };
        let prefix = "upstream connect error or disconnect/reset before headers. ";
        let cases = [
            (RequestError::NoRoute, 404, "NR", "route_not_found", String::new()),
            (RequestError::NoCluster { status: StatusCode::SERVICE_UNAVAILABLE }, 503, "NC", "cluster_not_found", String::new()),
            (RequestError::NoEndpoint, 503, "UH", "no_healthy_upstream", "no healthy upstream".into()),
            (
                upstream_error(refused()),
                503,
                "UF",
                "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
                format!("{prefix}reset reason: remote connection failure"),
            ),
            (
                RequestError::Upstream { failure: refused(), retried: true, exhausted: true },
                503,
                "URX,UF",
                "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
                format!("{prefix}retried and the latest reset reason: remote connection failure"),
            ),
            (
                upstream_error(Failure::Connect { timed_out: true, reason: "".into() }),
                503,
                "UF",
                "upstream_reset_before_response_started{connection_timeout}",
                format!("{prefix}reset reason: connection timeout"),
            ),
            (
                upstream_error(Failure::Terminated("".into())),
                503,
                "UC",
                "upstream_reset_before_response_started{connection_termination}",
                format!("{prefix}reset reason: connection termination"),
            ),
            (
                upstream_error(Failure::Protocol("".into())),
                502,
                "UPE",
                "upstream_reset_before_response_started{protocol_error}",
                format!("{prefix}reset reason: protocol error"),
            ),
            (
                upstream_error(Failure::Disowned),
                503,
                "UR",
                "upstream_reset_before_response_started{remote_refused_stream_reset}",
                format!("{prefix}reset reason: remote refused stream reset"),
            ),
            (RequestError::Timeout, 504, "UT", "response_timeout", "upstream request timeout".into()),
            (RequestError::TryTimeout { exhausted: false }, 504, "UT", "upstream_per_try_timeout", "upstream request timeout".into()),
            (RequestError::Fault(FaultAbort::Http(StatusCode::IM_A_TEAPOT)), 418, "FI", "fault_filter_abort", "fault filter abort".into()),
            (RequestError::Fault(FaultAbort::Grpc(14)), 200, "FI", "fault_filter_abort", "fault filter abort".into()),
        ];
        for (error, status, flags, details, body) in cases {
            let reply = error.reply();
            let got = (reply.status.as_u16(), reply.flags.to_string(), &*reply.details, reply.body.to_string());
            assert_eq!(got, (status, flags.to_string(), details, body));
        }
    }

    #[test]
    fn grpc_callers_get_a_trailers_only_reply() {
        let cases = [
            (RequestError::NoRoute, "12", None),
            (RequestError::NoEndpoint, "14", Some("no healthy upstream")),
            (RequestError::Timeout, "14", Some("upstream request timeout")),
            (RequestError::Fault(FaultAbort::Grpc(10)), "10", Some("fault filter abort")),
        ];
        for (error, status, message) in cases {
            let response = response(&error.reply(), true, false);
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[GRPC_STATUS], status);
            assert_eq!(response.headers().get(GRPC_MESSAGE).map(|value| value.to_str().unwrap()), message);
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        for (text, want) in [("plain text", "plain text"), ("100%", "100%25"), ("é\n", "%C3%A9%0A")] {
            assert_eq!(percent_encoded(text), want);
        }
    }
}
