//! Virtual hosts and the route tables that hold them.
//!
//! In:  a [`Layout`] and the VirtualServices a client follows.
//! Out: encoded virtual hosts, each made once per content; route configurations with (Envoy) or without (Pillion: VHDS) them inside.

use std::{collections::HashMap, sync::Arc};

use pillion_api::{effective::RouteRef, kinds::VirtualService, set::Of};
use pillion_xds::{
    names::{ALLOW_ANY, BLOCK_ALL, ClusterName, PASSTHROUGH_CLUSTER, VirtualHostResource},
    resource::{Encoded, ResourceMap},
};
use prost::{Message, encoding};

use super::{
    grpc,
    layout::{Layout, Slot, Table},
    route::{Follower, asks_services},
    scope::Client,
    wire::{
        self, ads, boolean,
        route::{
            DirectResponseAction, Route, RouteAction, RouteConfiguration, Vhds, VirtualHost, route::Action, route_action::ClusterSpecifier,
        },
        uint32,
    },
};
use crate::model::revision::Revision;

/// Istio's limit of a direct response, in bytes.
const MAX_DIRECT_RESPONSE: u32 = 1 << 20;

/// Virtual hosts by what they were made from.
#[derive(Debug, Default)]
pub struct VirtualHostCache {
    made: HashMap<Key, Made>,
    /// How many were made anew so far; for tests and metrics.
    pub translated: u64,
}

#[derive(Debug)]
struct Made {
    resource: Encoded,
    used: u64,
}

/// Everything a virtual host depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    slot: u128,
    virtual_service: Revision,
    mesh: Revision,
    /// Of the services, when a destination leaves its port to its service.
    services: Revision,
    /// The client's namespace, when services are asked: it decides which one is meant.
    namespace: String,
    /// Which rules and match entries apply to the client.
    routes: Vec<(u32, u32)>,
}

impl VirtualHostCache {
    /// Forgets what the two newest generations did not use.
    pub fn sweep(&mut self, generation: u64) {
        self.made.retain(|_, made| made.used + 1 >= generation);
    }

    /// Forgets what no client has.
    pub fn forget_unshared(&mut self) {
        self.made.retain(|_, made| !made.resource.body.is_unique());
    }

    /// Every virtual host of a table in order, without the last one for unknown hosts.
    pub fn table(&mut self, client: &Client<'_>, table: &Table) -> Vec<Encoded> {
        table.slots.iter().filter_map(|slot| self.slot(client, slot)).collect()
    }

    /// `None`: nothing of the VirtualService applies, and there is no service to go to.
    fn slot(&mut self, client: &Client<'_>, slot: &Slot) -> Option<Encoded> {
        let effective = client.world.effective();
        let (item, routes) = client.routes(&slot.host, slot.port).map_or((None, Vec::new()), |(item, routes)| (Some(item), routes));
        if routes.is_empty() && slot.unregistered {
            return None;
        }
        let key = key(client, slot.fingerprint, item.filter(|_| !routes.is_empty()), &routes);
        if let Some(made) = self.made.get_mut(&key) {
            made.used = client.world.generation;
            return Some(made.resource.clone());
        }
        let follower = Follower { effective, namespace: client.namespace(), port: slot.port };
        let mut host = virtual_host(slot, &follower, &routes);
        if client.mode().grpc {
            grpc::routes::restrict(&mut host);
        }
        let resource = Encoded::new(slot.resource.clone(), &host);
        self.translated += 1;
        self.made.insert(key, Made { resource: resource.clone(), used: client.world.generation });
        Some(resource)
    }
}

fn key(client: &Client<'_>, slot: u128, item: Option<Of<'_, VirtualService>>, routes: &[RouteRef]) -> Key {
    let revisions = client.world.revisions();
    let asks = routes.iter().any(|route| asks_services(client.world.effective().route(*route).1));
    Key {
        slot,
        virtual_service: item.map(|item| client.world.object_revision(item.index)).unwrap_or_default(),
        mesh: revisions.mesh,
        services: if asks { revisions.services } else { Revision::default() },
        namespace: if asks { client.namespace().to_owned() } else { String::new() },
        routes: routes.iter().map(|route| (route.rule as u32, route.condition.map_or(u32::MAX, |at| at as u32))).collect(),
    }
}

fn virtual_host(slot: &Slot, follower: &Follower<'_>, routes: &[RouteRef]) -> VirtualHost {
    let routes = if routes.is_empty() {
        vec![follower.default_route(&ClusterName::outbound(slot.port as u16, "", &slot.host))]
    } else {
        routes.iter().map(|route| follower.route(*route)).collect()
    };
    named(&slot.name, slot.domains.clone(), routes)
}

/// A virtual host as all of ours are.
pub fn named(name: &str, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: name.to_owned(), domains, routes, include_request_attempt_count: true, ..Default::default() }
}

/// Where requests for unknown hosts end. Source: semantics of `outboundTrafficPolicy`.
fn unknown_hosts(registry_only: bool) -> VirtualHost {
    let (name, action) = if registry_only {
        (BLOCK_ALL, Action::DirectResponse(DirectResponseAction { status: 502, ..Default::default() }))
    } else {
        #[allow(deprecated)]
        let pass = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(PASSTHROUGH_CLUSTER.to_owned())),
            timeout: Some(wire::ZERO),
            max_grpc_timeout: Some(wire::ZERO),
            ..Default::default()
        };
        (ALLOW_ANY, Action::Route(pass))
    };
    let route = Route { name: name.to_owned(), r#match: Some(wire::every_path()), action: Some(action), ..Default::default() };
    named(name, vec!["*".to_owned()], vec![route])
}

/// The route tables of a client and, for a Pillion node, the virtual hosts beside them.
pub fn resources(client: &Client<'_>, layout: &Layout, cache: &mut VirtualHostCache) -> (ResourceMap, ResourceMap) {
    let mut tables = ResourceMap::new();
    let mut hosts: Vec<(Arc<str>, Encoded)> = Vec::new();
    let last = unknown_hosts(client.registry_only());
    for (name, table) in &layout.tables {
        let mut of_table = cache.table(client, table);
        // A gRPC application asks for one service; what it does not ask for is not its table's business.
        if !table.has_catch_all && !client.mode().grpc {
            of_table.push(Encoded::new(VirtualHostResource::new(name, &last.name), &last));
        }
        let shell = shell(name, !table.ports_count);
        let configuration = assemble(client.is_pillion(), shell, &of_table);
        tables.insert(configuration.name.clone(), configuration);
        if client.is_pillion() {
            hosts.extend(of_table.into_iter().map(|host| (host.name.clone(), host)));
        }
    }
    (tables, hosts.into_iter().collect())
}

/// A route configuration without virtual hosts.
pub fn shell(name: &str, ignore_port: bool) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        validate_clusters: boolean(false),
        max_direct_response_body_size_bytes: uint32(MAX_DIRECT_RESPONSE),
        ignore_port_in_host_matching: ignore_port,
        ..Default::default()
    }
}

/// Our own proxy subscribes to virtual hosts one by one; for others they go inside, as they are encoded already.
pub fn assemble(is_pillion: bool, mut shell: RouteConfiguration, hosts: &[Encoded]) -> Encoded {
    /// `RouteConfiguration.virtual_hosts`.
    const VIRTUAL_HOSTS: u32 = 2;
    if is_pillion {
        shell.vhds = Some(Vhds { config_source: Some(ads()) });
        return Encoded::of(&shell);
    }
    let mut body = shell.encode_to_vec();
    for host in hosts {
        encoding::encode_key(VIRTUAL_HOSTS, encoding::WireType::LengthDelimited, &mut body);
        encoding::encode_varint(host.body.len() as u64, &mut body);
        body.extend_from_slice(&host.body);
    }
    Encoded::from_bytes(shell.name, body)
}
