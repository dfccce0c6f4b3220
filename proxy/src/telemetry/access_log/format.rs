//! Format strings: `%OPERATOR(argument):length%` between literal text.
//!
//! In:  a format, once; an entry, per line.
//! Out: bytes. Whatever came from outside is escaped, so that no value can end a line or a quotation.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderName;
use serde_json::Value;

use super::{Captured, LogEntry, WantedHeaders};
use crate::http::record::ResponseFlags;

/// Why a format does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("unknown operator %{0}%")]
    UnknownOperator(String),
    #[error("operator %{0}% is not closed")]
    Unclosed(String),
    #[error("operator %{operator}%: {argument:?} is not {wanted}")]
    Argument { operator: String, argument: String, wanted: &'static str },
    #[error("json_format is {0}, wanted an object")]
    NotAnObject(&'static str),
    #[error("json_format is nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// Nested objects of a JSON layout.
const MAX_DEPTH: usize = 8;

/// A text layout.
#[derive(Debug)]
pub(super) struct TextLine(Vec<Part>);

/// A JSON layout: text between values is rendered in advance.
#[derive(Debug)]
pub(super) struct JsonLine {
    root: Vec<(Box<str>, JsonPart)>,
    omit_empty: bool,
}

#[derive(Debug)]
enum JsonPart {
    /// A single operator keeps its type: numbers stay numbers, a missing value is `null`.
    Single(Field),
    /// Several parts make a string.
    Text(Vec<Part>),
    /// A value without operators, as JSON text.
    Literal(Box<str>),
    Object(Vec<(Box<str>, JsonPart)>),
}

#[derive(Debug)]
enum Part {
    Literal(Box<str>),
    Field(Field),
}

/// One operator and how many bytes of its value are printed at most.
#[derive(Debug)]
struct Field {
    operator: Operator,
    length: Option<usize>,
}

#[derive(Debug)]
enum Operator {
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
enum Header {
    Method,
    Path,
    OriginalPath,
    Authority,
    Scheme,
    Slot(usize),
}

/// What an operator yields for one entry.
enum Rendered<'a> {
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

impl TextLine {
    pub(super) fn parse(format: &str, wanted: &mut WantedHeaders) -> Result<Self, FormatError> {
        parse(format, wanted).map(Self)
    }

    pub(super) fn render(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Field(field) => field.print(entry, out, escape_text),
            }
        }
    }
}

impl JsonLine {
    pub(super) fn parse(object: &Value, omit_empty: bool, wanted: &mut WantedHeaders) -> Result<Self, FormatError> {
        match object {
            Value::Object(_) => match JsonPart::parse(object, wanted, 0)? {
                JsonPart::Object(root) => Ok(Self { root, omit_empty }),
                _ => Err(FormatError::NotAnObject("not an object")),
            },
            Value::Null => Err(FormatError::NotAnObject("null")),
            Value::Array(_) => Err(FormatError::NotAnObject("a list")),
            _ => Err(FormatError::NotAnObject("a single value")),
        }
    }

    pub(super) fn render(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
        print_object(&self.root, self.omit_empty, entry, out);
        out.push(b'\n');
    }
}

impl JsonPart {
    fn parse(value: &Value, wanted: &mut WantedHeaders, depth: usize) -> Result<Self, FormatError> {
        if depth > MAX_DEPTH {
            return Err(FormatError::TooDeep);
        }
        match value {
            Value::String(format) => {
                let mut parts = parse(format, wanted)?;
                if parts.iter().all(|part| matches!(part, Part::Literal(_))) {
                    let text: String = parts.iter().map(|part| if let Part::Literal(text) = part { text } else { "" }).collect();
                    return Ok(Self::Literal(Value::String(text).to_string().into()));
                }
                Ok(match (parts.len(), parts.pop()) {
                    (1, Some(Part::Field(field))) => Self::Single(field),
                    (_, last) => {
                        parts.extend(last);
                        Self::Text(parts)
                    }
                })
            }
            Value::Object(map) => {
                let parsed = map
                    .iter()
                    .map(|(key, value)| Ok((Value::String(key.clone()).to_string().into(), Self::parse(value, wanted, depth + 1)?)));
                Ok(Self::Object(parsed.collect::<Result<_, FormatError>>()?))
            }
            other => Ok(Self::Literal(other.to_string().into())),
        }
    }
}

fn print_object(members: &[(Box<str>, JsonPart)], omit_empty: bool, entry: &LogEntry<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (key, part) in members {
        let start = out.len();
        if !first {
            out.push(b',');
        }
        out.extend_from_slice(key.as_bytes());
        out.push(b':');
        let printed = match part {
            JsonPart::Literal(text) => {
                out.extend_from_slice(text.as_bytes());
                true
            }
            JsonPart::Single(field) => field.print_json(entry, out),
            JsonPart::Text(parts) => {
                out.push(b'"');
                for part in parts {
                    match part {
                        Part::Literal(text) => escape_json(text.as_bytes(), out),
                        Part::Field(field) => field.print(entry, out, escape_json),
                    }
                }
                out.push(b'"');
                true
            }
            JsonPart::Object(members) => {
                print_object(members, omit_empty, entry, out);
                true
            }
        };
        if !printed && omit_empty {
            out.truncate(start);
        } else {
            first = false;
        }
    }
    out.push(b'}');
}

impl Field {
    fn print(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>, escape: fn(&[u8], &mut Vec<u8>)) {
        let mut cut = |text: &[u8]| escape(&text[..text.len().min(self.length.unwrap_or(usize::MAX))], out);
        match self.operator.value(entry) {
            Rendered::Missing => out.push(b'-'),
            Rendered::Text(text) => cut(text),
            Rendered::Owned(text) => cut(&text),
            Rendered::Number(number) => print_number(number, out),
            Rendered::Address(address) => print_display(address, out),
            Rendered::Ip(ip) => print_display(ip, out),
            Rendered::Flags(flags) => print_display(flags, out),
        }
    }

    /// Whether there was a value; `null` is printed when not.
    fn print_json(&self, entry: &LogEntry<'_>, out: &mut Vec<u8>) -> bool {
        match self.operator.value(entry) {
            Rendered::Missing => {
                out.extend_from_slice(b"null");
                return false;
            }
            Rendered::Number(number) => print_number(number, out),
            _ => {
                out.push(b'"');
                self.print(entry, out, escape_json);
                out.push(b'"');
            }
        }
        true
    }
}

impl Operator {
    fn value<'a>(&'a self, entry: &'a LogEntry<'_>) -> Rendered<'a> {
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
            Self::ResponseFlags if entry.response_flags == ResponseFlags::NONE => Rendered::Missing,
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
    fn parse(source: &str, wanted: &mut WantedHeaders) -> Result<Self, FormatError> {
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

/// Splits a format at its operators. `%%` is a percent sign.
fn parse(format: &str, wanted: &mut WantedHeaders) -> Result<Vec<Part>, FormatError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        literal.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let end = operator_end(rest).ok_or_else(|| FormatError::Unclosed(rest.chars().take(40).collect()))?;
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        parts.push(Part::Field(parse_field(&rest[..end], wanted)?));
        rest = &rest[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts)
}

/// The closing `%`: not one inside parentheses, which hold `%` of their own (`%START_TIME(%Y)%`).
fn operator_end(source: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (place, byte) in source.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'%' if depth == 0 => return Some(place),
            _ => {}
        }
    }
    None
}

fn parse_field(source: &str, wanted: &mut WantedHeaders) -> Result<Field, FormatError> {
    let (operator, length) =
        match source.rfind(')').map_or_else(|| source.rfind(':'), |close| source[close..].find(':').map(|at| close + at)) {
            Some(colon) => {
                let number = source[colon + 1..].parse().map_err(|_| FormatError::Argument {
                    operator: source.to_owned(),
                    argument: source[colon + 1..].to_owned(),
                    wanted: "a length",
                })?;
                (&source[..colon], Some(number))
            }
            None => (source, None),
        };
    Ok(Field { operator: Operator::parse(operator, wanted)?, length })
}

/// A piece of a time format. Source: Envoy's `START_TIME`, `strftime` with `%f`.
#[derive(Debug)]
enum TimePart {
    Literal(Box<str>),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    MonthName,
    Weekday,
    DayOfYear,
    EpochSeconds,
    /// This many digits after the second.
    Fraction(usize),
}

fn parse_time(source: &str, format: &str) -> Result<Vec<TimePart>, FormatError> {
    let unknown =
        |argument: &str| FormatError::Argument { operator: source.to_owned(), argument: argument.to_owned(), wanted: "a time conversion" };
    let format = format.replace("%T", "%H:%M:%S").replace("%F", "%Y-%m-%d").replace("%D", "%m/%d/%y");
    let mut parts = Vec::new();
    let mut rest = format.as_str();
    while let Some(at) = rest.find('%') {
        if at > 0 {
            parts.push(TimePart::Literal(rest[..at].into()));
        }
        let directive = &rest[at + 1..];
        let digits = directive.bytes().take_while(u8::is_ascii_digit).count();
        let letter = directive[digits..].chars().next().ok_or_else(|| unknown("%"))?;
        let part = match (letter, &directive[..digits]) {
            ('f', "") => TimePart::Fraction(9),
            ('f', width) => TimePart::Fraction(width.parse().ok().filter(|width| (1..=9).contains(width)).ok_or_else(|| unknown(width))?),
            ('Y', "") => TimePart::Year,
            ('m', "") => TimePart::Month,
            ('d', "") => TimePart::Day,
            ('H', "") => TimePart::Hour,
            ('M', "") => TimePart::Minute,
            ('S', "") => TimePart::Second,
            ('b', "") => TimePart::MonthName,
            ('a', "") => TimePart::Weekday,
            ('j', "") => TimePart::DayOfYear,
            ('s', "") => TimePart::EpochSeconds,
            ('z', "") => TimePart::Literal("+0000".into()),
            ('Z', "") => TimePart::Literal("UTC".into()),
            ('%', "") => TimePart::Literal("%".into()),
            _ => return Err(unknown(&format!("%{}{letter}", &directive[..digits]))),
        };
        parts.push(part);
        rest = &directive[digits + letter.len_utf8()..];
    }
    if !rest.is_empty() {
        parts.push(TimePart::Literal(rest.into()));
    }
    Ok(parts)
}

fn render_time(format: &[TimePart], time: SystemTime) -> smallvec::SmallVec<[u8; 40]> {
    let mut out = smallvec::SmallVec::new();
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let date = Date::of(since.as_secs());
    for part in format {
        let (value, width) = match part {
            TimePart::Literal(text) => {
                out.extend_from_slice(text.as_bytes());
                continue;
            }
            TimePart::MonthName => {
                let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
                out.extend_from_slice(names.get(date.month as usize - 1).unwrap_or(&"Jan").as_bytes());
                continue;
            }
            TimePart::Weekday => {
                let names = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
                out.extend_from_slice(names[(since.as_secs() / 86_400 % 7) as usize].as_bytes());
                continue;
            }
            TimePart::Year => (date.year, 4),
            TimePart::Month => (date.month, 2),
            TimePart::Day => (date.day, 2),
            TimePart::Hour => (since.as_secs() / 3600 % 24, 2),
            TimePart::Minute => (since.as_secs() / 60 % 60, 2),
            TimePart::Second => (since.as_secs() % 60, 2),
            TimePart::DayOfYear => (date.day_of_year, 3),
            TimePart::EpochSeconds => (since.as_secs(), 1),
            TimePart::Fraction(width) => {
                let drop = u32::try_from(9 - width.min(&9)).unwrap_or(0);
                (u64::from(since.subsec_nanos()) / 10_u64.pow(drop), *width)
            }
        };
        let mut digits = [b'0'; 20];
        let length = decimal(value, &mut digits).max(width);
        out.extend_from_slice(&digits[20 - length..]);
    }
    out
}

/// A day of the Gregorian calendar, UTC.
struct Date {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
}

impl Date {
    /// Days since 1970 to a date, by eras of 400 years that begin in March, so that the leap day is the last of a year.
    fn of(seconds: u64) -> Self {
        let days = seconds / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let day = from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before_january = if month > 2 { from_march + 60 + u64::from(leap) } else { from_march - 305 };
        Self { year, month, day, day_of_year: before_january.max(1) }
    }
}

/// Writes digits at the end of the buffer and says how many.
fn decimal(mut value: u64, digits: &mut [u8; 20]) -> usize {
    let mut place = digits.len();
    loop {
        place -= 1;
        digits[place] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return digits.len() - place;
        }
    }
}

fn print_number(value: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let length = decimal(value, &mut digits);
    out.extend_from_slice(&digits[20 - length..]);
}

fn print_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
}

/// Control characters, quotes and backslashes leave as `\xNN`, `\"`, `\\`: a value can end neither its line nor its quotation.
fn escape_text(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x20..=0x7e | 0x80.. => out.push(byte),
            _ => out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

/// The inside of a JSON string; bytes that are not UTF-8 become U+FFFD.
fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                character if character < ' ' || character == '\x7f' => print_display(format_args!("\\u{:04x}", character as u32), out),
                character => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue};

    use super::super::DEFAULT_TEXT;
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn with_entry(wanted: &WantedHeaders, check: impl FnOnce(&LogEntry<'_>)) {
        let request = headers(&[("user-agent", "curl/8"), ("x-request-id", "id-1"), ("x-evil", "a\" b\\")]);
        let request = Captured::of(&wanted.request, &request);
        let response = Captured::of(&wanted.response, &headers(&[("x-envoy-upstream-service-time", "7")]));
        let trailers = Captured::of(&wanted.trailers, &headers(&[("grpc-status", "5")]));
        check(&LogEntry {
            duration: Duration::from_millis(12),
            response_duration: Some(Duration::from_millis(9)),
            method: Some("GET"),
            path: Some("/v2/products?page=2"),
            original_path: Some("/products?page=2"),
            authority: Some("product-service"),
            scheme: Some("http"),
            protocol: Some("HTTP/1.1"),
            request_headers: Some(&request),
            response_headers: Some(&response),
            response_trailers: Some(&trailers),
            response_code: 200,
            response_code_details: Some("via_upstream"),
            bytes_received: 3,
            bytes_sent: 1234,
            upstream_host: "127.0.0.1:9080".parse().ok(),
            upstream_cluster: Some("outbound|80|v1|product-service.default.svc.cluster.local"),
            downstream_local_address: "127.0.0.1:15001".parse().ok(),
            downstream_remote_address: "[::1]:4242".parse().ok(),
            route_name: Some("default"),
            ..LogEntry::at(UNIX_EPOCH + Duration::new(1_709_210_096, 789_012_345))
        });
    }

    fn text_of(format: &str) -> String {
        let mut wanted = WantedHeaders::default();
        let line = TextLine::parse(format, &mut wanted).unwrap();
        let mut out = Vec::new();
        with_entry(&wanted, |entry| line.render(entry, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_default_line_is_istios() {
        let want = concat!(
            "[2024-02-29T12:34:56.789Z] \"GET /products?page=2 HTTP/1.1\" 200 - via_upstream - \"-\" 3 1234 12 7 \"-\" \"curl/8\" ",
            "\"id-1\" \"product-service\" \"127.0.0.1:9080\" outbound|80|v1|product-service.default.svc.cluster.local - ",
            "127.0.0.1:15001 [::1]:4242 - default\n"
        );
        assert_eq!(text_of(DEFAULT_TEXT), want);
    }

    #[test]
    fn operators_print_what_envoy_prints() {
        let cases = [
            ("100%%", "100%"),
            ("%REQ(:PATH)%", "/v2/products?page=2"),
            ("%REQ(X-MISSING?:METHOD)%", "GET"),
            ("%REQ(USER-AGENT):4%", "curl"),
            ("%REQ(X-EVIL)%", r#"a\" b\\"#),
            ("%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/products"),
            ("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%ms", "7ms"),
            ("%TRAILER(GRPC-STATUS)%", "5"),
            ("%GRPC_STATUS%", "5"),
            ("%UPSTREAM_REMOTE_PORT%", "9080"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "::1"),
            ("%DYNAMIC_METADATA(istio)%", "-"),
            ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "9 3"),
            ("%START_TIME(%s.%6f)%", "1709210096.789012"),
            ("%START_TIME(%Y/%m/%d %T %b %a %j)%", "2024/02/29 12:34:56 Feb Thu 060"),
        ];
        for (format, want) in cases {
            assert_eq!(text_of(format), want, "{format}");
        }
    }

    #[test]
    fn a_bad_format_is_refused_with_its_operator() {
        let cases = [
            ("%NO_SUCH%", "unknown operator %NO_SUCH%"),
            ("%REQ%", "unknown operator %REQ%"),
            ("%PROTOCOL", "operator %PROTOCOL% is not closed"),
            ("%REQ(a b)%", "operator %REQ(a b)%: \"a b\" is not a header name"),
            ("%REQ(a):x%", "operator %REQ(a):x%: \"x\" is not a length"),
            ("%START_TIME(%Q)%", "operator %START_TIME(%Q)%: \"%Q\" is not a time conversion"),
        ];
        for (format, want) in cases {
            let error = TextLine::parse(format, &mut WantedHeaders::default()).unwrap_err();
            assert_eq!(error.to_string(), want, "{format}");
        }
    }

    #[test]
    fn json_keeps_types_and_says_null_for_what_is_missing() {
        let object = serde_json::json!({
            "code": "%RESPONSE_CODE%", "path": "%REQ(:PATH)%", "sni": "%REQUESTED_SERVER_NAME%",
            "mixed": "%PROTOCOL% %DURATION%", "fixed": "100%%", "n": 3, "nested": {"evil": "%REQ(X-EVIL)%"},
        });
        for (omit_empty, sni) in [(false, "\"sni\":null"), (true, "")] {
            let mut wanted = WantedHeaders::default();
            let line = JsonLine::parse(&object, omit_empty, &mut wanted).unwrap();
            let mut out = Vec::new();
            with_entry(&wanted, |entry| line.render(entry, &mut out));
            let text = String::from_utf8(out).unwrap();
            let parsed: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(parsed["code"], 200);
            assert_eq!(parsed["mixed"], "HTTP/1.1 12");
            assert_eq!(parsed["fixed"], "100%");
            assert_eq!(parsed["n"], 3);
            assert_eq!(parsed["nested"]["evil"], "a\" b\\");
            assert_eq!(parsed.get("sni").is_none(), omit_empty);
            assert!(text.contains(sni));
        }
        let error = JsonLine::parse(&Value::Null, false, &mut WantedHeaders::default()).unwrap_err();
        assert_eq!(error.to_string(), "json_format is null, wanted an object");
    }

    #[test]
    fn values_cannot_break_out_of_their_line() {
        let mut out = Vec::new();
        escape_text(b"a\r\n\x1b[0m\t\x7f", &mut out);
        assert_eq!(out, br"a\x0d\x0a\x1b[0m\x09\x7f");
        out.clear();
        escape_json(b"\x01\n\"\xff\x7f", &mut out);
        assert_eq!(out, "\\u0001\\n\\\"\u{fffd}\\u007f".as_bytes());
    }

    #[test]
    fn dates_follow_the_calendar() {
        let cases = [
            (0, "1970-01-01 001 Thu"),
            (951_782_400, "2000-02-29 060 Tue"),
            (4_107_542_400, "2100-03-01 060 Mon"),
            (1_735_603_200, "2024-12-31 366 Tue"),
        ];
        for (seconds, want) in cases {
            let parts = parse_time("", "%F %j %a").unwrap();
            let got = render_time(&parts, UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(std::str::from_utf8(&got).unwrap(), want);
        }
    }
}
