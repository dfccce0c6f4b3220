//! Gateways: what comes into the mesh.
//!
//! In:  Gateway objects that select the proxy by its labels, the VirtualServices bound to them.
//! Out: one listener and one route table per HTTP server port. Servers of other protocols come with their issues.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use pillion_api::{
    effective::{Effective, Labels, Protocol, RouteClient, RouteRef, is_catch_all},
    host,
    kinds::Gateway,
    set::Of,
};
use pillion_xds::{
    names::{ListenerName, RouteName, VirtualHostName, VirtualHostResource},
    resource::{Encoded, ResourceMap},
};

use super::{
    connection_manager::{self, Direction, Manager, Routes},
    listeners::{Common, chain, listener},
    route::Follower,
    scope::Client,
    virtual_hosts::{assemble, named, shell},
    wire::{core, listener::Listener},
};
use crate::model::instance::Instance;

/// An HTTP port of a gateway: the servers that share it, oldest Gateway first.
struct Port<'a> {
    bind: IpAddr,
    servers: Vec<(Of<'a, Gateway>, usize)>,
}

/// What a gateway proxy has of its own.
#[derive(Default)]
pub struct Resources {
    pub listeners: Vec<Listener>,
    pub routes: ResourceMap,
    /// Beside the routes, for a Pillion node.
    pub virtual_hosts: ResourceMap,
}

/// Everything of the Gateways that select `labels`. `instance`: where its ports are bound, if it says so.
pub fn resources(client: &Client<'_>, labels: &Labels, instance: Option<&Instance>) -> Resources {
    let effective = client.world.effective();
    let common = Common::new(client);
    let mut made = Resources::default();
    for (port, servers) in ports(effective, labels) {
        made.listeners.push(listen(&common, port, &servers, instance));
        let name = RouteName::gateway(port);
        let hosts = virtual_hosts(client, labels, port, &name, &servers);
        let routes = assemble(client.is_pillion(), shell(&name, true), &hosts);
        made.routes.insert(routes.name.clone(), routes);
        if client.is_pillion() {
            made.virtual_hosts.extend(hosts.into_iter().map(|host| (host.name.clone(), host)));
        }
    }
    made
}

/// HTTP ports by number. The oldest server of a port says where it binds; one of another protocol on the same port is left out.
fn ports<'a>(effective: &'a Effective, labels: &'a Labels) -> BTreeMap<u16, Port<'a>> {
    let mut ports: BTreeMap<u16, Port<'a>> = BTreeMap::new();
    for gateway in effective.gateways_for(labels) {
        for (at, server) in gateway.spec.servers.iter().enumerate() {
            let Some(port) = &server.port else { continue };
            let is_http = Protocol::parse(&port.protocol).is_some_and(Protocol::is_http);
            let Some(number) = u16::try_from(port.number).ok().filter(|number| *number > 0 && is_http) else { continue };
            let bind = server.bind.parse().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            ports.entry(number).or_insert_with(|| Port { bind, servers: Vec::new() }).servers.push((gateway, at));
        }
    }
    ports
}

/// The name keeps the Gateway's port; the socket is the instance's when it declares that port, for ports that cannot be bound as they are.
fn listen(common: &Common, port: u16, servers: &Port<'_>, instance: Option<&Instance>) -> Listener {
    let name = ListenerName::address(servers.bind, port);
    let own = instance.and_then(|instance| instance.ports.iter().find(|own| own.container_port == port));
    let address = own.map_or(SocketAddr::new(servers.bind, port), |own| own.inbound);
    let filter = connection_manager::filter(Manager {
        direction: Direction::Gateway,
        stat_prefix: format!("outbound_{name}"),
        routes: Routes::Rds(RouteName::gateway(port).to_string()),
        common,
        absolute_url: false,
        connect: false,
        dynamic_forward_proxy: false,
    });
    Listener { filter_chains: vec![chain("http", filter)], ..listener(&name, address, core::TrafficDirection::Outbound) }
}

/// The virtual hosts of all servers of a port; a host that several have gets the routes of all.
fn virtual_hosts(client: &Client<'_>, labels: &Labels, port: u16, table: &RouteName, servers: &Port<'_>) -> Vec<Encoded> {
    let effective = client.world.effective();
    let mut hosts: BTreeMap<String, Vec<RouteRef>> = BTreeMap::new();
    for (gateway, server) in &servers.servers {
        let name = format!("{}/{}", gateway.namespace(), gateway.name());
        let who = RouteClient { gateway: &name, namespace: client.namespace(), labels, port: port.into() };
        for found in effective.gateway_hosts(*gateway, *server, &who) {
            let routes = hosts.entry(found.host).or_default();
            routes.extend(found.routes.iter().filter(|route| !routes.contains(route)).copied().collect::<Vec<_>>());
        }
    }
    let mut sorted: Vec<(String, Vec<RouteRef>)> = hosts.into_iter().filter(|(_, routes)| !routes.is_empty()).collect();
    sorted.sort_by(|a, b| host::by_specificity(&a.0, &b.0));
    let follower = Follower { effective, namespace: client.namespace(), port: port.into() };
    let one = |(host, routes): (String, Vec<RouteRef>)| {
        let routes = catch_all_last(effective, routes).into_iter().map(|route| follower.route(route)).collect();
        let name = VirtualHostName::host(&host, port);
        let domains = if host == "*" { vec![host] } else { vec![host.clone(), format!("{host}:{port}")] };
        Encoded::new(VirtualHostResource::new(table, &name), &named(&name, domains, routes))
    };
    sorted.into_iter().map(one).collect()
}

/// Routes that take everything go last, and only the first of them counts: joined lists must keep what each list already had.
fn catch_all_last(effective: &Effective, routes: Vec<RouteRef>) -> Vec<RouteRef> {
    let takes_all = |route: &RouteRef| effective.route(*route).2.is_none_or(is_catch_all);
    let (last, mut sorted): (Vec<RouteRef>, Vec<RouteRef>) = routes.into_iter().partition(takes_all);
    sorted.extend(last.first());
    sorted
}
