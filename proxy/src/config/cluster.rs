//! Clusters and endpoints as compiled, with the live state that outlives a swap. No I/O.
//!
//! In:  `envoy.config.cluster.v3.Cluster`, `ClusterLoadAssignment`, and the previous snapshot's live state.
//! Out: [`Cluster`]s by name for `balance` and `connect`.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::listener::Http2Settings;

/// A cluster's name (`outbound|80|v1|host`), hashed once so that the lookup per request costs a comparison.
#[derive(Clone)]
pub struct ClusterName {
    hash: u64,
    name: Arc<str>,
}

impl ClusterName {
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        // A fixed seed: names are made in `compile` and looked up in maps built elsewhere.
        let hash = foldhash::fast::FixedState::default().hash_one(&*name);
        Self { hash, name }
    }

    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl Hash for ClusterName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for ClusterName {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.name, &other.name) || self.name == other.name)
    }
}

impl Eq for ClusterName {}

impl fmt::Display for ClusterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name, formatter)
    }
}

impl From<&str> for ClusterName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// Map from cluster name; the name's own hash is the key's hash.
pub type ClusterMap<V> = HashMap<ClusterName, V, foldhash::fast::FixedState>;

/// One cluster of the snapshot. Equal resources (and equal endpoints) keep their `Arc` over swaps.
#[derive(Debug)]
pub struct Cluster {
    pub name: ClusterName,
    /// Istio's names of the service behind, for labels.
    pub service: ServiceNames,
    pub kind: ClusterKind,
    pub policy: LoadBalancing,
    /// From the first SYN to a usable connection. Source: `connect_timeout` (5 s when unset; Istio sends 10 s).
    pub connect_timeout: Duration,
    pub protocol: UpstreamProtocol,
    pub http2: Http2Settings,
    /// A pooled connection without requests is closed after this. `None`: never. Source: `common_http_protocol_options.idle_timeout` (1 h).
    pub idle_timeout: Option<Duration>,
    /// Requests on one connection before it is drained; 0 is unlimited. Source: `max_requests_per_connection`.
    pub max_requests_per_connection: u32,
    pub transport: Transport,
    /// Requests carry this proxy's peer metadata: set for clusters of the mesh, not for passthrough and outside services.
    pub sends_peer_metadata: bool,
    /// Counters that live on over swaps, found by cluster name.
    pub live: Arc<ClusterLive>,
}

/// Names of the service a cluster stands for. Source: `metadata.filter_metadata["istio"].services[0]`, `subset`, `default_original_port`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceNames {
    /// Fully qualified host; empty when unknown.
    pub host: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub subset: Arc<str>,
}

/// Where a cluster's endpoints come from.
#[derive(Debug)]
pub enum ClusterKind {
    /// STATIC and EDS: the list is part of the snapshot.
    Endpoints(Arc<EndpointList>),
    /// STRICT_DNS and LOGICAL_DNS: `connect::resolve` keeps the list fresh, off the workers. Carried over swaps while `hosts` stay the same.
    Dns(Arc<DnsEndpoints>),
    /// The connection's original destination, at another port if one is given. Source: `ORIGINAL_DST`, `upstream_port_override`.
    OriginalDestination { port: Option<u16> },
    /// The request's authority, resolved when asked for. Source: `envoy.clusters.dynamic_forward_proxy`.
    DynamicForwardProxy,
}

/// Endpoints of a DNS cluster: what to resolve, and the last answer.
#[derive(Debug)]
pub struct DnsEndpoints {
    pub hosts: Vec<DnsHost>,
    /// Replaced by the resolver; empty before the first answer.
    pub resolved: ArcSwap<EndpointList>,
    /// All addresses are endpoints (STRICT_DNS), or only the first answer (LOGICAL_DNS).
    pub all_addresses: bool,
    pub family: LookupFamily,
    /// How often to ask again when the answer's TTL does not say. Source: `dns_refresh_rate` (5 s when unset).
    pub refresh: Duration,
}

impl DnsEndpoints {
    /// What stands for the one endpoint of LOGICAL_DNS whatever its address is: connections to the last address live on when it moves.
    pub fn logical(&self) -> Option<NonZeroU64> {
        let host = self.hosts.first().filter(|_| !self.all_addresses)?;
        NonZeroU64::new(foldhash::fast::FixedState::default().hash_one((&host.host, host.port)) | 1)
    }
}

/// Which addresses of a name count. Source: `Cluster.dns_lookup_family`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LookupFamily {
    /// IPv6 if there is any, else IPv4.
    #[default]
    Auto,
    V4Only,
    V6Only,
    /// IPv4 if there is any, else IPv6.
    V4Preferred,
    All,
}

impl LookupFamily {
    /// The addresses that count, in the order of the answer.
    pub fn choose(self, answer: &[IpAddr]) -> Vec<IpAddr> {
        let of = |v4: bool| answer.iter().copied().filter(|ip| ip.is_ipv4() == v4).collect::<Vec<_>>();
        let first = |v4: bool| if answer.iter().any(|ip| ip.is_ipv4() == v4) { of(v4) } else { of(!v4) };
        match self {
            Self::Auto => first(false),
            Self::V4Preferred => first(true),
            Self::V4Only => of(true),
            Self::V6Only => of(false),
            Self::All => answer.to_vec(),
        }
    }
}

/// One name to resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsHost {
    pub host: Box<str>,
    pub port: u16,
    pub weight: u32,
    pub peer: Arc<PeerLabels>,
}

/// Which endpoint gets the next request. Source: `Cluster.lb_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadBalancing {
    /// The less busy of two random choices, by open requests (per weight where weights differ).
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
}

/// HTTP version towards the endpoints. Source: `HttpProtocolOptions.upstream_protocol_options`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    Http2,
    /// What the downstream spoke. Source: `use_downstream_protocol_config`.
    Downstream,
}

impl UpstreamProtocol {
    /// Whether a request that came in this version is sent as HTTP/2.
    pub fn is_http2(self, downstream: http::Version) -> bool {
        match self {
            Self::Http1 => false,
            Self::Http2 => true,
            Self::Downstream => downstream == http::Version::HTTP_2,
        }
    }
}

/// How bytes travel to an endpoint. Part of the pool's key: a change opens new connections and drains the old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Transport {
    /// 0 is plaintext; otherwise a hash over everything that makes TLS connections differ.
    pub fingerprint: u64,
}

/// The endpoints of a cluster that may be chosen.
#[derive(Debug, Default)]
pub struct EndpointList {
    pub endpoints: Vec<Arc<Endpoint>>,
    /// All weights are the same, so weights need not be looked at.
    pub uniform: bool,
    pub total_weight: u64,
}

impl EndpointList {
    pub fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        let total_weight = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        let uniform = endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Self { endpoints, uniform, total_weight }
    }
}

/// One endpoint.
#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// At least 1. Source: `load_balancing_weight`.
    pub weight: u32,
    /// Who is behind the address; `Arc` shared by endpoints of one workload.
    pub peer: Arc<PeerLabels>,
    /// Carried over swaps by (cluster, address).
    pub live: Arc<EndpointLive>,
}

/// What labels say about a workload at the other end of a connection. Missing values are empty and printed `unknown`.
///
/// Source: endpoint metadata (`ARCHITECTURE.md`, Endpoints) outbound, `x-envoy-peer-metadata` inbound. Never used for policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PeerLabels {
    pub workload: Box<str>,
    pub namespace: Box<str>,
    pub app: Box<str>,
    pub version: Box<str>,
    pub canonical_service: Box<str>,
    pub canonical_revision: Box<str>,
    pub cluster: Box<str>,
    pub service_account: Box<str>,
    /// Name of the replica (`product-v1-0`).
    pub instance: Box<str>,
}

/// What all workers know of an endpoint. Atomics only.
#[derive(Debug, Default)]
pub struct EndpointLive {
    /// Requests (or TCP connections) sent to it and not finished.
    pub open_requests: AtomicU32,
    pub requests: AtomicU64,
    pub errors: AtomicU64,
    /// Connections open to it, pooled or busy.
    pub connections: AtomicU32,
}

/// What all workers know of a cluster. Atomics only.
#[derive(Debug, Default)]
pub struct ClusterLive {
    pub requests: AtomicU64,
    pub retries: AtomicU64,
    pub connect_failures: AtomicU64,
    pub timeouts: AtomicU64,
}

/// An open request at an endpoint: counted while this lives.
#[derive(Debug)]
pub struct OpenRequest(Arc<EndpointLive>);

impl OpenRequest {
    pub fn new(live: &Arc<EndpointLive>) -> Self {
        live.open_requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(live))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_names_are_found_whoever_made_them() {
        let mut map: ClusterMap<u8> = ClusterMap::default();
        map.insert(ClusterName::new("outbound|80|v1|a"), 1);
        assert_eq!(map.get(&ClusterName::new(String::from("outbound|80|v1|a"))), Some(&1));
        assert_eq!(map.get(&ClusterName::new("outbound|80|v2|a")), None);
    }

    #[test]
    fn a_lookup_family_chooses_among_the_addresses_of_a_name() {
        let [a, b, six]: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "::1"].map(|ip| ip.parse().unwrap());
        let cases: [(LookupFamily, &[IpAddr], &[IpAddr]); 7] = [
            (LookupFamily::Auto, &[a, six, b], &[six]),
            (LookupFamily::Auto, &[a, b], &[a, b]),
            (LookupFamily::V4Preferred, &[six, b, a], &[b, a]),
            (LookupFamily::V4Preferred, &[six], &[six]),
            (LookupFamily::V4Only, &[six], &[]),
            (LookupFamily::V6Only, &[a, six], &[six]),
            (LookupFamily::All, &[a, six, b], &[a, six, b]),
        ];
        for (family, answer, want) in cases {
            assert_eq!(family.choose(answer), want, "{family:?} {answer:?}");
        }
    }

    #[test]
    fn a_request_is_open_while_its_guard_lives() {
        let live = Arc::new(EndpointLive::default());
        let guard = OpenRequest::new(&live);
        assert_eq!(live.open_requests.load(Ordering::Relaxed), 1);
        drop(guard);
        assert_eq!(live.open_requests.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_endpoint_list_knows_whether_weights_matter() {
        let endpoint = |weight| {
            Arc::new(Endpoint { address: SocketAddr::from(([127, 0, 0, 1], 1)), weight, peer: Arc::default(), live: Arc::default() })
        };
        let cases = [("none", vec![], true, 0), ("equal", vec![2, 2], true, 4), ("different", vec![1, 2], false, 3)];
        for (name, weights, uniform, total) in cases {
            let list = EndpointList::new(weights.into_iter().map(endpoint).collect());
            assert_eq!((list.uniform, list.total_weight), (uniform, total), "{name}");
        }
    }
}
