//! The access log: Envoy's format strings compiled once, rendered into a buffer of the worker.
//!
//! In:  a [`LogEntry`] per finished request or connection, and headers captured while they were at hand.
//! Out: lines for [`log_sink`](super::log_sink), never blocking the request.

mod escape;
mod format;
mod operator;
mod time;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::log_sink::LogSink;
use crate::http::record::ResponseFlags;
use format::{JsonLine, TextLine};

pub use format::FormatError;

/// Istio's default text line. Source: `istio-semantics` of `meshConfig.accessLogFormat` (empty means this one).
pub const DEFAULT_TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% ",
    "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% ",
    "%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% ",
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n",
);

/// Every access log of one connection manager or TCP proxy, compiled.
///
/// Source: `HttpConnectionManager.access_log`, `TcpProxy.access_log`. Cheap when empty: nothing is captured or written.
#[derive(Debug, Default)]
pub struct AccessLog {
    loggers: Vec<Logger>,
    wanted: WantedHeaders,
}

/// Headers that the formats print, each once; an operator knows its header by the place in these lists.
#[derive(Debug, Default)]
struct WantedHeaders {
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
    trailers: Vec<HeaderName>,
}

/// One line per entry, in one layout, to one place.
#[derive(Debug)]
struct Logger {
    sink: Arc<LogSink>,
    layout: Layout,
    filter: Option<LogFilter>,
}

#[derive(Debug)]
enum Layout {
    Text(TextLine),
    Json(JsonLine),
}

/// A layout before compilation.
#[derive(Debug, Clone, PartialEq)]
pub enum LogFormat {
    /// Source: `SubstitutionFormatString.text_format_source`; a line break at its end is the user's to give.
    Text(String),
    /// Source: `json_format`; strings in it are formats, everything else is kept as it is. One object a line.
    Json { object: serde_json::Value, omit_empty: bool },
}

/// Which entries are logged. Source: `envoy.config.accesslog.v3.AccessLogFilter`.
#[derive(Debug, Clone, PartialEq)]
pub enum LogFilter {
    Status(Comparison, u32),
    /// Milliseconds.
    Duration(Comparison, u32),
    /// Any of these flags.
    Flags(ResponseFlags),
    /// Any flag at all.
    Flagged,
    All(Vec<LogFilter>),
    Any(Vec<LogFilter>),
}

/// Source: `ComparisonFilter.Op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    AtLeast,
    AtMost,
    NotEqual,
}

/// Values of the headers that the formats print. Made while the head is at hand, used when the request ends.
#[derive(Debug, Default)]
pub struct Captured(SmallVec<[Option<HeaderValue>; 3]>);

/// What one finished request (or TCP connection) tells the log. `None` and empty text are printed as `-` (JSON: `null`).
#[derive(Debug, Clone)]
pub struct LogEntry<'a> {
    /// When the first byte of the request was read.
    pub start_time: SystemTime,
    /// From then until the last byte was sent.
    pub duration: Duration,
    /// From the start until the first byte of the upstream's response.
    pub response_duration: Option<Duration>,
    pub method: Option<&'a str>,
    /// Path and query as sent upstream.
    pub path: Option<&'a str>,
    /// Path and query as received, where a rewrite changed them. Source: `x-envoy-original-path`.
    pub original_path: Option<&'a str>,
    pub authority: Option<&'a str>,
    pub scheme: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2`; `None` for TCP.
    pub protocol: Option<&'a str>,
    pub request_headers: Option<&'a Captured>,
    pub response_headers: Option<&'a Captured>,
    pub response_trailers: Option<&'a Captured>,
    /// 0 when none was sent.
    pub response_code: u16,
    pub response_flags: ResponseFlags,
    pub response_code_details: Option<&'a str>,
    pub connection_termination_details: Option<&'a str>,
    pub upstream_transport_failure_reason: Option<&'a str>,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub upstream_host: Option<SocketAddr>,
    pub upstream_local_address: Option<SocketAddr>,
    pub upstream_cluster: Option<&'a str>,
    pub attempts: u32,
    pub downstream_local_address: Option<SocketAddr>,
    /// The client as `x-forwarded-for` or the connection says.
    pub downstream_remote_address: Option<SocketAddr>,
    /// The other end of the connection.
    pub downstream_direct_remote_address: Option<SocketAddr>,
    pub downstream_peer_uri_san: Option<&'a str>,
    pub requested_server_name: Option<&'a str>,
    pub route_name: Option<&'a str>,
    pub virtual_host_name: Option<&'a str>,
    pub filter_chain_name: Option<&'a str>,
    pub connection_id: u64,
}

impl LogEntry<'_> {
    /// An entry that says nothing but when.
    pub fn at(start_time: SystemTime) -> Self {
        Self {
            start_time,
            duration: Duration::ZERO,
            response_duration: None,
            method: None,
            path: None,
            original_path: None,
            authority: None,
            scheme: None,
            protocol: None,
            request_headers: None,
            response_headers: None,
            response_trailers: None,
            response_code: 0,
            response_flags: ResponseFlags::NONE,
            response_code_details: None,
            connection_termination_details: None,
            upstream_transport_failure_reason: None,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_host: None,
            upstream_local_address: None,
            upstream_cluster: None,
            attempts: 0,
            downstream_local_address: None,
            downstream_remote_address: None,
            downstream_direct_remote_address: None,
            downstream_peer_uri_san: None,
            requested_server_name: None,
            route_name: None,
            virtual_host_name: None,
            filter_chain_name: None,
            connection_id: 0,
        }
    }
}

impl AccessLog {
    /// Adds a log; the error says which operator is not known.
    pub fn add(&mut self, sink: Arc<LogSink>, format: &LogFormat, filter: Option<LogFilter>) -> Result<(), FormatError> {
        let layout = match format {
            LogFormat::Text(text) => Layout::Text(TextLine::parse(text, &mut self.wanted)?),
            LogFormat::Json { object, omit_empty } => Layout::Json(JsonLine::parse(object, *omit_empty, &mut self.wanted)?),
        };
        self.loggers.push(Logger { sink, layout, filter });
        Ok(())
    }

    /// Nothing is logged, so nothing need be gathered.
    pub fn is_off(&self) -> bool {
        self.loggers.is_empty()
    }

    pub fn capture_request(&self, headers: &HeaderMap) -> Captured {
        Captured::of(&self.wanted.request, headers)
    }

    pub fn capture_response(&self, headers: &HeaderMap) -> Captured {
        Captured::of(&self.wanted.response, headers)
    }

    pub fn capture_trailers(&self, trailers: &HeaderMap) -> Captured {
        Captured::of(&self.wanted.trailers, trailers)
    }

    /// Renders the entry into this thread's buffers. Never blocks; the lines leave within a fraction of a second.
    pub fn write(&self, entry: &LogEntry<'_>) {
        for logger in &self.loggers {
            if logger.filter.as_ref().is_none_or(|filter| filter.passes(entry)) {
                logger.sink.append(|line| match &logger.layout {
                    Layout::Text(text) => text.render(entry, line),
                    Layout::Json(json) => json.render(entry, line),
                });
            }
        }
    }
}

impl WantedHeaders {
    fn slot(list: &mut Vec<HeaderName>, name: HeaderName) -> usize {
        list.iter().position(|known| *known == name).unwrap_or_else(|| {
            list.push(name);
            list.len() - 1
        })
    }
}

impl Captured {
    fn of(wanted: &[HeaderName], headers: &HeaderMap) -> Self {
        Self(wanted.iter().map(|name| headers.get(name).cloned()).collect())
    }

    fn get(&self, slot: usize) -> Option<&[u8]> {
        self.0.get(slot)?.as_ref().map(HeaderValue::as_bytes)
    }
}

impl LogFilter {
    fn passes(&self, entry: &LogEntry<'_>) -> bool {
        match self {
            Self::Status(comparison, value) => comparison.holds(u64::from(entry.response_code), *value),
            Self::Duration(comparison, value) => comparison.holds(u64::try_from(entry.duration.as_millis()).unwrap_or(u64::MAX), *value),
            Self::Flags(flags) => entry.response_flags.has(*flags),
            Self::Flagged => entry.response_flags != ResponseFlags::NONE,
            Self::All(filters) => filters.iter().all(|filter| filter.passes(entry)),
            Self::Any(filters) => filters.iter().any(|filter| filter.passes(entry)),
        }
    }
}

impl Comparison {
    fn holds(self, left: u64, right: u32) -> bool {
        let right = u64::from(right);
        match self {
            Self::Equal => left == right,
            Self::AtLeast => left >= right,
            Self::AtMost => left <= right,
            Self::NotEqual => left != right,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::log_sink::LogSinks;
    use super::*;

    #[test]
    fn filters_choose_by_status_duration_and_flags() {
        let mut entry = LogEntry::at(SystemTime::UNIX_EPOCH);
        entry.response_code = 503;
        entry.duration = Duration::from_millis(40);
        entry.response_flags = ResponseFlags::UPSTREAM_CONNECTION_FAILURE.with(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        let at_least = |code| LogFilter::Status(Comparison::AtLeast, code);
        let cases = [
            ("status reached", at_least(500), true),
            ("status below", at_least(504), false),
            ("quick", LogFilter::Duration(Comparison::AtMost, 40), true),
            ("other code", LogFilter::Status(Comparison::NotEqual, 503), false),
            ("any flag", LogFilter::Flagged, true),
            ("second flag", LogFilter::Flags(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED), true),
            ("other flag", LogFilter::Flags(ResponseFlags::UPSTREAM_REMOTE_RESET), false),
            ("all", LogFilter::All(vec![at_least(500), at_least(504)]), false),
            ("any", LogFilter::Any(vec![at_least(500), at_least(504)]), true),
        ];
        for (name, filter, want) in cases {
            assert_eq!(filter.passes(&entry), want, "{name}");
        }
    }

    #[test]
    fn a_filtered_entry_is_not_written_and_captures_are_shared_by_the_logs() {
        let dir = tempfile::tempdir().unwrap();
        let sinks = LogSinks::default();
        let mut log = AccessLog::default();
        assert!(log.is_off());
        let format = LogFormat::Text("%REQ(a)% %REQ(B?A)% %RESP(c)%\n".into());
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        log.add(sinks.open(&path("all")).unwrap(), &format, None).unwrap();
        log.add(sinks.open(&path("errors")).unwrap(), &format, Some(LogFilter::Status(Comparison::AtLeast, 500))).unwrap();
        assert_eq!(log.wanted.request, ["a", "b"]);
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("1"));
        let captured = log.capture_request(&headers);
        let mut entry = LogEntry::at(SystemTime::UNIX_EPOCH);
        entry.request_headers = Some(&captured);
        log.write(&entry);
        sinks.flush();
        assert_eq!(std::fs::read_to_string(path("all")).unwrap(), "1 1 -\n");
        assert_eq!(std::fs::read_to_string(path("errors")).unwrap(), "");
    }
}
