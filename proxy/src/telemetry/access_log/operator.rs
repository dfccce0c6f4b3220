//! Operators of format strings: what stands between `%`.
//!
//! In:  `NAME(argument)`, once; an entry, per line.
//! Out: values, not yet escaped.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;

use super::format::FormatError;
use super::time::{TimePart, parse_time, render_time};
use super::{Captured, LogEntry, WantedHeaders};
use crate::http::record::ResponseFlags;

#[derive(Debug)]
pub(super) enum Operator {
    StartTime(Vec<TimePart>),
    Request {
        first: Header,
        second: Option<Header>,
    },
    RequestPath {
        query: bool,
    },
    Response {
        first: usize,
        second: Option<usize>,
    },
    Trailer {
        first: usize,
        second: Option<usize>,
    },
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    Duration,
    ResponseDuration,
    ResponseTxDuration,
    UpstreamHost {
        port: bool,
        ip: bool,
    },
    UpstreamCluster,
    UpstreamLocalAddress {
        port: bool,
        ip: bool,
    },
    AttemptCount,
    DownstreamLocalAddress {
        port: bool,
        ip: bool,
    },
    DownstreamRemoteAddress {
        port: bool,
        ip: bool,
    },
    DownstreamDirectRemoteAddress {
        port: bool,
        ip: bool,
    },
    DownstreamPeerUriSan,
    RequestedServerName,
    RouteName,
    VirtualHostName,
    FilterChainName,
    ConnectionId,
    Fixed(Box<str>),
    /// Known to Envoy, always empty here.
    Nothing,
}

/// A header or pseudo-header of the request.
#[derive(Debug)]
pub(super) enum Header {
    Method,
    Path,
    OriginalPath,
    Authority,
    Scheme,
    Slot(usize),
}

/// What an operator yields for one entry.
pub(super) enum Rendered<'a> {
    Missing,
    /// From outside: escaped.
    Text(&'a [u8]),
    Number(u64),
    Address(SocketAddr),
    Ip(IpAddr),
    Flags(ResponseFlags),
    /// Made here, printable.
    Owned(smallvec::SmallVec<[u8; 40]>),
}

impl Operator {
    pub(super) fn value<'a>(&'a self, entry: &'a LogEntry<'_>) -> Rendered<'a> {
        let address = |address: Option<SocketAddr>, port: bool, ip: bool| match address {
            None => Rendered::Missing,
            Some(address) if !port => Rendered::Ip(address.ip()),
            Some(address) if !ip => Rendered::Number(address.port().into()),
            Some(address) => Rendered::Address(address),
        };
        match self {
            Self::StartTime(format) => Rendered::Owned(render_time(format, entry.start_time)),
            Self::Request { first, second } => {
                let found = first.of(entry).or_else(|| second.as_ref()?.of(entry));
                found.map_or(Rendered::Missing, Rendered::Text)
            }
            Self::RequestPath { query } => match entry.original_path.or(entry.path) {
                Some(path) if *query => text(Some(path)),
                Some(path) => text(path.split(['?', '#']).next()),
                None => Rendered::Missing,
            },
            Self::Response { first, second } => captured(entry.response_headers, *first, *second),
            Self::Trailer { first, second } => captured(entry.response_trailers, *first, *second),
            Self::Protocol => text(entry.protocol),
            Self::ResponseCode => Rendered::Number(entry.response_code.into()),
            Self::ResponseFlags => Rendered::Flags(entry.response_flags),
            Self::ResponseCodeDetails => text(entry.response_code_details),
            Self::ConnectionTerminationDetails => text(entry.connection_termination_details),
            Self::UpstreamTransportFailureReason => text(entry.upstream_transport_failure_reason),
            Self::BytesReceived => Rendered::Number(entry.bytes_received),
            Self::BytesSent => Rendered::Number(entry.bytes_sent),
            Self::Duration => Rendered::Number(millis(entry.duration)),
            Self::ResponseDuration => entry.response_duration.map_or(Rendered::Missing, |time| Rendered::Number(millis(time))),
            Self::ResponseTxDuration => {
                entry.response_duration.map_or(Rendered::Missing, |time| Rendered::Number(millis(entry.duration.saturating_sub(time))))
            }
            Self::UpstreamHost { port, ip } => address(entry.upstream_host, *port, *ip),
            Self::UpstreamCluster => text(entry.upstream_cluster),
            Self::UpstreamLocalAddress { port, ip } => address(entry.upstream_local_address, *port, *ip),
            Self::AttemptCount => match entry.attempts {
                0 => Rendered::Missing,
                attempts => Rendered::Number(attempts.into()),
            },
            Self::DownstreamLocalAddress { port, ip } => address(entry.downstream_local_address, *port, *ip),
            Self::DownstreamRemoteAddress { port, ip } => address(entry.downstream_remote_address, *port, *ip),
            Self::DownstreamDirectRemoteAddress { port, ip } => address(entry.downstream_direct_remote_address, *port, *ip),
            Self::DownstreamPeerUriSan => text(entry.downstream_peer_uri_san),
            Self::RequestedServerName => text(entry.requested_server_name),
            Self::RouteName => text(entry.route_name),
            Self::VirtualHostName => text(entry.virtual_host_name),
            Self::FilterChainName => text(entry.filter_chain_name),
            Self::ConnectionId => Rendered::Number(entry.connection_id),
            Self::Fixed(value) => text(Some(value)),
            Self::Nothing => Rendered::Missing,
        }
    }

    /// Reads `NAME(argument)`.
    pub(super) fn parse(source: &str, wanted: &mut WantedHeaders) -> Result<Self, FormatError> {
        let (name, argument) = match source.split_once('(') {
            Some((name, rest)) => (name, Some(rest.strip_suffix(')').ok_or_else(|| FormatError::Unclosed(source.to_owned()))?)),
            None => (source, None),
        };
        let both = (true, true);
        let (port, ip) = both;
        Ok(match (name, argument) {
            ("START_TIME", format) => Self::StartTime(parse_time(source, format.unwrap_or("%Y-%m-%dT%H:%M:%S.%3fZ"))?),
            ("REQ", Some(names)) => request_header(source, names, wanted)?,
            ("REQ_WITHOUT_QUERY", Some(_)) | ("PATH", Some("NQ" | "NQ:ORIG")) => Self::RequestPath { query: false },
            ("PATH", _) => Self::RequestPath { query: true },
            ("RESP", Some(names)) => {
                let (first, second) = slots(source, names, &mut wanted.response)?;
                Self::Response { first, second }
            }
            ("TRAILER", Some(names)) => {
                let (first, second) = slots(source, names, &mut wanted.trailers)?;
                Self::Trailer { first, second }
            }
            ("GRPC_STATUS" | "GRPC_STATUS_NUMBER", _) => {
                Self::Trailer { first: WantedHeaders::slot(&mut wanted.trailers, HeaderName::from_static("grpc-status")), second: None }
            }
            ("PROTOCOL", None) => Self::Protocol,
            ("RESPONSE_CODE", None) => Self::ResponseCode,
            ("RESPONSE_FLAGS", None) => Self::ResponseFlags,
            ("RESPONSE_CODE_DETAILS", _) => Self::ResponseCodeDetails,
            ("CONNECTION_TERMINATION_DETAILS", None) => Self::ConnectionTerminationDetails,
            ("UPSTREAM_TRANSPORT_FAILURE_REASON", None) => Self::UpstreamTransportFailureReason,
            ("BYTES_RECEIVED", None) => Self::BytesReceived,
            ("BYTES_SENT", None) => Self::BytesSent,
            ("DURATION", None) => Self::Duration,
            ("RESPONSE_DURATION", None) => Self::ResponseDuration,
            ("RESPONSE_TX_DURATION", None) => Self::ResponseTxDuration,
            ("UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS", None) => Self::UpstreamHost { port, ip },
            ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", None) => Self::UpstreamHost { port: false, ip },
            ("UPSTREAM_REMOTE_PORT", None) => Self::UpstreamHost { port, ip: false },
            ("UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW", None) => Self::UpstreamCluster,
            ("UPSTREAM_LOCAL_ADDRESS", None) => Self::UpstreamLocalAddress { port, ip },
            ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", None) => Self::UpstreamLocalAddress { port: false, ip },
            ("UPSTREAM_LOCAL_PORT", None) => Self::UpstreamLocalAddress { port, ip: false },
            ("UPSTREAM_REQUEST_ATTEMPT_COUNT", None) => Self::AttemptCount,
            ("DOWNSTREAM_LOCAL_ADDRESS", None) => Self::DownstreamLocalAddress { port, ip },
            ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", None) => Self::DownstreamLocalAddress { port: false, ip },
            ("DOWNSTREAM_LOCAL_PORT", None) => Self::DownstreamLocalAddress { port, ip: false },
            ("DOWNSTREAM_REMOTE_ADDRESS", None) => Self::DownstreamRemoteAddress { port, ip },
            ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", None) => Self::DownstreamRemoteAddress { port: false, ip },
            ("DOWNSTREAM_REMOTE_PORT", None) => Self::DownstreamRemoteAddress { port, ip: false },
            ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", None) => Self::DownstreamDirectRemoteAddress { port, ip },
            ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", None) => Self::DownstreamDirectRemoteAddress { port: false, ip },
            ("DOWNSTREAM_DIRECT_REMOTE_PORT", None) => Self::DownstreamDirectRemoteAddress { port, ip: false },
            ("DOWNSTREAM_PEER_URI_SAN", None) => Self::DownstreamPeerUriSan,
            ("REQUESTED_SERVER_NAME", _) => Self::RequestedServerName,
            ("ROUTE_NAME", None) => Self::RouteName,
            ("VIRTUAL_CLUSTER_NAME" | "VIRTUAL_HOST_NAME", None) => Self::VirtualHostName,
            ("FILTER_CHAIN_NAME", None) => Self::FilterChainName,
            ("CONNECTION_ID", None) => Self::ConnectionId,
            ("HOSTNAME", None) => Self::Fixed(rustix::system::uname().nodename().to_string_lossy().into()),
            ("ENVIRONMENT", Some(variable)) => std::env::var(variable).map_or(Self::Nothing, |value| Self::Fixed(value.into())),
            (
                "DYNAMIC_METADATA"
                | "CLUSTER_METADATA"
                | "UPSTREAM_METADATA"
                | "METADATA"
                | "FILTER_STATE"
                | "UPSTREAM_FILTER_STATE"
                | "UNIQUE_ID"
                | "STREAM_ID"
                | "TRACE_ID"
                | "DOWNSTREAM_TLS_VERSION"
                | "DOWNSTREAM_TLS_CIPHER"
                | "DOWNSTREAM_PEER_SUBJECT"
                | "DOWNSTREAM_TRANSPORT_FAILURE_REASON"
                | "UPSTREAM_TLS_VERSION"
                | "UPSTREAM_PEER_URI_SAN",
                _,
            ) => Self::Nothing,
            _ => return Err(FormatError::UnknownOperator(source.to_owned())),
        })
    }
}

impl Header {
    fn of<'a>(&self, entry: &'a LogEntry<'_>) -> Option<&'a [u8]> {
        match self {
            Self::Method => entry.method.map(str::as_bytes),
            Self::Path => entry.path.map(str::as_bytes),
            Self::OriginalPath => entry.original_path.map(str::as_bytes),
            Self::Authority => entry.authority.map(str::as_bytes),
            Self::Scheme => entry.scheme.map(str::as_bytes),
            Self::Slot(slot) => entry.request_headers?.get(*slot),
        }
    }

    fn parse(source: &str, name: &str, wanted: &mut WantedHeaders) -> Result<Self, FormatError> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            "x-envoy-original-path" => Self::OriginalPath,
            _ => Self::Slot(WantedHeaders::slot(&mut wanted.request, header_name(source, name)?)),
        })
    }
}

fn request_header(source: &str, names: &str, wanted: &mut WantedHeaders) -> Result<Operator, FormatError> {
    let (first, second) = match names.split_once('?') {
        Some((first, second)) => (first, Some(second)),
        None => (names, None),
    };
    Ok(Operator::Request {
        first: Header::parse(source, first, wanted)?,
        second: second.map(|name| Header::parse(source, name, wanted)).transpose()?,
    })
}

fn slots(source: &str, names: &str, list: &mut Vec<HeaderName>) -> Result<(usize, Option<usize>), FormatError> {
    let mut slots = names.splitn(2, '?').map(|name| Ok(WantedHeaders::slot(list, header_name(source, name)?)));
    let first = slots.next().unwrap_or_else(|| Err(FormatError::UnknownOperator(source.to_owned())))?;
    Ok((first, slots.next().transpose()?))
}

fn header_name(source: &str, name: &str) -> Result<HeaderName, FormatError> {
    // `:status` and other pseudo-headers of a response have operators of their own; Envoy prints them as headers too.
    HeaderName::try_from(name.trim_start_matches(':')).map_err(|_| FormatError::Argument {
        operator: source.to_owned(),
        argument: name.to_owned(),
        wanted: "a header name",
    })
}

fn captured<'a>(headers: Option<&'a Captured>, first: usize, second: Option<usize>) -> Rendered<'a> {
    let found = headers.and_then(|headers| headers.get(first).or_else(|| headers.get(second?)));
    found.map_or(Rendered::Missing, Rendered::Text)
}

fn text(value: Option<&str>) -> Rendered<'_> {
    match value {
        Some(text) if !text.is_empty() => Rendered::Text(text.as_bytes()),
        _ => Rendered::Missing,
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
