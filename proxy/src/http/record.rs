//! What is known of a request when it is over: the only thing telemetry sees of the request path.
//!
//! In:  facts gathered by `http::context` and `tcp`.
//! Out: one call of [`Recorder::request`] (or [`Recorder::tcp`]) per exchange, in one place (`finish`).

use std::any::Any;
use std::cell::OnceCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Uri, Version};
use tokio::time::Instant;

use crate::config::cluster::{Cluster, Endpoint, PeerLabels};
use crate::config::listener::{Direction, HttpManager, Listener, TcpProxy};
use crate::telemetry::access_log::Captured;

/// Telemetry of one worker. Called on the worker's thread, so it may use cells and never blocks.
///
/// `telemetry` implements it over per-worker shards; tests implement it to see what happened.
pub trait Recorder {
    /// An HTTP exchange is over (complete, failed, or abandoned by the downstream).
    fn request(&self, record: &RequestRecord<'_>);

    /// A TCP connection was opened (`closed` is `None`) or is over.
    fn tcp(&self, record: &TcpRecord<'_>);

    /// Decode the value of `x-envoy-peer-metadata`. Asked once per value that a connection brings; `None` when it makes no sense.
    fn peer(&self, metadata: &[u8]) -> Option<PeerLabels>;
}

/// A place for metric handles, kept beside what they are labelled with: the worker's endpoint or the connection's peer.
///
/// Telemetry puts its own type here on first use, so that a request finds its counters without a look-up by labels.
#[derive(Default)]
pub struct HandleSlot(OnceCell<Box<dyn Any>>);

impl HandleSlot {
    /// What telemetry left here, made on first use. A type other than the one that is there yields a fresh value in no slot: `None`.
    pub fn get_or_init<T: 'static>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

impl fmt::Debug for HandleSlot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HandleSlot")
    }
}

/// The peer of an inbound connection, and the handles of its metrics.
#[derive(Debug, Default)]
pub struct Peer {
    pub labels: PeerLabels,
    pub handles: HandleSlot,
}

/// Protocol of an exchange, as label `request_protocol` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http,
    Grpc,
}

/// All facts of one HTTP exchange.
#[derive(Debug)]
pub struct RequestRecord<'a> {
    pub direction: Direction,
    pub listener: &'a Listener,
    /// For `stat_prefix` and `access_log`.
    pub manager: &'a HttpManager,
    pub protocol: Protocol,
    /// HTTP version of the downstream.
    pub version: Version,
    /// Status sent to the downstream; 0 when none was sent.
    pub status: u16,
    /// From trailers, or the headers of a trailers-only reply. `None`: not gRPC, or never seen.
    pub grpc_status: Option<u16>,
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: &'a str,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`; empty when there is none.
    pub upstream_failure: &'a str,
    /// Body bytes from and to the downstream.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// When the head of the request was there, by the worker's clock.
    pub started: Instant,
    /// From `started` to the end of the exchange.
    pub duration: Duration,
    /// Until the upstream's response head. Also value of `x-envoy-upstream-service-time`.
    pub upstream_service_time: Option<Duration>,
    /// Tries made; 0 when none.
    pub attempts: u32,
    pub route_name: &'a str,
    pub cluster: Option<&'a Cluster>,
    pub endpoint: Option<&'a Endpoint>,
    /// Handles kept beside the endpoint in this worker's view (outbound).
    pub endpoint_handles: Option<&'a HandleSlot>,
    /// Handles kept beside the cluster in this worker's view, for exchanges without an endpoint.
    pub cluster_handles: Option<&'a HandleSlot>,
    /// The peer by its metadata header (inbound). `None`: unknown.
    pub peer: Option<&'a Rc<Peer>>,
    /// Handles kept beside the downstream connection, for exchanges without endpoint or peer.
    pub connection_handles: &'a HandleSlot,
    pub downstream_remote: SocketAddr,
    pub downstream_local: SocketAddr,
    pub upstream_local: Option<SocketAddr>,
    /// Present unless the manager's `access_log.is_off()`.
    pub log: Option<&'a LogFacts>,
}

/// Parts of a request that only access logs need; captured before any change, and only when the manager has access logs.
#[derive(Debug, Default)]
pub struct LogFacts {
    /// Method and target as received: the original path and query, and the authority of an absolute form. `None`: they could not be read.
    pub line: Option<(Method, Uri)>,
    /// `Host` or `:authority` as received.
    pub authority: Option<HeaderValue>,
    /// Of the request's headers as received plus those the proxy adds (`x-request-id`): `access_log.capture_request(&headers)`.
    pub request_headers: Captured,
    /// Of the response's headers as sent: `capture_response`; the default when no response was.
    pub response_headers: Captured,
    /// Of the trailers as sent: `capture_trailers`.
    pub response_trailers: Captured,
}

/// All facts of one TCP connection.
#[derive(Debug)]
pub struct TcpRecord<'a> {
    pub direction: Direction,
    pub listener: &'a Listener,
    pub proxy: &'a TcpProxy,
    pub cluster: Option<&'a Cluster>,
    pub endpoint: Option<&'a Endpoint>,
    pub endpoint_handles: Option<&'a HandleSlot>,
    pub downstream_remote: SocketAddr,
    pub downstream_local: SocketAddr,
    pub upstream_local: Option<SocketAddr>,
    pub started: Instant,
    /// `None`: the connection was just opened.
    pub closed: Option<TcpClosed<'a>>,
}

/// How a TCP connection ended.
#[derive(Debug)]
pub struct TcpClosed<'a> {
    pub duration: Duration,
    /// From the downstream.
    pub bytes_received: u64,
    /// To the downstream.
    pub bytes_sent: u64,
    pub flags: ResponseFlags,
    pub upstream_failure: &'a str,
}

/// Set of Envoy's response flags. Printed in their short form, joined by `,`; `-` when empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ResponseFlags(pub u32);

impl ResponseFlags {
    pub const NONE: Self = Self(0);
    pub const NO_HEALTHY_UPSTREAM: Self = Self(1);
    pub const UPSTREAM_REQUEST_TIMEOUT: Self = Self(1 << 1);
    pub const LOCAL_RESET: Self = Self(1 << 2);
    pub const UPSTREAM_REMOTE_RESET: Self = Self(1 << 3);
    pub const UPSTREAM_CONNECTION_FAILURE: Self = Self(1 << 4);
    pub const UPSTREAM_CONNECTION_TERMINATION: Self = Self(1 << 5);
    pub const UPSTREAM_OVERFLOW: Self = Self(1 << 6);
    pub const NO_ROUTE_FOUND: Self = Self(1 << 7);
    pub const DELAY_INJECTED: Self = Self(1 << 8);
    pub const FAULT_INJECTED: Self = Self(1 << 9);
    pub const DOWNSTREAM_CONNECTION_TERMINATION: Self = Self(1 << 10);
    pub const UPSTREAM_RETRY_LIMIT_EXCEEDED: Self = Self(1 << 11);
    pub const STREAM_IDLE_TIMEOUT: Self = Self(1 << 12);
    pub const DOWNSTREAM_PROTOCOL_ERROR: Self = Self(1 << 13);
    pub const UPSTREAM_PROTOCOL_ERROR: Self = Self(1 << 14);
    pub const NO_CLUSTER_FOUND: Self = Self(1 << 15);
    pub const DNS_RESOLUTION_FAILED: Self = Self(1 << 16);
    pub const DURATION_TIMEOUT: Self = Self(1 << 17);
    pub const DROP_OVERLOAD: Self = Self(1 << 18);

    /// In Envoy's order of printing, which is that of setting them: what was injected, the end of retries, what happened.
    const SHORT: [(Self, &'static str); 19] = [
        (Self::DELAY_INJECTED, "DI"),
        (Self::FAULT_INJECTED, "FI"),
        (Self::UPSTREAM_RETRY_LIMIT_EXCEEDED, "URX"),
        (Self::NO_HEALTHY_UPSTREAM, "UH"),
        (Self::UPSTREAM_REQUEST_TIMEOUT, "UT"),
        (Self::LOCAL_RESET, "LR"),
        (Self::UPSTREAM_REMOTE_RESET, "UR"),
        (Self::UPSTREAM_CONNECTION_FAILURE, "UF"),
        (Self::UPSTREAM_CONNECTION_TERMINATION, "UC"),
        (Self::UPSTREAM_OVERFLOW, "UO"),
        (Self::NO_ROUTE_FOUND, "NR"),
        (Self::DOWNSTREAM_CONNECTION_TERMINATION, "DC"),
        (Self::STREAM_IDLE_TIMEOUT, "SI"),
        (Self::DOWNSTREAM_PROTOCOL_ERROR, "DPE"),
        (Self::DURATION_TIMEOUT, "DT"),
        (Self::UPSTREAM_PROTOCOL_ERROR, "UPE"),
        (Self::NO_CLUSTER_FOUND, "NC"),
        (Self::DNS_RESOLUTION_FAILED, "DF"),
        (Self::DROP_OVERLOAD, "DO"),
    ];

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The flag of a short form (`UF`). `None`: no flag that this proxy sets.
    pub fn from_short(short: &str) -> Option<Self> {
        Self::SHORT.iter().find(|(_, name)| *name == short).map(|(flag, _)| *flag)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (flag, short) in Self::SHORT {
            if self.has(flag) {
                write!(formatter, "{separator}{short}")?;
                separator = ",";
            }
        }
        if separator.is_empty() { formatter.write_str("-") } else { Ok(()) }
    }
}

/// A [`Recorder`] that keeps nothing.
#[derive(Debug, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {
    fn request(&self, _: &RequestRecord<'_>) {}

    fn tcp(&self, _: &TcpRecord<'_>) {}

    fn peer(&self, _: &[u8]) -> Option<PeerLabels> {
        None
    }
}

/// Makes the recorder of each worker, by the worker's index. Called on the worker's thread.
pub type MakeRecorder = Arc<dyn Fn(usize) -> Rc<dyn Recorder> + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_as_envoy_prints_them() {
        let cases = [
            (ResponseFlags::NONE, "-"),
            (ResponseFlags::NO_ROUTE_FOUND, "NR"),
            (ResponseFlags::DELAY_INJECTED.with(ResponseFlags::UPSTREAM_CONNECTION_FAILURE), "DI,UF"),
        ];
        for (flags, want) in cases {
            assert_eq!(flags.to_string(), want);
        }
    }

    #[test]
    fn a_slot_keeps_what_is_put_there_first() {
        let slot = HandleSlot::default();
        assert_eq!(slot.get_or_init(|| 1_u8), Some(&1));
        assert_eq!(slot.get_or_init(|| 2_u8), Some(&1));
        assert_eq!(slot.get_or_init(|| "text"), None);
    }
}
