//! The way to the application: listeners and clusters of the client's own instance.
//!
//! In:  an instance, the services that select it; or what a Sidecar says instead.
//! Out: one bound listener per port (explicit), or one for all of them (captured); one cluster per port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use pillion_api::{
    effective::{MeshService, Protocol, ServicePort},
    kinds::Workload,
};
use pillion_xds::names::{ClusterName, ListenerName, RouteName};

use super::{
    clusters,
    connection_manager::{self, Direction, Manager, Routes},
    ingress,
    listeners::{Common, chain, listener},
    route::retry_policy_of,
    scope::Client,
    virtual_hosts::{named, shell},
    wire::{
        self, boolean,
        cluster::Cluster,
        core,
        listener::{Filter, FilterChain, FilterChainMatch, Listener},
        original_dst,
        route::{Route, RouteAction, RouteConfiguration, route::Action, route_action::ClusterSpecifier},
        uint32,
    },
};
use crate::model::{
    endpoints::target,
    instance::{Instance, InstancePort},
};

/// Where redirected inbound connections arrive. Source: `proxyInboundListenPort`.
const INBOUND_CAPTURE_PORT: u16 = 15006;
const CATCH_ALL: &str = "InboundPassthroughCluster";

/// A port of the instance with everything the mesh says about it.
pub struct Port<'a> {
    pub container_port: u16,
    /// Where the proxy listens when clients name it; `None`: the instance has no socket for the port.
    pub inbound: Option<SocketAddr>,
    /// Where the application is; `None`: nowhere the proxy can go to.
    pub application: Option<core::Address>,
    pub protocol: Protocol,
    /// That lead to the port, the oldest first.
    pub services: Vec<&'a MeshService>,
    /// The port of the first of them.
    pub service_port: Option<u32>,
}

/// The inbound listeners and clusters of an instance.
pub fn resources(client: &Client<'_>, instance: &Instance) -> (Vec<Listener>, Vec<Cluster>) {
    let ports = ports(client, instance);
    let mut clusters: Vec<Cluster> = ports.iter().map(|port| cluster(client, instance, port)).collect();
    let common = Common::new(client);
    if client.mode().explicit {
        return (ports.iter().filter_map(|port| explicit(client, &common, port)).collect(), clusters);
    }
    clusters.push(clusters::inbound_passthrough(client));
    (vec![captured(client, &common, &ports)], clusters)
}

fn ports<'a>(client: &Client<'a>, instance: &'a Instance) -> Vec<Port<'a>> {
    let all = client.world.effective().services();
    let mut behind: Vec<&Arc<MeshService>> = all.iter().filter(|s| s.selects(&instance.id.namespace, &instance.labels)).collect();
    behind.sort_by_key(|service| service.object);
    let declared = ingress::listeners(client);
    if declared.is_empty() {
        return instance.ports.iter().map(|port| behind_port(client, instance, port, &behind)).collect();
    }
    declared.iter().filter_map(|listener| ingress::port(client, instance, listener, &behind)).collect()
}

/// `behind`: the services that select the instance, oldest first. The oldest that leads to the port says what it speaks.
pub fn behind_port<'a>(client: &Client<'_>, instance: &Instance, port: &InstancePort, behind: &[&'a Arc<MeshService>]) -> Port<'a> {
    let leads = |p: &&ServicePort| target(instance, p).is_some_and(|target| std::ptr::eq(target, port));
    let services = behind.iter().copied().filter_map(|service| Some((service.as_ref(), service.ports.iter().find(leads)?)));
    let services: Vec<(&'a MeshService, &ServicePort)> = services.collect();
    Port {
        container_port: port.container_port,
        inbound: Some(port.inbound),
        application: Some(wire::address(port.app)),
        protocol: services.first().map_or_else(|| declared(client, instance, port), |(_, port)| port.protocol),
        service_port: services.first().map(|(_, port)| port.number),
        services: services.into_iter().map(|(service, _)| service).collect(),
    }
}

/// The connection pool that clients of the first service have holds on this side, too, as in Istio.
fn cluster(client: &Client<'_>, instance: &Instance, port: &Port<'_>) -> Cluster {
    let effective = client.world.effective();
    let rule = port.services.first().and_then(|service| effective.destination_rule(client.namespace(), &instance.labels, service));
    let policy = port.service_port.map(|number| effective.traffic_policy(rule, None, number));
    clusters::inbound(client, port, policy.as_ref())
}

/// What the Workload says about a port that no service leads to.
fn declared(client: &Client<'_>, instance: &Instance, port: &InstancePort) -> Protocol {
    let workload = client.world.set().named::<Workload>(&instance.id.namespace, &instance.workload);
    let written = workload.and_then(|w| w.spec.ports.iter().find(|own| own.container_port == u32::from(port.container_port)));
    Protocol::of_service_port(written.map_or("", |own| own.protocol.as_str()), &port.name, "TCP", port.container_port.into())
}

fn explicit(client: &Client<'_>, common: &Common, port: &Port<'_>) -> Option<Listener> {
    let address = port.inbound?;
    let name = ListenerName::address(address.ip(), address.port());
    let mut made = listener(&name, address, core::TrafficDirection::Inbound);
    let prefix = format!("inbound_{name}");
    if port.protocol.is_sniffed() {
        common.sniffed(http(client, common, port, prefix.clone()), tcp(common, port, prefix), &mut made);
    } else if port.protocol.is_http() {
        made.filter_chains = vec![chain("http", http(client, common, port, prefix))];
    } else {
        made.filter_chains = vec![chain("tcp", tcp(common, port, prefix))];
    }
    Some(made)
}

/// One listener for all redirected connections; chains by destination port, and one for ports nobody declares.
fn captured(client: &Client<'_>, common: &Common, ports: &[Port<'_>]) -> Listener {
    let name = ListenerName::virtual_inbound();
    let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), INBOUND_CAPTURE_PORT);
    let mut made = listener(&name, address, core::TrafficDirection::Inbound);
    let mut sniffs = false;
    for port in ports {
        let number = port.container_port;
        let prefix = format!("inbound_0.0.0.0_{number}");
        let matches = |protocols: &[&str]| FilterChainMatch {
            destination_port: uint32(number.into()),
            application_protocols: protocols.iter().map(|p| (*p).to_owned()).collect(),
            ..Default::default()
        };
        let mut add = |name: String, filter: Filter, matches: FilterChainMatch| {
            made.filter_chains.push(FilterChain { filter_chain_match: Some(matches), ..chain(&name, filter) });
        };
        if port.protocol.is_sniffed() {
            sniffs = true;
            add(format!("{number}-http"), http(client, common, port, prefix.clone()), matches(&["http/1.0", "http/1.1", "h2c"]));
            add(format!("{number}-tcp"), tcp(common, port, prefix), matches(&[]));
        } else if port.protocol.is_http() {
            add(format!("{number}-http"), http(client, common, port, prefix), matches(&[]));
        } else {
            add(format!("{number}-tcp"), tcp(common, port, prefix), matches(&[]));
        }
    }
    made.listener_filters = vec![wire::listener_filter("envoy.filters.listener.original_dst", &original_dst::OriginalDst::default())];
    if sniffs {
        common.inspect(&mut made);
    }
    made.default_filter_chain = Some(chain("passthrough", common.tcp(format!("inbound_{name}"), CATCH_ALL)));
    made
}

fn tcp(common: &Common, port: &Port<'_>, stat_prefix: String) -> Filter {
    common.tcp(stat_prefix, &ClusterName::inbound(port.container_port))
}

fn http(client: &Client<'_>, common: &Common, port: &Port<'_>, stat_prefix: String) -> Filter {
    connection_manager::filter(Manager {
        direction: Direction::Inbound,
        stat_prefix,
        routes: Routes::Inline(Box::new(routes(client, port))),
        common,
        absolute_url: false,
        connect: false,
        dynamic_forward_proxy: false,
    })
}

/// One route that takes everything.
fn routes(client: &Client<'_>, port: &Port<'_>) -> RouteConfiguration {
    let number = port.container_port;
    #[allow(deprecated)]
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(ClusterName::inbound(number).to_string())),
        timeout: Some(wire::ZERO),
        max_grpc_timeout: Some(wire::ZERO),
        retry_policy: retries(client, port.protocol),
        ..Default::default()
    };
    let route =
        Route { name: "default".to_owned(), r#match: Some(wire::every_path()), action: Some(Action::Route(action)), ..Default::default() };
    let host = named(&format!("inbound|http|{number}"), vec!["*".to_owned()], vec![route]);
    RouteConfiguration {
        virtual_hosts: vec![wire::route::VirtualHost { include_request_attempt_count: false, ..host }],
        validate_clusters: boolean(false),
        ..shell(&RouteName::inbound(number), false)
    }
}

/// Requests of which the application read nothing are tried again, as the mesh says; gRPC clients have retries of their own.
fn retries(client: &Client<'_>, protocol: Protocol) -> Option<wire::route::RetryPolicy> {
    if matches!(protocol, Protocol::Grpc | Protocol::GrpcWeb) {
        return None;
    }
    client.world.effective().mesh().inbound_retry_policy().map(|policy| retry_policy_of(&policy))
}
