//! Listeners as compiled: filter chains, HTTP connection manager settings, TCP proxies. Plain data, no I/O.
//!
//! In:  `envoy.config.listener.v3.Listener`, read by `config::compile`.
//! Out: [`Listener`]s by name and by address, for `listener::accept` and for tunnels that enter a listener without a socket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::cluster::ClusterName;
use super::route_table::RouteTable;
use crate::telemetry::access_log::AccessLog;

/// Which side of the workload a listener serves.
///
/// Source: `Listener.traffic_direction`; a gateway's listeners are `Unspecified` or `Outbound` as the control plane says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// The application (or a gateway's client) calls out: metrics are reported by the source.
    #[default]
    Outbound,
    /// Others call the application: metrics are reported by the destination, peer metadata is read and removed.
    Inbound,
}

/// One listener. Never changed after `compile` built it; equal resources keep their `Arc` over swaps.
#[derive(Debug)]
pub struct Listener {
    /// Resource name, as in `ARCHITECTURE.md`.
    pub name: Arc<str>,
    pub address: SocketAddr,
    /// `false`: nothing is bound; the listener is entered by tunnels and redirected connections only. Source: `bind_to_port`.
    pub bind: bool,
    pub direction: Direction,
    /// The connection's original destination chooses another listener, this one serving only what none matches. Source: `use_original_dst`.
    pub use_original_dst: bool,
    /// In the order of the resource. The choice is Envoy's: by destination port, then address, then server name, transport, application protocol.
    pub chains: Vec<Arc<FilterChain>>,
    /// Taken when no chain matches. Source: `default_filter_chain`.
    pub default_chain: Option<Arc<FilterChain>>,
    /// How long to wait for first bytes where chains differ by protocol. `None`: for ever. Source: `listener_filters_timeout` (15 s when unset, 0 is never).
    pub sniff_timeout: Option<Duration>,
    /// On that timeout go on with what is known instead of closing. Source: `continue_on_listener_filters_timeout`.
    pub continue_on_sniff_timeout: bool,
}

impl Listener {
    /// Whether first bytes must be seen before a chain can be chosen (`listener::sniff` runs only then).
    pub fn needs_sniff(&self) -> bool {
        self.chains.iter().any(|chain| chain.matches.transport != TransportMatch::Any || !chain.matches.application_protocols.is_empty())
    }
}

/// One filter chain: when it applies, and the terminal filter.
#[derive(Debug)]
pub struct FilterChain {
    /// Unique in its listener; `compile` numbers unnamed ones. A kept-alive connection finds its chain of the next snapshot by this name.
    pub name: Arc<str>,
    pub matches: ChainMatch,
    pub filter: NetworkFilter,
}

/// Conditions of a chain; empty fields match everything. Source: `FilterChainMatch`.
#[derive(Debug, Clone, Default)]
pub struct ChainMatch {
    pub destination_port: Option<u16>,
    /// Destination address ranges as (network, prefix length). Empty: any.
    pub destination_ranges: Vec<(IpAddr, u8)>,
    /// Exact names or `*.suffix`, lower case. Empty: any.
    pub server_names: Vec<Box<str>>,
    pub transport: TransportMatch,
    /// ALPN values, or `http/1.1`, `h2c` as the HTTP inspector reports them for plaintext. Empty: any.
    pub application_protocols: Vec<Box<str>>,
}

/// Source: `FilterChainMatch.transport_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportMatch {
    #[default]
    Any,
    Tls,
    RawBuffer,
}

/// What serves the connections of a chain.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    Http(Arc<HttpManager>),
    Tcp(Arc<TcpProxy>),
}

/// Opaque forwarding. Source: `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
#[derive(Debug)]
pub struct TcpProxy {
    pub stat_prefix: Arc<str>,
    pub clusters: TcpClusters,
    /// Both directions silent for this long ends the connection. `None`: never. Source: `idle_timeout` (1 h when unset, 0 is never).
    pub idle_timeout: Option<Duration>,
    /// Tries to connect, at least 1. Source: `max_connect_attempts`.
    pub max_connect_attempts: u32,
    /// All logs of this filter, compiled. What its formats print is captured by its `capture_*` functions while a head is at hand.
    pub access_log: Arc<AccessLog>,
}

/// Source: `TcpProxy.cluster` or `TcpProxy.weighted_clusters`.
#[derive(Debug)]
pub enum TcpClusters {
    Single(ClusterName),
    /// (running sum of weights, cluster); the last sum is the total and is not 0.
    Weighted(Vec<(u32, ClusterName)>),
}

/// The form that a path is given before rules look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathForm {
    /// Replace `.`/`..` segments, `\` and `%`-encoded unreserved characters. Source: `normalize_path`.
    pub normalize: bool,
    /// Source: `merge_slashes`.
    pub merge_slashes: bool,
    /// Source: `path_with_escaped_slashes_action`.
    pub escaped_slashes: EscapedSlashes,
}

impl PathForm {
    pub const AS_IT_IS: Self = Self { normalize: false, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep };
}

/// What happens to `%2F` and `%5C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    Keep,
    /// The request is answered 400.
    Refuse,
    Unescape,
}

/// Settings of one HTTP connection manager. `Default` is Envoy's defaults as far as they are not Istio's.
///
/// Source: `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
#[derive(Debug)]
pub struct HttpManager {
    pub stat_prefix: Arc<str>,
    pub codec: Codec,
    pub routes: RouteSource,
    /// Value of the `server` response header, overwriting the upstream's. `None`: pass through. Source: `server_name` with `server_header_transformation`.
    pub server_header: Option<HeaderValue>,
    /// The downstream address is trusted and appended to `x-forwarded-for`. Source: `use_remote_address`.
    pub use_remote_address: bool,
    /// Make `x-request-id` when the request has none. Source: `generate_request_id` (true).
    pub generate_request_id: bool,
    /// At the edge too, an `x-request-id` that comes from outside is kept. Source: `preserve_external_request_id`.
    pub preserve_request_id: bool,
    /// What paths are made before they are matched.
    pub paths: PathForm,
    /// Largest request head in bytes, 8 KiB to 8 MiB; more is answered 431. Source: `max_request_headers_kb` (60).
    pub max_request_header_bytes: u32,
    /// Most request headers; more is answered 431. Source: `common_http_protocol_options.max_headers_count` (100).
    pub max_request_headers: u32,
    /// From the first byte of a request to the end of its head. `None`: the connection's idle timeout alone. Source: `request_headers_timeout`.
    pub request_headers_timeout: Option<Duration>,
    /// Neither side of a stream moves for this long: 408 or reset, flag `SI`. `None`: never. Source: `stream_idle_timeout` (5 min in Envoy, 0 in Istio).
    pub stream_idle_timeout: Option<Duration>,
    /// A connection without a request is closed after this. `None`: never. Source: `common_http_protocol_options.idle_timeout` (1 h).
    pub idle_timeout: Option<Duration>,
    pub http2: Http2Settings,
    /// Upgrade tokens allowed on every route, lower case (`websocket`); `*` allows all. Source: `upgrade_configs`.
    pub upgrades: Vec<Box<str>>,
    /// `CONNECT` opens a tunnel into the listener of the name asked for. Source: `upgrade_configs` with `CONNECT`.
    pub connect: bool,
    /// The fault filter is in the chain, so per-route faults apply. Source: `envoy.filters.http.fault`.
    pub fault: bool,
    /// The cors filter is in the chain, so per-route policies apply. Source: `envoy.filters.http.cors`.
    pub cors: bool,
    /// All logs of this filter, compiled. What its formats print is captured by its `capture_*` functions while a head is at hand.
    pub access_log: Arc<AccessLog>,
}

impl Default for HttpManager {
    fn default() -> Self {
        Self {
            stat_prefix: Arc::from(""),
            codec: Codec::Auto,
            routes: RouteSource::Named(Arc::from("")),
            server_header: Some(HeaderValue::from_static("istio-envoy")),
            use_remote_address: false,
            generate_request_id: true,
            preserve_request_id: false,
            paths: PathForm::AS_IT_IS,
            max_request_header_bytes: 60 << 10,
            max_request_headers: 100,
            request_headers_timeout: None,
            stream_idle_timeout: None,
            idle_timeout: Some(Duration::from_secs(3600)),
            http2: Http2Settings::default(),
            upgrades: vec!["websocket".into()],
            connect: false,
            fault: false,
            cors: false,
            access_log: Arc::default(),
        }
    }
}

/// Source: `codec_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// HTTP/2 when the connection opens with its preface.
    #[default]
    Auto,
    Http1,
    Http2,
}

/// Where a connection manager finds its routes.
#[derive(Debug, Clone)]
pub enum RouteSource {
    Inline(Arc<RouteTable>),
    /// The route configuration of this name in the same snapshot. Missing: 404 `NR`.
    Named(Arc<str>),
}

/// HTTP/2 limits of one side. Source: `Http2ProtocolOptions`; windows in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Http2Settings {
    /// Streams a peer may have open. Envoy's own default is 2^31-1; ours bounds memory.
    pub max_concurrent_streams: u32,
    pub initial_stream_window: u32,
    pub initial_connection_window: u32,
    /// PING after this silence. `None`: never. Source: `connection_keepalive.interval`.
    pub keep_alive_interval: Option<Duration>,
    /// How long a PING may stay unanswered. Source: `connection_keepalive.timeout`.
    pub keep_alive_timeout: Duration,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            initial_stream_window: 1 << 20,
            initial_connection_window: 16 << 20,
            keep_alive_interval: None,
            keep_alive_timeout: Duration::from_secs(20),
        }
    }
}

/// Every listener, and the choice of one for a destination address.
#[derive(Debug, Default)]
pub struct ListenerTable {
    by_name: HashMap<Arc<str>, Arc<Listener>, foldhash::fast::RandomState>,
    bound: HashMap<SocketAddr, Arc<Listener>, foldhash::fast::RandomState>,
    unbound: HashMap<SocketAddr, Arc<Listener>, foldhash::fast::RandomState>,
}

impl ListenerTable {
    /// Of two bound (or two unbound) listeners for one address the first given is found by address; both are found by name.
    pub fn new(listeners: impl IntoIterator<Item = Arc<Listener>>) -> Self {
        let mut table = Self::default();
        for listener in listeners {
            let by_address = if listener.bind { &mut table.bound } else { &mut table.unbound };
            by_address.entry(listener.address).or_insert_with(|| Arc::clone(&listener));
            table.by_name.insert(Arc::clone(&listener.name), listener);
        }
        table
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Listener>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.by_name.values()
    }

    /// The listener that is bound to an address.
    pub fn bound(&self, address: SocketAddr) -> Option<&Arc<Listener>> {
        self.bound.get(&address)
    }

    /// The unbound listener for a destination: its exact address, else the wildcard address of its port.
    ///
    /// Source: Envoy's `use_original_dst`; tunnels opened by `CONNECT` use the same function. Bound listeners have sockets to enter them by.
    pub fn for_address(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        let wildcard = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), destination.port());
        self.unbound.get(&destination).or_else(|| self.unbound.get(&wildcard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, address: &str) -> Arc<Listener> {
        Arc::new(Listener {
            name: name.into(),
            address: address.parse().unwrap(),
            bind: false,
            direction: Direction::Outbound,
            use_original_dst: false,
            chains: Vec::new(),
            default_chain: None,
            sniff_timeout: None,
            continue_on_sniff_timeout: false,
        })
    }

    #[test]
    fn an_address_chooses_the_exact_listener_before_the_wildcard() {
        let table = ListenerTable::new([listener("wild", "0.0.0.0:80"), listener("exact", "240.240.0.1:80")]);
        let cases = [("240.240.0.1:80", Some("exact")), ("240.240.0.2:80", Some("wild")), ("240.240.0.1:81", None)];
        for (address, want) in cases {
            let got = table.for_address(address.parse().unwrap()).map(|listener| &*listener.name);
            assert_eq!(got, want, "{address}");
        }
    }
}
