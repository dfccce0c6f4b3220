//! Clusters and endpoints.
//!
//! In:  `envoy.config.cluster.v3.Cluster`, `ClusterLoadAssignment`.
//! Out: [`ClusterSpec`]s and [`EndpointSpec`]s; `assemble` joins them with live state.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pillion_xds::names::ClusterParts;
use pillion_xds::subscription::endpoints_of;
use pillion_xds::wire::envoy::config::cluster::v3 as wire;
use pillion_xds::wire::envoy::config::core::v3 as core;
use pillion_xds::wire::envoy::config::endpoint::v3 as endpoint;
use pillion_xds::wire::envoy::extensions::upstreams::http::v3::{HttpProtocolOptions, http_protocol_options};
use pillion_xds::wire::google::protobuf as proto;
use wire::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbConfig, LbPolicy};

use super::at::{At, Compiled, note_set, refuse_set};
use super::http_manager::over_ads;
use super::listener::plaintext;
use super::value::{bounded, duration, enumeration, host_and_port, http2, resource_name, socket_address, struct_text, timeout, unpack};
use crate::config::cluster::{DnsHost, LoadBalancing, LookupFamily, PeerLabels, ServiceNames, UpstreamProtocol};
use crate::config::listener::Http2Settings;

/// Endpoints of one cluster.
const MAX_ENDPOINTS: usize = 100_000;
/// Source: `Cluster.connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Source: `common_http_protocol_options.idle_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Source: `Cluster.dns_refresh_rate`.
const DNS_REFRESH: Duration = Duration::from_secs(5);

/// A cluster without its endpoints and live state.
#[derive(Debug)]
pub(super) struct ClusterSpec {
    pub(super) service: ServiceNames,
    pub(super) discovery: Discovery,
    pub(super) policy: LoadBalancing,
    pub(super) connect_timeout: Duration,
    pub(super) protocol: UpstreamProtocol,
    pub(super) http2: Http2Settings,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_requests_per_connection: u32,
}

/// Where endpoints come from.
#[derive(Debug)]
pub(super) enum Discovery {
    Static(Arc<Vec<EndpointSpec>>),
    /// By the assignment of this name.
    Eds(Arc<str>),
    Dns {
        hosts: Vec<DnsHost>,
        all_addresses: bool,
        family: LookupFamily,
        refresh: Duration,
    },
    OriginalDestination {
        port: Option<u16>,
    },
    DynamicForwardProxy,
}

/// One endpoint without its live state.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EndpointSpec {
    pub(super) address: SocketAddr,
    pub(super) weight: u32,
    pub(super) peer: PeerLabels,
}

pub(super) fn cluster(at: &At<'_>, wire: &wire::Cluster) -> Compiled<ClusterSpec> {
    refuse_set!(wire, at, [transport_socket_matches, transport_socket_matcher, lb_subset_config, upstream_config, filters]);
    note_set!(
        wire,
        at,
        [
            health_checks,
            outlier_detection,
            circuit_breakers,
            common_lb_config,
            upstream_bind_config,
            preconnect_policy,
            upstream_connection_options,
            connection_pool_per_downstream_connection,
            dns_failure_refresh_rate,
        ]
    );
    if !matches!(wire.lb_config, None | Some(LbConfig::OriginalDstLbConfig(_))) {
        at.field("lb_config").note("has no effect yet");
    }
    resource_name(&at.field("name"), &wire.name)?;
    plaintext(&at.field("transport_socket"), wire.transport_socket.as_ref())?;
    let options = http_options(at, wire)?;
    let max_requests = options.max_requests.or(wire.max_requests_per_connection).map_or(0, |max| max.value);
    let at_connect = at.field("connect_timeout");
    let connect_timeout = wire.connect_timeout.as_ref().map(|time| duration(&at_connect, time)).transpose()?.unwrap_or(CONNECT_TIMEOUT);
    if connect_timeout.is_zero() {
        return Err(at_connect.refuse("is more than 0"));
    }
    Ok(ClusterSpec {
        service: service_names(wire),
        discovery: discovery(at, wire)?,
        policy: load_balancing(at, wire)?,
        connect_timeout,
        protocol: options.protocol,
        http2: options.http2,
        idle_timeout: options.idle_timeout,
        max_requests_per_connection: max_requests,
    })
}

/// Source: Istio's cluster metadata; where there is none, what the name says.
fn service_names(wire: &wire::Cluster) -> ServiceNames {
    let metadata = wire.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get("istio"));
    let service = metadata.and_then(|istio| match istio.fields.get("services")?.kind.as_ref()? {
        proto::value::Kind::ListValue(list) => match list.values.first()?.kind.as_ref()? {
            proto::value::Kind::StructValue(service) => Some(service),
            _ => None,
        },
        _ => None,
    });
    let text = |key| service.map_or("", |service| struct_text(service, key));
    let subset = metadata.map_or("", |istio| struct_text(istio, "subset"));
    let by_name = match ClusterParts::parse(&wire.name) {
        ClusterParts::Outbound { subset, host, .. } => {
            let mut labels = host.split('.');
            let name = labels.next().unwrap_or_default();
            let namespace = labels.next().filter(|_| labels.next() == Some("svc")).unwrap_or_default();
            // A host outside of the cluster has no short name.
            (host, if namespace.is_empty() { host } else { name }, namespace, subset)
        }
        ClusterParts::Inbound { .. } => ("", "", "", ""),
        // `PassthroughCluster` and its like are service names of their own on dashboards.
        ClusterParts::Passthrough | ClusterParts::BlackHole | ClusterParts::Other(_) => ("", wire.name.as_str(), "", ""),
    };
    let or = |given: &str, name: &str| -> Arc<str> { if given.is_empty() { name.into() } else { given.into() } };
    ServiceNames {
        host: or(text("host"), by_name.0),
        name: or(text("name"), by_name.1),
        namespace: or(text("namespace"), by_name.2),
        subset: or(subset, by_name.3),
    }
}

fn discovery(at: &At<'_>, wire: &wire::Cluster) -> Compiled<Discovery> {
    let kind = match wire.cluster_discovery_type.as_ref() {
        // Zero is left out on the wire by some: STATIC is the default.
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => enumeration::<DiscoveryType>(&at.field("type"), *kind)?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return match custom.name.as_str() {
                "envoy.clusters.dynamic_forward_proxy" => Ok(Discovery::DynamicForwardProxy),
                name => Err(at.field("cluster_type").refuse(format_args!("{name} is not supported"))),
            };
        }
    };
    let assignment = wire.load_assignment.as_ref();
    let at_assignment = at.field("load_assignment");
    Ok(match kind {
        DiscoveryType::Static => Discovery::Static(match assignment {
            Some(assignment) => endpoints(&at_assignment, assignment)?.into(),
            None => Arc::default(),
        }),
        DiscoveryType::Eds => {
            let at = at.field("eds_cluster_config");
            let config = wire.eds_cluster_config.as_ref().ok_or_else(|| at.refuse("is missing"))?;
            over_ads(&at.field("eds_config"), config.eds_config.as_ref())?;
            Discovery::Eds(endpoints_of(wire).unwrap_or(&wire.name).into())
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let assignment = assignment.ok_or_else(|| at_assignment.refuse("is missing"))?;
            let hosts = dns_hosts(&at_assignment, assignment)?;
            if kind == DiscoveryType::LogicalDns && hosts.len() != 1 {
                return Err(at_assignment.refuse("a LOGICAL_DNS cluster has exactly one endpoint"));
            }
            let at_refresh = at.field("dns_refresh_rate");
            let refresh = wire.dns_refresh_rate.as_ref().map(|rate| duration(&at_refresh, rate)).transpose()?.unwrap_or(DNS_REFRESH);
            if refresh < Duration::from_millis(1) {
                return Err(at_refresh.refuse("is at least 1 ms"));
            }
            let family = match enumeration::<DnsLookupFamily>(&at.field("dns_lookup_family"), wire.dns_lookup_family)? {
                DnsLookupFamily::Auto => LookupFamily::Auto,
                DnsLookupFamily::V4Only => LookupFamily::V4Only,
                DnsLookupFamily::V6Only => LookupFamily::V6Only,
                DnsLookupFamily::V4Preferred => LookupFamily::V4Preferred,
                DnsLookupFamily::All => LookupFamily::All,
            };
            Discovery::Dns { hosts, all_addresses: kind == DiscoveryType::StrictDns, family, refresh: refresh.max(Duration::from_secs(1)) }
        }
        DiscoveryType::OriginalDst => Discovery::OriginalDestination { port: port_override(at, wire)? },
    })
}

/// The port that takes the place of the original destination's. Destinations that a request may name itself are not supported.
fn port_override(at: &At<'_>, wire: &wire::Cluster) -> Compiled<Option<u16>> {
    let Some(LbConfig::OriginalDstLbConfig(config)) = &wire.lb_config else { return Ok(None) };
    let at = at.field("original_dst_lb_config");
    refuse_set!(config, at, [use_http_header, http_header_name, metadata_key]);
    let at = at.field("upstream_port_override");
    config.upstream_port_override.as_ref().map(|port| u16::try_from(port.value).map_err(|_| at.refuse("is no port"))).transpose()
}

fn load_balancing(at: &At<'_>, wire: &wire::Cluster) -> Compiled<LoadBalancing> {
    if let Some(policy) = &wire.load_balancing_policy {
        let known = policy.policies.iter().find_map(|policy| match policy.typed_extension_config.as_ref()?.name.as_str() {
            "envoy.load_balancing_policies.least_request" => Some(LoadBalancing::LeastRequest),
            "envoy.load_balancing_policies.round_robin" => Some(LoadBalancing::RoundRobin),
            "envoy.load_balancing_policies.random" => Some(LoadBalancing::Random),
            _ => None,
        });
        return known.ok_or_else(|| at.field("load_balancing_policy").refuse("names no policy that is supported"));
    }
    let at = at.field("lb_policy");
    match enumeration::<LbPolicy>(&at, wire.lb_policy)? {
        LbPolicy::LeastRequest => Ok(LoadBalancing::LeastRequest),
        // Original destinations choose nothing.
        LbPolicy::RoundRobin | LbPolicy::ClusterProvided => Ok(LoadBalancing::RoundRobin),
        LbPolicy::Random => Ok(LoadBalancing::Random),
        other => Err(at.refuse(format_args!("{} is not supported", other.as_str_name()))),
    }
}

/// What `HttpProtocolOptions`, or the older fields of the cluster itself, say.
struct HttpOptions {
    protocol: UpstreamProtocol,
    http2: Http2Settings,
    idle_timeout: Option<Duration>,
    max_requests: Option<proto::UInt32Value>,
}

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn http_options(at: &At<'_>, wire: &wire::Cluster) -> Compiled<HttpOptions> {
    let Some(any) = wire.typed_extension_protocol_options.get(HTTP_OPTIONS) else {
        let http2_options = wire.http2_protocol_options.as_ref();
        return Ok(HttpOptions {
            protocol: if http2_options.is_some() { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 },
            http2: http2(&at.field("http2_protocol_options"), http2_options)?,
            idle_timeout: idle_timeout(at, wire.common_http_protocol_options.as_ref())?,
            max_requests: None,
        });
    };
    let at = at.key("typed_extension_protocol_options", HTTP_OPTIONS);
    let options: HttpProtocolOptions = unpack(&at, any)?;
    refuse_set!(options, at, [request_mirror_policies, hash_policy, retry_policy]);
    note_set!(options, at, [upstream_http_protocol_options, http_filters, header_validation_config, outlier_detection]);
    use http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig};
    let specifier = options.upstream_protocol_options.as_ref().ok_or_else(|| at.refuse("has no upstream_protocol_options"))?;
    let (protocol, http2_options) = match specifier {
        UpstreamProtocolOptions::ExplicitHttpConfig(explicit) => match &explicit.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(options)) => (UpstreamProtocol::Http2, Some(options)),
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                return Err(at.field("explicit_http_config").refuse("HTTP/3 is not supported"));
            }
            Some(ProtocolConfig::HttpProtocolOptions(_)) | None => (UpstreamProtocol::Http1, None),
        },
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(downstream) => {
            (UpstreamProtocol::Downstream, downstream.http2_protocol_options.as_ref())
        }
        UpstreamProtocolOptions::AutoConfig(_) => return Err(at.field("auto_config").unsupported()),
    };
    let common = options.common_http_protocol_options.as_ref().or(wire.common_http_protocol_options.as_ref());
    Ok(HttpOptions {
        protocol,
        http2: http2(&at.field("http2_protocol_options"), http2_options)?,
        idle_timeout: idle_timeout(&at, common)?,
        max_requests: common.and_then(|common| common.max_requests_per_connection),
    })
}

fn idle_timeout(at: &At<'_>, common: Option<&core::HttpProtocolOptions>) -> Compiled<Option<Duration>> {
    let at = at.field("common_http_protocol_options");
    if let Some(common) = common {
        note_set!(common, at, [max_connection_duration, max_stream_duration, max_headers_count, max_response_headers_kb]);
    }
    timeout(&at.field("idle_timeout"), common.and_then(|common| common.idle_timeout.as_ref()), Some(IDLE_TIMEOUT))
}

/// The endpoints that may be chosen: of the lowest priority that has any, the healthy ones, each address once.
pub(super) fn endpoints(at: &At<'_>, assignment: &endpoint::ClusterLoadAssignment) -> Compiled<Vec<EndpointSpec>> {
    refuse_set!(assignment, at, [named_endpoints]);
    note_set!(assignment, at, [policy]);
    let mut found: Vec<(u32, EndpointSpec)> = Vec::new();
    for_each_endpoint(at, assignment, |at, priority, wire, host| {
        let at_address = at.field("endpoint.address");
        let address = socket_address(&at_address, host.address.as_ref())?;
        if address.port() == 0 {
            return Err(at_address.field("port_value").refuse("is missing"));
        }
        found.push((priority, EndpointSpec { address, weight: weight(at, wire)?, peer: peer_labels(wire.metadata.as_ref()) }));
        Ok(())
    })?;
    let lowest = found.iter().map(|(priority, _)| *priority).min().unwrap_or(0);
    let mut seen = std::collections::HashSet::with_capacity(found.len());
    Ok(found.into_iter().filter(|(priority, spec)| *priority == lowest && seen.insert(spec.address)).map(|(_, spec)| spec).collect())
}

fn dns_hosts(at: &At<'_>, assignment: &endpoint::ClusterLoadAssignment) -> Compiled<Vec<DnsHost>> {
    refuse_set!(assignment, at, [named_endpoints]);
    let mut hosts = Vec::new();
    for_each_endpoint(at, assignment, |at, _, wire, host| {
        let (host, port) = host_and_port(&at.field("endpoint.address"), host.address.as_ref())?;
        hosts.push(DnsHost { host: host.into(), port, weight: weight(at, wire)?, peer: Arc::new(peer_labels(wire.metadata.as_ref())) });
        Ok(())
    })?;
    Ok(hosts)
}

/// Calls back for each endpoint that may get requests: (place, priority, entry, endpoint).
fn for_each_endpoint<'w>(
    at: &At<'_>,
    assignment: &'w endpoint::ClusterLoadAssignment,
    mut each: impl FnMut(&At<'_>, u32, &'w endpoint::LbEndpoint, &'w endpoint::Endpoint) -> Compiled<()>,
) -> Compiled<()> {
    let count: usize = assignment.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum();
    if count > MAX_ENDPOINTS {
        return Err(at.field("endpoints").refuse(format_args!("{count} endpoints are more than the limit of {MAX_ENDPOINTS}")));
    }
    for (place, locality) in assignment.endpoints.iter().enumerate() {
        let at = at.index("endpoints", place);
        refuse_set!(locality, at, [lb_config]);
        for (index, wire) in locality.lb_endpoints.iter().enumerate() {
            let at = at.index("lb_endpoints", index);
            match enumeration::<core::HealthStatus>(&at.field("health_status"), wire.health_status)? {
                core::HealthStatus::Unknown | core::HealthStatus::Healthy | core::HealthStatus::Degraded => {}
                core::HealthStatus::Unhealthy | core::HealthStatus::Draining | core::HealthStatus::Timeout => continue,
            }
            match &wire.host_identifier {
                Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) => each(&at, locality.priority, wire, host)?,
                Some(endpoint::lb_endpoint::HostIdentifier::EndpointName(_)) => return Err(at.field("endpoint_name").unsupported()),
                None => return Err(at.field("endpoint").refuse("is missing")),
            }
        }
    }
    Ok(())
}

fn weight(at: &At<'_>, wire: &endpoint::LbEndpoint) -> Compiled<u32> {
    bounded(&at.field("load_balancing_weight"), wire.load_balancing_weight.as_ref(), 1, 1..=u32::MAX)
}

/// Source: `ARCHITECTURE.md`, Endpoints; Istio's `workload;namespace;canonical-name;canonical-revision;cluster`.
fn peer_labels(metadata: Option<&core::Metadata>) -> PeerLabels {
    let Some(metadata) = metadata else { return PeerLabels::default() };
    let mut labels = PeerLabels::default();
    if let Some(istio) = metadata.filter_metadata.get("istio") {
        let mut parts = struct_text(istio, "workload").split(';').map(bounded_text);
        let mut next = || parts.next().unwrap_or_default();
        (labels.workload, labels.namespace) = (next(), next());
        (labels.canonical_service, labels.canonical_revision, labels.cluster) = (next(), next(), next());
    }
    if let Some(ours) = metadata.filter_metadata.get("pillion") {
        let text = |key| bounded_text(struct_text(ours, key));
        (labels.app, labels.version) = (text("app"), text("version"));
        (labels.service_account, labels.instance) = (text("service_account"), text("instance"));
    }
    labels
}

/// Label values stay short, whatever is sent.
fn bounded_text(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(crate::telemetry::peer::MAX_VALUE_BYTES)].into()
}
