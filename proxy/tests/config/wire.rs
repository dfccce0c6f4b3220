//! Short spellings of wire messages, and a compiler to feed them to.

use std::sync::Arc;

use pillion_proxy::config::compile::{Compiler, Verdict};
use pillion_proxy::config::{LocalNode, RuntimeConfig};
use pillion_proxy::telemetry::log_sink::LogSinks;
use pillion_xds::resource::{Encoded, ResourceMessage, ResourceType, pack};
use pillion_xds::subscription::{Changed, Decoded};
use pillion_xds::wire::envoy::config::cluster::v3::{Cluster, cluster};
use pillion_xds::wire::envoy::config::core::v3 as core;
use pillion_xds::wire::envoy::config::endpoint::v3 as endpoint;
use pillion_xds::wire::envoy::config::listener::v3 as listener;
use pillion_xds::wire::envoy::config::route::v3 as route;
use pillion_xds::wire::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use pillion_xds::wire::google::protobuf::{self as proto, value::Kind};
use tokio::time::Instant;

/// A compiler and the time it is told.
pub struct Bench {
    pub compiler: Compiler,
    pub now: Instant,
}

impl Bench {
    pub fn new() -> Self {
        Self { compiler: Compiler::new(Arc::new(LogSinks::default()), LocalNode::default()), now: Instant::now() }
    }

    pub fn take<M: ResourceMessage>(&mut self, messages: &[M], removed: &[&str]) -> Verdict {
        let changed: Vec<Changed> = messages.iter().map(|message| changed(message.own_name(), message)).collect();
        self.take_changed(M::TYPE, &changed, removed)
    }

    /// Virtual hosts, whose resource names are not their own.
    pub fn take_hosts(&mut self, route: &str, hosts: &[route::VirtualHost], removed: &[&str]) -> Verdict {
        let changed: Vec<Changed> = hosts.iter().map(|host| changed(&format!("{route}/{}", host.name), host)).collect();
        self.take_changed(ResourceType::VirtualHost, &changed, removed)
    }

    fn take_changed(&mut self, kind: ResourceType, changed: &[Changed], removed: &[&str]) -> Verdict {
        let removed: Vec<Arc<str>> = removed.iter().map(|name| Arc::from(*name)).collect();
        self.compiler.take(kind, changed, &removed, self.now)
    }

    /// Takes what must be accepted without a word.
    pub fn accept<M: ResourceMessage>(&mut self, messages: &[M]) -> &mut Self {
        let verdict = self.take(messages, &[]);
        assert!(verdict.refused.is_empty(), "{:?}", verdict.refused);
        self
    }

    pub fn config(&mut self) -> RuntimeConfig {
        self.compiler.config(1, self.now)
    }
}

fn changed<M: ResourceMessage>(name: &str, message: &M) -> Changed {
    let encoded = Encoded::new(name, message);
    let message = Decoded::from_encoded(M::TYPE, &encoded).unwrap();
    Changed { encoded, message }
}

/// The one refusal of a message by itself: `path: reason`.
pub fn refusal<M: ResourceMessage>(message: M) -> String {
    let verdict = Bench::new().take(&[message], &[]);
    match verdict.refused.as_slice() {
        [one] => one.reason.clone(),
        other => panic!("wanted one refusal, got {other:?}"),
    }
}

/// The notes about a message that is accepted.
pub fn notes<M: ResourceMessage>(message: M) -> Vec<String> {
    let verdict = Bench::new().take(&[message], &[]);
    assert!(verdict.refused.is_empty(), "{:?}", verdict.refused);
    verdict.notes
}

pub fn ads() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource::default())),
        ..Default::default()
    })
}

pub fn address(text: &str) -> Option<core::Address> {
    let (host, port) = text.rsplit_once(':').unwrap();
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: host.trim_matches(['[', ']']).into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.parse().unwrap())),
            ..Default::default()
        })),
    })
}

pub fn seconds(seconds: i64) -> Option<proto::Duration> {
    Some(proto::Duration { seconds, nanos: 0 })
}

pub fn number(value: u32) -> Option<proto::UInt32Value> {
    Some(proto::UInt32Value { value })
}

pub fn yes() -> Option<proto::BoolValue> {
    Some(proto::BoolValue { value: true })
}

pub fn text(value: &str) -> proto::Value {
    proto::Value { kind: Some(Kind::StringValue(value.into())) }
}

pub fn object(fields: &[(&str, proto::Value)]) -> proto::Struct {
    proto::Struct { fields: fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect() }
}

pub fn metadata(filters: &[(&str, proto::Struct)]) -> Option<core::Metadata> {
    let filter_metadata = filters.iter().map(|(name, fields)| ((*name).to_owned(), fields.clone())).collect();
    Some(core::Metadata { filter_metadata, ..Default::default() })
}

// ---- clusters

pub fn cluster_of(name: &str, kind: cluster::DiscoveryType) -> Cluster {
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(kind as i32)),
        lb_policy: cluster::LbPolicy::LeastRequest as i32,
        ..Default::default()
    }
}

pub fn eds(name: &str) -> Cluster {
    Cluster {
        eds_cluster_config: Some(cluster::EdsClusterConfig { eds_config: ads(), ..Default::default() }),
        ..cluster_of(name, cluster::DiscoveryType::Eds)
    }
}

pub fn endpoint(at: &str, workload: &str) -> endpoint::LbEndpoint {
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: address(at),
            ..Default::default()
        })),
        metadata: (!workload.is_empty()).then(|| metadata(&[("istio", object(&[("workload", text(workload))]))])).flatten(),
        ..Default::default()
    }
}

pub fn assignment(name: &str, endpoints: Vec<endpoint::LbEndpoint>) -> endpoint::ClusterLoadAssignment {
    endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints: endpoints, ..Default::default() }],
        ..Default::default()
    }
}

// ---- listeners

pub fn filter(name: &str) -> hcm::HttpFilter {
    hcm::HttpFilter { name: name.into(), ..Default::default() }
}

/// A connection manager that takes its routes over RDS.
pub fn manager(route: &str) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: "outbound_test".into(),
        http_filters: vec![filter("envoy.filters.http.router")],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            config_source: ads(),
            route_config_name: route.into(),
        })),
        ..Default::default()
    }
}

pub fn network_filter<M: prost::Message + prost::Name>(message: &M) -> listener::Filter {
    listener::Filter { name: "filter".into(), config_type: Some(listener::filter::ConfigType::TypedConfig(pack(message))) }
}

pub fn chain<M: prost::Message + prost::Name>(message: &M) -> listener::FilterChain {
    listener::FilterChain { filters: vec![network_filter(message)], ..Default::default() }
}

pub fn http_listener(name: &str, at: &str, manager: &hcm::HttpConnectionManager) -> listener::Listener {
    listener::Listener { name: name.into(), address: address(at), filter_chains: vec![chain(manager)], ..Default::default() }
}

// ---- routes

pub fn forward_to(cluster: &str) -> route::RouteAction {
    route::RouteAction { cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster.into())), ..Default::default() }
}

pub fn any_path() -> Option<route::RouteMatch> {
    Some(route::RouteMatch { path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())), ..Default::default() })
}

pub fn route_of(action: route::RouteAction) -> route::Route {
    route::Route { r#match: any_path(), action: Some(route::route::Action::Route(action)), ..Default::default() }
}

pub fn host(name: &str, domains: &[&str], routes: Vec<route::Route>) -> route::VirtualHost {
    route::VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        routes,
        ..Default::default()
    }
}

pub fn inline_routes(name: &str, hosts: Vec<route::VirtualHost>) -> route::RouteConfiguration {
    route::RouteConfiguration { name: name.into(), virtual_hosts: hosts, ..Default::default() }
}

/// A route configuration whose virtual hosts come by themselves.
pub fn vhds_routes(name: &str) -> route::RouteConfiguration {
    route::RouteConfiguration { name: name.into(), vhds: Some(route::Vhds { config_source: ads() }), ..Default::default() }
}
