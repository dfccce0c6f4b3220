//! From a generation of the world to what each proxy is told. Pure but for its caches: the same world and node give the same bytes.
//!
//! In:  [`World`]s and nodes.
//! Out: [`NodeConfig`]s. Proxies that see the same thing share the same encoded resources, and what did not change is not translated again.

mod access_log;
mod clusters;
mod connection_manager;
mod cors;
mod endpoints;
pub mod files;
mod gateways;
mod grpc;
mod headers;
mod inbound;
mod ingress;
mod layout;
mod listeners;
mod names;
mod route;
mod route_match;
mod scope;
mod seen;
mod upstream_protocol;
mod virtual_hosts;
mod wire;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use pillion_xds::{
    node::Node,
    resource::{Encoded, NodeConfig, ResourceMap, ResourceMessage, ResourceType},
};
use tokio::sync::watch;

use crate::{
    model::{
        revision::Revision,
        world::{Revisions, World},
    },
    push::Configs,
};
use layout::Layout;
use scope::{Client, Scope};
use seen::Seen;

/// Configurations that are remembered although no stream may have them any more.
const MOST_IDLE: usize = 32;

/// Translates every generation for every node. Shared by all streams.
pub struct Translator {
    worlds: watch::Receiver<Option<Arc<World>>>,
    generations: watch::Receiver<u64>,
    cache: Mutex<Cache>,
}

/// What earlier translations left behind.
#[derive(Default)]
struct Cache {
    generation: u64,
    virtual_hosts: virtual_hosts::VirtualHostCache,
    endpoints: endpoints::EndpointCache,
    layouts: HashMap<Scope, (LayoutKey, Arc<Layout>)>,
    /// What a Sidecar lets a scope see at the current generation; `None` without one.
    seen: HashMap<Scope, Option<Arc<Seen>>>,
    /// By scope and type, with what it was made from.
    parts: HashMap<(Scope, ResourceType), (PartKey, Arc<ResourceMap>)>,
    /// What clients of a scope share at the current generation.
    shared: HashMap<Scope, Arc<Shared>>,
    nodes: HashMap<Node, Arc<NodeConfig>>,
    /// With so many nodes, those that are gone are forgotten.
    full: usize,
}

/// A layout depends on the services, the mesh, and the hosts without a service.
type LayoutKey = (PartKey, Vec<Arc<str>>);
/// Revisions a part depends on, in the order of [`part_key`], and the fingerprint of what a Sidecar lets through.
type PartKey = ([Revision; 4], u128);

/// Everything that clients of one scope share.
#[derive(Clone, Default)]
struct Shared {
    clusters: Arc<ResourceMap>,
    endpoints: Arc<ResourceMap>,
    listeners: Arc<ResourceMap>,
    routes: Arc<ResourceMap>,
    virtual_hosts: Arc<ResourceMap>,
    names: Arc<ResourceMap>,
}

impl Translator {
    /// `worlds` carries every generation, `generations` its number; a number must not be told before its world.
    pub fn new(worlds: watch::Receiver<Option<Arc<World>>>, generations: watch::Receiver<u64>) -> Self {
        Self { worlds, generations, cache: Mutex::default() }
    }

    /// What `node` sees of `world`. Worlds must come in the order of their generations; an older one is translated without the caches.
    pub fn translate(&self, world: &Arc<World>, node: &Node) -> Arc<NodeConfig> {
        let mut cache = self.cache.lock();
        if world.generation < cache.generation {
            drop(cache);
            return Arc::new(Cache::default().config(world, node));
        }
        cache.enter(world.generation);
        if let Some(known) = cache.nodes.get(node) {
            return known.clone();
        }
        cache.make_room(world);
        let config = Arc::new(cache.config(world, node));
        cache.nodes.insert(node.clone(), config.clone());
        config
    }

    /// How many kinds of clients are remembered.
    pub fn scopes(&self) -> usize {
        self.cache.lock().shared.len()
    }

    /// How many virtual hosts were translated so far, those taken from the cache not counted.
    pub fn virtual_hosts_translated(&self) -> u64 {
        self.cache.lock().virtual_hosts.translated
    }
}

impl Configs for Translator {
    fn subscribe(&self) -> watch::Receiver<u64> {
        self.generations.clone()
    }

    fn config(&self, node: &Node) -> Arc<NodeConfig> {
        let world = self.worlds.borrow().clone();
        world.map_or_else(|| Arc::new(NodeConfig::new(0)), |world| self.translate(&world, node))
    }
}

impl Cache {
    /// Drops what belongs to earlier generations only.
    fn enter(&mut self, generation: u64) {
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        self.nodes.clear();
        // Scopes that nobody asked for at the last generation are gone.
        let used = std::mem::take(&mut self.shared);
        self.seen.clear();
        self.layouts.retain(|scope, _| used.contains_key(scope));
        self.parts.retain(|(scope, _), _| used.contains_key(scope));
        self.virtual_hosts.sweep(generation);
        self.endpoints.sweep(generation);
    }

    /// Forgets whom no stream serves any more: clients that come under ever new names must not fill the memory.
    fn make_room(&mut self, world: &World) {
        if self.nodes.len() < self.full.max(MOST_IDLE) {
            return;
        }
        self.nodes.retain(|_, config| Arc::strong_count(config) > 1);
        let used: HashSet<Scope> = self.nodes.keys().map(|node| Scope::of(world, node)).collect();
        self.shared.retain(|scope, _| used.contains(scope));
        self.seen.retain(|scope, _| used.contains(scope));
        self.layouts.retain(|scope, _| used.contains(scope));
        self.parts.retain(|(scope, _), _| used.contains(scope));
        self.virtual_hosts.forget_unshared();
        // Twice as many as are in use, so that looking for them costs little per client.
        self.full = self.nodes.len() * 2;
    }

    fn config(&mut self, world: &World, node: &Node) -> NodeConfig {
        let scope = Scope::of(world, node);
        let seen = match self.seen.get(&scope) {
            Some(seen) => seen.clone(),
            None => {
                let seen = Seen::of(world, &scope).map(Arc::new);
                self.seen.insert(scope.clone(), seen.clone());
                seen
            }
        };
        let client = Client { world, scope: &scope, seen: seen.as_deref() };
        let shared = match self.shared.get(&scope) {
            Some(shared) => shared.clone(),
            None => {
                let shared = Arc::new(self.share(&client));
                self.shared.insert(scope.clone(), shared.clone());
                shared
            }
        };
        let mut config = NodeConfig::new(world.generation);
        let mut put = |kind, map: &Arc<ResourceMap>| drop(config.resources.insert(kind, map.clone()));
        put(ResourceType::Cluster, &shared.clusters);
        put(ResourceType::Endpoint, &shared.endpoints);
        put(ResourceType::Listener, &shared.listeners);
        put(ResourceType::Route, &shared.routes);
        if scope.mode.pillion {
            put(ResourceType::VirtualHost, &shared.virtual_hosts);
            put(ResourceType::NameTable, &shared.names);
        }
        own(&client, node, &mut config);
        config
    }

    fn share(&mut self, client: &Client<'_>) -> Shared {
        let grpc = client.mode().grpc;
        let layout = self.layout(client);
        let (routes, virtual_hosts) = virtual_hosts::resources(client, &layout, &mut self.virtual_hosts);
        let mut endpoints = std::mem::take(&mut self.endpoints);
        let shared = Shared {
            clusters: self.part(client, ResourceType::Cluster, || if grpc { grpc::clusters(client) } else { clusters::outbound(client) }),
            endpoints: self.part(client, ResourceType::Endpoint, || endpoints.resources(client)),
            listeners: self
                .part(client, ResourceType::Listener, || if grpc { grpc::listeners(client) } else { listeners::outbound(client, &layout) }),
            names: self.part(client, ResourceType::NameTable, || names::resources(client)),
            routes: Arc::new(routes),
            virtual_hosts: Arc::new(virtual_hosts),
        };
        self.endpoints = endpoints;
        shared
    }

    /// The previous value when nothing it depends on changed.
    fn part(&mut self, client: &Client<'_>, kind: ResourceType, make: impl FnOnce() -> ResourceMap) -> Arc<ResourceMap> {
        let key = part_key(client, kind);
        let slot = (client.scope.clone(), kind);
        match self.parts.get(&slot) {
            Some((old, map)) if *old == key => map.clone(),
            _ => {
                let map = Arc::new(make());
                self.parts.insert(slot, (key, map.clone()));
                map
            }
        }
    }

    fn layout(&mut self, client: &Client<'_>) -> Arc<Layout> {
        if client.mode().router {
            return Arc::default();
        }
        let hosts = client.unregistered_hosts();
        let revisions = part_key(client, ResourceType::Route);
        if let Some((key, layout)) = self.layouts.get(client.scope)
            && key.0 == revisions
            && key.1.iter().map(AsRef::as_ref).eq(hosts.iter().copied())
        {
            return layout.clone();
        }
        let hosts: Vec<Arc<str>> = hosts.into_iter().map(Into::into).collect();
        let layout = Arc::new(Layout::new(client, &hosts));
        self.layouts.insert(client.scope.clone(), ((revisions, hosts), layout.clone()));
        layout
    }
}

/// What a part is made from; a listener's route tables come from services, too (port 80 is always there).
/// Through a Sidecar only the services that are seen count.
fn part_key(client: &Client<'_>, kind: ResourceType) -> PartKey {
    let Revisions { mesh, services, endpoints, destination_rules, .. } = client.world.revisions();
    let none = Revision::default();
    let (services, endpoints, seen) = client.seen.map_or((services, endpoints, 0), |seen| (none, none, seen.fingerprint));
    match kind {
        // DNS clusters carry their endpoints.
        ResourceType::Cluster | ResourceType::Endpoint => ([mesh, services, endpoints, destination_rules], seen),
        _ => ([mesh, services, none, none], seen),
    }
}

/// Adds what belongs to this proxy alone: its own ports, its gateway servers, the port of its explicit proxy.
fn own(client: &Client<'_>, node: &Node, config: &mut NodeConfig) {
    if client.mode().grpc {
        return;
    }
    let instance = client.world.instance(&node.namespace, &node.instance);
    if client.mode().router {
        let labels = instance.map_or(&node.labels, |instance| &instance.labels);
        let made = gateways::resources(client, labels, instance);
        add(config, &made.listeners);
        extend(config, ResourceType::Route, made.routes);
        extend(config, ResourceType::VirtualHost, made.virtual_hosts);
        return;
    }
    if let Some(port) = node.http_proxy_port.filter(|_| client.mode().explicit) {
        add(config, &[listeners::http_proxy(client, port)]);
    }
    if let Some(instance) = instance {
        let (listeners, clusters) = inbound::resources(client, instance);
        add(config, &listeners);
        add(config, &clusters);
    }
}

fn add<M: ResourceMessage>(config: &mut NodeConfig, messages: &[M]) {
    let encoded = messages.iter().map(Encoded::of).map(|encoded| (encoded.name.clone(), encoded)).collect();
    extend(config, M::TYPE, encoded);
}

/// Shared maps are copied only when there is something to add.
fn extend(config: &mut NodeConfig, kind: ResourceType, more: ResourceMap) {
    if !more.is_empty() {
        Arc::make_mut(config.resources.entry(kind).or_default()).extend(more);
    }
}
