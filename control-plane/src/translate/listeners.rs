//! Outbound listeners: the explicit proxy, one per service port, the capture of everything else.
//!
//! In:  the services a client sees, its route tables.
//! Out: Envoy listeners by the names of `pillion_xds::names`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use pillion_api::effective::{MeshService, Protocol, Resolution, ServicePort};
use pillion_xds::{
    names::{BLACK_HOLE_CLUSTER, ClusterName, HTTP_PROXY, ListenerName, PASSTHROUGH_CLUSTER, RouteName, RouteParts},
    resource::{Encoded, ResourceMap},
};

use super::{
    access_log::{Layout as LogLayout, access_log},
    connection_manager::{self, Direction, Manager, Routes},
    layout::Layout,
    scope::Client,
    wire::{
        self, accesslog, boolean, core, http_inspector,
        listener::{Filter, FilterChain, FilterChainMatch, Listener},
        tcp, tls_inspector,
    },
};

/// Where redirected outbound connections arrive. Source: `proxyListenPort`.
const OUTBOUND_CAPTURE_PORT: u16 = 15001;
/// What the HTTP inspector calls plaintext HTTP. Source: Istio's `plaintextHTTPALPNs`.
const PLAINTEXT_HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// The parts that all listeners of a client have in common.
pub struct Common {
    pub access_log: Vec<accesslog::AccessLog>,
    /// How long first bytes are waited for where chains differ by protocol; zero: for ever.
    pub detection_timeout: std::time::Duration,
}

impl Common {
    pub fn new(client: &Client<'_>) -> Self {
        use pillion_api::kinds::mesh_config::AccessLogEncoding;
        let config = &client.world.effective().mesh().config;
        let layout = match config.access_log_encoding {
            AccessLogEncoding::Text => LogLayout::Text(config.access_log_format.clone()),
            AccessLogEncoding::Json => LogLayout::Json(config.access_log_format.clone()),
        };
        Self {
            access_log: access_log(&config.access_log_file, &layout),
            detection_timeout: config.protocol_detection_timeout.unwrap_or_default(),
        }
    }

    pub fn tcp(&self, stat_prefix: String, cluster: &str) -> Filter {
        let proxy = tcp::TcpProxy {
            stat_prefix,
            access_log: self.access_log.clone(),
            cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
            ..Default::default()
        };
        wire::network_filter("envoy.filters.network.tcp_proxy", &proxy)
    }

    /// HTTP when the first bytes are, else `other`.
    pub fn sniffed(&self, http: Filter, other: Filter, listener: &mut Listener) {
        let matches = FilterChainMatch { application_protocols: PLAINTEXT_HTTP.map(str::to_owned).to_vec(), ..Default::default() };
        listener.filter_chains = vec![FilterChain { filter_chain_match: Some(matches), ..chain("http", http) }];
        listener.default_filter_chain = Some(chain("tcp", other));
        self.inspect(listener);
    }

    /// Lets the chains of a listener depend on first bytes.
    pub fn inspect(&self, listener: &mut Listener) {
        listener.listener_filters.extend([
            wire::listener_filter("envoy.filters.listener.tls_inspector", &tls_inspector::TlsInspector::default()),
            wire::listener_filter("envoy.filters.listener.http_inspector", &http_inspector::HttpInspector::default()),
        ]);
        listener.listener_filters_timeout = Some(wire::duration(self.detection_timeout));
        listener.continue_on_listener_filters_timeout = !self.detection_timeout.is_zero();
    }
}

pub fn chain(name: &str, filter: Filter) -> FilterChain {
    FilterChain { name: name.to_owned(), filters: vec![filter], ..Default::default() }
}

/// A listener with nothing in it yet.
pub fn listener(name: &ListenerName, address: SocketAddr, direction: core::TrafficDirection) -> Listener {
    Listener { name: name.to_string(), address: Some(wire::address(address)), traffic_direction: direction as i32, ..Default::default() }
}

/// The outbound listeners that clients of one scope share.
pub fn outbound(client: &Client<'_>, layout: &Layout) -> ResourceMap {
    let mut all = ResourceMap::new();
    if !client.mode().has_port_listeners() {
        return all;
    }
    let common = Common::new(client);
    let resolving = resolving_ports(client);
    for (name, _) in layout.tables.iter().filter(|(_, table)| table.declared) {
        if let RouteParts::Port(port) = name.parts() {
            insert(&mut all, &http_port(&common, port, name, resolving.contains(&port.into())));
        }
    }
    for service in client.world.effective().services_for(client.namespace()) {
        let ports = service.ports.iter().filter(|port| !port.protocol.is_http() && port.protocol != Protocol::Udp);
        for port in ports {
            for address in addresses(client, service) {
                if let Some(listener) = service_port(&common, service, port, address)
                    && !all.contains_key(listener.name.as_str())
                {
                    insert(&mut all, &listener);
                }
            }
        }
    }
    if !client.mode().explicit {
        insert(&mut all, &capture(client, &common));
    }
    all
}

fn insert(all: &mut ResourceMap, listener: &Listener) {
    let encoded = Encoded::of(listener);
    all.insert(encoded.name.clone(), encoded);
}

/// Ranges are not listened for. A destination without an address is known by its port alone, and only where destinations are seen.
fn addresses(client: &Client<'_>, service: &MeshService) -> Vec<IpAddr> {
    let known: Vec<IpAddr> = service.addresses.iter().filter_map(|address| address.parse().ok()).collect();
    if known.is_empty() && service.resolution == Resolution::None && !client.mode().explicit {
        return vec![Ipv4Addr::UNSPECIFIED.into()];
    }
    known
}

/// Ports on which some service's hosts are resolved per request (DYNAMIC_DNS), wherever connections were going.
fn resolving_ports(client: &Client<'_>) -> BTreeSet<u32> {
    let services = client.world.effective().services_for(client.namespace()).into_iter();
    let resolving = services.filter(|service| service.resolution == Resolution::DynamicDns);
    resolving.flat_map(|service| service.ports.iter().map(|port| port.number)).collect()
}

/// Every HTTP service on a port: the host says which.
fn http_port(common: &Common, port: u16, routes: &RouteName, resolves: bool) -> Listener {
    let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let name = ListenerName::address(address.ip(), port);
    let filter = http(common, &name, Routes::Rds(routes.to_string()), resolves);
    Listener {
        filter_chains: vec![chain("http", filter)],
        bind_to_port: boolean(false),
        ..listener(&name, address, core::TrafficDirection::Outbound)
    }
}

fn http(common: &Common, name: &ListenerName, routes: Routes, resolves: bool) -> Filter {
    connection_manager::filter(Manager {
        direction: Direction::Outbound,
        stat_prefix: format!("outbound_{name}"),
        routes,
        access_log: &common.access_log,
        absolute_url: false,
        connect: false,
        dynamic_forward_proxy: resolves,
    })
}

/// A port of one service that is not declared as HTTP.
fn service_port(common: &Common, service: &MeshService, port: &ServicePort, ip: IpAddr) -> Option<Listener> {
    let number = u16::try_from(port.number).ok()?;
    let address = SocketAddr::new(ip, number);
    let name = ListenerName::address(ip, number);
    let bytes = common.tcp(format!("outbound_{name}"), &ClusterName::outbound(number, "", &service.host));
    let mut made = Listener { bind_to_port: boolean(false), ..listener(&name, address, core::TrafficDirection::Outbound) };
    if port.protocol.is_sniffed() {
        let requests = http(common, &name, Routes::Rds(RouteName::port(number).to_string()), false);
        common.sniffed(requests, bytes, &mut made);
    } else {
        made.filter_chains = vec![chain("tcp", bytes)];
    }
    Some(made)
}

/// Redirected connections: to the listener of their destination, else on by `outboundTrafficPolicy`.
fn capture(client: &Client<'_>, common: &Common) -> Listener {
    let cluster = if client.world.effective().mesh().registry_only { BLACK_HOLE_CLUSTER } else { PASSTHROUGH_CLUSTER };
    let name = ListenerName::virtual_outbound();
    let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), OUTBOUND_CAPTURE_PORT);
    Listener {
        use_original_dst: boolean(true),
        filter_chains: vec![chain("passthrough", common.tcp(format!("outbound_{name}"), cluster))],
        ..listener(&name, address, core::TrafficDirection::Outbound)
    }
}

/// What programs name as their proxy, on this port of the loopback.
pub fn http_proxy(client: &Client<'_>, port: u16) -> Listener {
    let common = Common::new(client);
    let name = ListenerName::http_proxy();
    let filter = connection_manager::filter(Manager {
        direction: Direction::Outbound,
        stat_prefix: format!("outbound_{name}"),
        routes: Routes::Rds(HTTP_PROXY.to_owned()),
        access_log: &common.access_log,
        absolute_url: true,
        connect: client.is_pillion(),
        dynamic_forward_proxy: true,
    });
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    Listener { filter_chains: vec![chain("http", filter)], ..listener(&name, address, core::TrafficDirection::Outbound) }
}
