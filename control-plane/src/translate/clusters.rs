//! Clusters: one per service port and subset, one per application port, and the two for unknown destinations.
//!
//! In:  the services a client sees, the DestinationRules it follows, its own instance.
//! Out: Envoy clusters by the names of `pillion_xds::names`.

use std::{collections::BTreeMap, time::Duration};

use pillion_api::{
    effective::{Effective, Labels, MergedRule, MeshService, Policy, Protocol, Resolution, ServicePort, Source, TargetPort, selects},
    kinds::destination_rule::{LoadBalancerSettings, SimpleLb, Subset},
    set::ObjectIndex,
};
use pillion_xds::{
    names::ClusterName,
    resource::{Encoded, ResourceMap},
};

use super::{
    connection_manager::dns_cache,
    endpoints,
    scope::{Client, Mode},
    wire::{
        self, Any, ads, any,
        cluster::{
            CircuitBreakers, Cluster,
            circuit_breakers::Thresholds,
            cluster::{
                ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbConfig, LbPolicy,
                OriginalDstLbConfig,
            },
        },
        core::{self, Metadata},
        dfp_cluster, object, text, uint32,
        upstream_http::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
            },
        },
    },
};
use crate::model::{endpoints::Endpoint, instance::InstancePort};

/// How often names are asked for when no answer says how long it is good. Source: `MeshConfig.dnsRefreshRate`.
const DNS_REFRESH: Duration = Duration::from_secs(60);
const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster that a client has for a service.
pub struct Outbound<'a> {
    pub service: &'a std::sync::Arc<MeshService>,
    pub port: &'a ServicePort,
    pub subset: Option<&'a Subset>,
    pub rule: Option<&'a std::sync::Arc<MergedRule>>,
    pub name: ClusterName,
    pub discovery: Discovery,
}

/// How a client finds the endpoints of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// They are sent.
    Eds,
    /// All addresses of their names.
    StrictDns,
    /// One address of one name at a time.
    LogicalDns,
    /// The client's connection says where it was going.
    OriginalDestination,
    /// The request's authority says it, and the proxy resolves it.
    ForwardProxy,
}

impl Discovery {
    /// Source: Istio's `convertResolution`. Where connections are redirected, a headless service's client has chosen the pod. A client that
    /// names the proxy has no connection to a pod: it gets the endpoints, for which Istio has `PILOT_ENABLE_EDS_FOR_HEADLESS_SERVICES`.
    pub fn of(service: &MeshService, mode: Mode) -> Self {
        let captured = !mode.explicit && !mode.router && !mode.grpc;
        match service.resolution {
            Resolution::Static if service.headless && captured => Self::OriginalDestination,
            Resolution::Static => Self::Eds,
            Resolution::Dns => Self::StrictDns,
            Resolution::DnsRoundRobin => Self::LogicalDns,
            // Nobody's destination is known at a gateway.
            Resolution::None if mode.router => Self::Eds,
            Resolution::None if mode.resolves_names() => Self::ForwardProxy,
            Resolution::None => Self::OriginalDestination,
            Resolution::DynamicDns => Self::ForwardProxy,
        }
    }
}

impl Outbound<'_> {
    /// Its endpoints come by EDS.
    pub fn is_eds(&self) -> bool {
        self.discovery == Discovery::Eds
    }

    /// Whether an endpoint belongs to the subset.
    pub fn takes(&self, endpoint: &Endpoint) -> bool {
        self.subset.is_none_or(|subset| selects(&subset.labels, &endpoint.peer.labels))
    }

    pub fn subset_labels(&self) -> Labels {
        self.subset.map(|subset| subset.labels.clone()).unwrap_or_default()
    }
}

/// Calls `each` for every cluster of every service a client sees: the whole service, then its subsets.
pub fn each_outbound(client: &Client<'_>, mut each: impl FnMut(Outbound<'_>)) {
    let effective = client.world.effective();
    for service in effective.services_for(client.namespace()) {
        let rule = effective.destination_rule(client.namespace(), client.labels(), service);
        let discovery = Discovery::of(service, client.mode());
        // Istio has no subsets of names that are resolved per request.
        let subsets = rule.filter(|_| service.resolution != Resolution::DynamicDns).map(|rule| &rule.subsets[..]).unwrap_or_default();
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
            let Ok(number) = u16::try_from(port.number) else { continue };
            let all = std::iter::once(None).chain(subsets.iter().map(|merged| Some(&merged.subset)));
            for subset in all {
                let name = ClusterName::outbound(number, subset.map_or("", |subset| &subset.name), &service.host);
                each(Outbound { service, port, subset, rule, name, discovery });
            }
        }
    }
}

/// Every cluster that does not depend on the client's own instance.
pub fn outbound(client: &Client<'_>) -> ResourceMap {
    let mut all = ResourceMap::new();
    let mut add = |cluster: &Cluster| {
        let encoded = Encoded::of(cluster);
        all.insert(encoded.name.clone(), encoded);
    };
    each_outbound(client, |wanted| add(&of_service(client, &wanted)));
    add(&passthrough(client));
    add(&Cluster { connect_timeout: connect_timeout(client.world.effective(), None), ..empty(ClusterName::black_hole()) });
    all
}

fn of_service(client: &Client<'_>, wanted: &Outbound<'_>) -> Cluster {
    let effective = client.world.effective();
    let policy = effective.traffic_policy(wanted.rule, wanted.subset.map(|subset| subset.name.as_str()), wanted.port.number);
    let mut cluster = Cluster {
        lb_policy: lb_policy(policy.load_balancer) as i32,
        connect_timeout: connect_timeout(effective, Some(&policy)),
        metadata: Some(metadata(effective, wanted)),
        typed_extension_protocol_options: protocol_options(wanted.port.protocol),
        circuit_breakers: unlimited(client),
        ..named(wanted.name.clone())
    };
    discover(client, wanted, &mut cluster);
    cluster
}

/// Sets how the endpoints of a service are found.
#[allow(deprecated)] // Istio says DNS this way, and so every Envoy understands it.
fn discover(client: &Client<'_>, wanted: &Outbound<'_>, cluster: &mut Cluster) {
    match wanted.discovery {
        Discovery::Eds => {
            cluster.cluster_discovery_type = kind(DiscoveryType::Eds);
            let service_name = wanted.name.to_string();
            cluster.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(ads()), service_name });
        }
        Discovery::StrictDns | Discovery::LogicalDns => {
            let one = wanted.discovery == Discovery::LogicalDns;
            cluster.cluster_discovery_type = kind(if one { DiscoveryType::LogicalDns } else { DiscoveryType::StrictDns });
            cluster.dns_lookup_family = DnsLookupFamily::V4Preferred as i32;
            cluster.respect_dns_ttl = true;
            let refresh = client.world.effective().mesh().config.dns_refresh_rate.unwrap_or(DNS_REFRESH);
            cluster.dns_refresh_rate = Some(wire::duration(refresh));
            let found = client.world.endpoints(wanted.service);
            let all = found.map(|found| found.of_port(wanted.port.number)).unwrap_or_default();
            // Envoy takes exactly one name for LOGICAL_DNS.
            let kept: Vec<&Endpoint> =
                all.iter().filter(|endpoint| wanted.takes(endpoint)).take(if one { 1 } else { usize::MAX }).collect();
            if one && kept.is_empty() {
                cluster.cluster_discovery_type = kind(DiscoveryType::Static);
            }
            cluster.load_assignment = Some(endpoints::assignment(wanted, &kept));
        }
        Discovery::ForwardProxy => undiscovered(true, cluster),
        Discovery::OriginalDestination => {
            undiscovered(false, cluster);
            // A ServiceEntry may say that its servers listen elsewhere; a headless Service's ports are for those who look up its pods.
            let port = match wanted.port.target_port {
                TargetPort::Number(port) if wanted.service.source == Source::ServiceEntry && port != wanted.port.number => uint32(port),
                _ => None,
            };
            if port.is_some() {
                let config = OriginalDstLbConfig { upstream_port_override: port, ..Default::default() };
                cluster.lb_config = Some(LbConfig::OriginalDstLbConfig(config));
            }
        }
    }
}

/// Goes to the destination the client named.
fn undiscovered(resolves_names: bool, cluster: &mut Cluster) {
    cluster.lb_policy = LbPolicy::ClusterProvided as i32;
    cluster.cluster_discovery_type = if resolves_names {
        use dfp_cluster::cluster_config::ClusterImplementationSpecifier::DnsCacheConfig;
        let config = dfp_cluster::ClusterConfig {
            cluster_implementation_specifier: Some(DnsCacheConfig(dns_cache())),
            // Else Envoy insists on names to verify in certificates, though nothing here is TLS of its own.
            allow_insecure_cluster_options: true,
            ..Default::default()
        };
        Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
            typed_config: Some(any(&config)),
        }))
    } else {
        kind(DiscoveryType::OriginalDst)
    };
}

/// Where unknown destinations go under `ALLOW_ANY`.
fn passthrough(client: &Client<'_>) -> Cluster {
    let mut cluster = Cluster {
        connect_timeout: connect_timeout(client.world.effective(), None),
        circuit_breakers: unlimited(client),
        typed_extension_protocol_options: options(downstream()),
        ..named(ClusterName::passthrough())
    };
    undiscovered(client.mode().resolves_names(), &mut cluster);
    cluster
}

/// To the application: one port of the client's own instance. `services`: those that lead there, for telemetry.
pub fn inbound(client: &Client<'_>, port: &InstancePort, services: &[&MeshService]) -> Cluster {
    let name = ClusterName::inbound(port.container_port);
    let mut cluster = Cluster {
        connect_timeout: connect_timeout(client.world.effective(), None),
        circuit_breakers: unlimited(client),
        typed_extension_protocol_options: options(downstream()),
        load_assignment: Some(endpoints::single(&name, wire::address(port.app))),
        ..empty(name)
    };
    if !services.is_empty() {
        let listed = wire::list(services.iter().map(|service| wire::nested(service_label(service))).collect());
        cluster.metadata = Some(wire::metadata([("istio", object([("services", listed)]))]));
    }
    cluster
}

/// What comes in on a port that the instance does not declare goes on to that port (captured mode).
pub fn inbound_passthrough(client: &Client<'_>) -> Cluster {
    let mut cluster = Cluster {
        connect_timeout: connect_timeout(client.world.effective(), None),
        circuit_breakers: unlimited(client),
        typed_extension_protocol_options: options(downstream()),
        // Source: Istio's `InboundPassthroughBindIpv4`; redirection leaves connections from here alone.
        upstream_bind_config: Some(core::BindConfig {
            source_address: Some(core::SocketAddress {
                address: "127.0.0.6".to_owned(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..named("InboundPassthroughCluster".into())
    };
    undiscovered(false, &mut cluster);
    cluster
}

fn named(name: ClusterName) -> Cluster {
    Cluster { name: name.to_string(), ..Default::default() }
}

/// STATIC without endpoints.
fn empty(name: ClusterName) -> Cluster {
    Cluster { cluster_discovery_type: kind(DiscoveryType::Static), ..named(name) }
}

fn kind(kind: DiscoveryType) -> Option<ClusterDiscoveryType> {
    Some(ClusterDiscoveryType::Type(kind as i32))
}

/// Of the DestinationRule's connection pool, else the mesh's (10 s unless set).
fn connect_timeout(effective: &Effective, policy: Option<&Policy<'_>>) -> Option<pillion_xds::wire::google::protobuf::Duration> {
    let tcp = policy.and_then(|policy| policy.connection_pool).and_then(|pool| pool.tcp.as_ref());
    let timeout = tcp.and_then(|tcp| tcp.connect_timeout).filter(|timeout| !timeout.is_zero());
    Some(wire::duration(timeout.unwrap_or(effective.mesh().connect_timeout)))
}

fn lb_policy(settings: Option<&LoadBalancerSettings>) -> LbPolicy {
    match settings.and_then(|settings| settings.simple).unwrap_or_default() {
        SimpleLb::RoundRobin => LbPolicy::RoundRobin,
        SimpleLb::Random => LbPolicy::Random,
        SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Passthrough => LbPolicy::LeastRequest,
    }
}

/// Istio lifts Envoy's limits (1,024 connections and requests, 3 retries) as far as they go. Our own proxy has none to lift.
pub fn unlimited(client: &Client<'_>) -> Option<CircuitBreakers> {
    if client.is_pillion() {
        return None;
    }
    let thresholds = Thresholds {
        max_connections: uint32(u32::MAX),
        max_pending_requests: uint32(u32::MAX),
        max_requests: uint32(u32::MAX),
        max_retries: uint32(u32::MAX),
        ..Default::default()
    };
    Some(CircuitBreakers { thresholds: vec![thresholds], ..Default::default() })
}

/// What the upstream is spoken to in. Bytes that nobody reads need nothing.
fn protocol_options(protocol: Protocol) -> BTreeMap<String, Any> {
    let explicit = |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    if protocol.is_sniffed() {
        options(downstream())
    } else if protocol.is_http2() {
        options(explicit(ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default())))
    } else if protocol.is_http() {
        options(explicit(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())))
    } else {
        BTreeMap::new()
    }
}

fn downstream() -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(core::Http1ProtocolOptions::default()),
        http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
        ..Default::default()
    })
}

fn options(protocol: UpstreamProtocolOptions) -> BTreeMap<String, Any> {
    let options = HttpProtocolOptions { upstream_protocol_options: Some(protocol), ..Default::default() };
    BTreeMap::from([(PROTOCOL_OPTIONS.to_owned(), any(&options))])
}

fn metadata(effective: &Effective, wanted: &Outbound<'_>) -> Metadata {
    let mut fields = vec![
        ("services", wire::list(vec![wire::nested(service_label(wanted.service))])),
        ("default_original_port", wire::number(f64::from(wanted.port.number))),
    ];
    if let Some(subset) = wanted.subset {
        fields.push(("subset", text(subset.name.clone())));
    }
    if let Some(rule) = wanted.rule.and_then(|rule| rule.objects.first()) {
        fields.push(("config", text(rule_path(effective, *rule))));
    }
    wire::metadata([("istio", object(fields))])
}

fn rule_path(effective: &Effective, rule: ObjectIndex) -> String {
    let rule = effective.set().at::<pillion_api::kinds::DestinationRule>(rule);
    format!("/apis/networking.istio.io/v1/namespaces/{}/destination-rule/{}", rule.namespace(), rule.name())
}

/// A ServiceEntry is known by its host, as in Istio.
fn service_label(service: &MeshService) -> wire::Struct {
    let name = if service.source == Source::ServiceEntry { &service.host } else { &service.name };
    object([("host", text(service.host.clone())), ("name", text(name.clone())), ("namespace", text(service.namespace.clone()))])
}
