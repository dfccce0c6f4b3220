//! Wire resources to compiled ones. No I/O but opening log files; time is passed in.
//!
//! In:  [`Update`]s of the xDS client, as they come.
//! Out: per update, the resources refused and why; on demand, a complete [`RuntimeConfig`].
//!
//! A resource that does not compile keeps its last good version. What did not change keeps its `Arc`: virtual hosts, clusters, endpoint
//! lists, single endpoints. Live state is carried over by (cluster, address).
//!
//! ```text
//! new or re-typed cluster --- first endpoints, or WARMING --> visible
//!          (an older cluster of the name serves until then)
//! ```

// Other control planes still send fields that are deprecated.
#![allow(deprecated)]

mod access_log;
pub(super) mod at;
mod cluster;
mod cors;
mod filter_config;
mod http_manager;
mod listener;
mod live;
mod mirror;
mod names;
mod retry;
mod route;
mod route_set;
mod value;
mod virtual_host;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pillion_xds::resource::ResourceType;
use pillion_xds::subscription::{self, Changed, Decoded, Update};
use tokio::time::Instant;

use super::cluster::ClusterMap;
use super::listener::{Listener, ListenerTable, NetworkFilter, RouteSource};
use super::{LocalNode, NameTable, RuntimeConfig};
use crate::telemetry::log_sink::LogSinks;
use at::{At, Compiled, Context};
use cluster::EndpointSpec;
use live::ClusterEntry;
use route_set::RouteSet;

pub use at::Refusal;

/// How long a new or re-typed cluster waits for its first endpoints. Source: Envoy's `initial_fetch_timeout`.
pub const WARMING: Duration = Duration::from_secs(15);

/// A compiled resource and the version it was compiled from.
#[derive(Debug)]
struct Entry<T> {
    version: Arc<str>,
    value: T,
}

/// What became of an update.
#[derive(Debug, Default)]
pub struct Verdict {
    /// For the NACK.
    pub refused: Vec<subscription::Refusal>,
    /// Fields that were set and have no effect, as `resource: path: sentence`.
    pub notes: Vec<String>,
    /// Something changed, so that a new configuration is due.
    pub changed: bool,
}

/// Every accepted resource, compiled.
#[derive(Debug)]
pub struct Compiler {
    sinks: Arc<LogSinks>,
    node: LocalNode,
    local: Arc<LocalNode>,
    listeners: BTreeMap<Arc<str>, Entry<Arc<Listener>>>,
    clusters: BTreeMap<Arc<str>, ClusterEntry>,
    assignments: BTreeMap<Arc<str>, Entry<Arc<Vec<EndpointSpec>>>>,
    routes: RouteSet,
    names: Entry<Arc<NameTable>>,
}

impl Compiler {
    /// `node` is what this proxy says of itself; the outbound policy in it is overwritten by what the routes say.
    pub fn new(sinks: Arc<LogSinks>, node: LocalNode) -> Self {
        Self {
            sinks,
            local: Arc::new(node.clone()),
            node,
            listeners: BTreeMap::new(),
            clusters: BTreeMap::new(),
            assignments: BTreeMap::new(),
            routes: RouteSet::default(),
            names: Entry { version: "".into(), value: Arc::default() },
        }
    }

    /// Takes an update in: compiles what changed, forgets what was removed.
    pub fn apply(&mut self, update: &Update, now: Instant) -> Verdict {
        self.take(update.kind, &update.changed, &update.removed, now)
    }

    /// The same from parts, for resources off the disk.
    pub fn take(&mut self, kind: ResourceType, changed: &[Changed], removed: &[Arc<str>], now: Instant) -> Verdict {
        let mut verdict = Verdict::default();
        let sinks = Arc::clone(&self.sinks);
        if matches!(kind, ResourceType::Route | ResourceType::VirtualHost) {
            self.routes.take(&sinks, kind, changed, removed, &mut verdict);
            return verdict;
        }
        for Changed { encoded, message } in changed {
            if self.version(kind, &encoded.name) == Some(&encoded.version) && !encoded.version.is_empty() {
                continue;
            }
            let context = Context::new(&sinks);
            match self.compile(&At::root(&context), &encoded.name, &encoded.version, message, now) {
                Ok(()) => verdict.changed = true,
                Err(refusal) => verdict.refuse(&encoded.name, &refusal),
            }
            verdict.note(&encoded.name, context);
        }
        for name in removed {
            verdict.changed |= match kind {
                ResourceType::Listener => self.listeners.remove(name).is_some(),
                ResourceType::Cluster => self.clusters.remove(name).is_some(),
                ResourceType::Endpoint => self.assignments.remove(name).is_some(),
                ResourceType::NameTable => {
                    self.names = Entry { version: "".into(), value: Arc::default() };
                    true
                }
                ResourceType::Route | ResourceType::VirtualHost | ResourceType::Secret => false,
            };
        }
        verdict
    }

    fn version(&self, kind: ResourceType, name: &str) -> Option<&Arc<str>> {
        match kind {
            ResourceType::Listener => self.listeners.get(name).map(|entry| &entry.version),
            ResourceType::Cluster => self.clusters.get(name).map(ClusterEntry::version),
            ResourceType::Endpoint => self.assignments.get(name).map(|entry| &entry.version),
            ResourceType::NameTable => Some(&self.names.version),
            ResourceType::Route | ResourceType::VirtualHost | ResourceType::Secret => None,
        }
    }

    fn compile(&mut self, at: &At<'_>, name: &Arc<str>, version: &Arc<str>, message: &Decoded, now: Instant) -> Compiled<()> {
        let version = Arc::clone(version);
        match message {
            Decoded::Listener(wire) => {
                same_name(at, name, &wire.name)?;
                let value = Arc::new(listener::listener(at, wire)?);
                self.listeners.insert(Arc::clone(name), Entry { version, value });
            }
            Decoded::Cluster(wire) => {
                same_name(at, name, &wire.name)?;
                let spec = Arc::new(cluster::cluster(at, wire)?);
                match self.clusters.get_mut(name) {
                    Some(entry) => entry.replace(version, spec, now),
                    None => drop(self.clusters.insert(Arc::clone(name), ClusterEntry::new(name, version, spec, now))),
                }
            }
            Decoded::Endpoints(wire) => {
                same_name(&at.field("cluster_name"), name, &wire.cluster_name)?;
                let mut value = Arc::new(cluster::endpoints(at, wire)?);
                // Equal endpoints under a new version stay the same list.
                if let Some(old) = self.assignments.get(name).filter(|old| old.value == value) {
                    value = Arc::clone(&old.value);
                }
                self.assignments.insert(Arc::clone(name), Entry { version, value });
            }
            Decoded::NameTable(wire) => self.names = Entry { version, value: Arc::new(names::name_table(at, wire)?) },
            Decoded::Route(_) | Decoded::VirtualHost(_) | Decoded::Secret(_) => return Err(at.unsupported()),
        }
        Ok(())
    }

    /// The complete configuration as of now. Cheap where nothing changed.
    pub fn config(&mut self, generation: u64, now: Instant) -> RuntimeConfig {
        self.prune();
        let mut clusters = ClusterMap::default();
        for entry in self.clusters.values_mut() {
            let assignment = entry.assignment().and_then(|name| self.assignments.get(name)).map(|entry| &entry.value);
            if let Some(cluster) = entry.visible(assignment, now) {
                clusters.insert(cluster.name.clone(), cluster);
            }
        }
        let outbound_policy = self.routes.outbound_policy();
        if self.local.outbound_policy != outbound_policy {
            self.local = Arc::new(LocalNode { outbound_policy, ..self.node.clone() });
        }
        RuntimeConfig {
            generation,
            listeners: ListenerTable::new(self.listeners.values().map(|entry| Arc::clone(&entry.value))),
            routes: self.routes.tables(),
            clusters,
            names: Arc::clone(&self.names.value),
            local: Arc::clone(&self.local),
            ..RuntimeConfig::default()
        }
    }

    /// When a waiting cluster becomes visible without endpoints, so that `config` is due again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.clusters.values().filter_map(ClusterEntry::waits_until).min()
    }

    /// Nothing was accepted yet.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.clusters.is_empty()
    }

    /// Names that are followed and did not come: endpoints of clusters, route configurations of listeners.
    pub fn missing(&self) -> Vec<(ResourceType, Arc<str>)> {
        let endpoints = self.clusters.values().filter_map(ClusterEntry::assignment).filter(|name| !self.assignments.contains_key(*name));
        let routes = self.followed_routes().filter(|name| !self.routes.has_settings(name));
        let endpoints = endpoints.map(|name| (ResourceType::Endpoint, Arc::clone(name)));
        endpoints.chain(routes.map(|name| (ResourceType::Route, Arc::clone(name)))).collect()
    }

    fn followed_routes(&self) -> impl Iterator<Item = &Arc<str>> {
        let chains = self.listeners.values().flat_map(|entry| entry.value.chains.iter().chain(&entry.value.default_chain));
        chains.filter_map(|chain| match &chain.filter {
            NetworkFilter::Http(manager) => match &manager.routes {
                RouteSource::Named(name) => Some(name),
                RouteSource::Inline(_) => None,
            },
            NetworkFilter::Tcp(_) => None,
        })
    }

    /// Forgets what was asked for by name and is followed by nothing any more: nobody will say that it is gone.
    fn prune(&mut self) {
        let followed: BTreeSet<&str> = self.clusters.values().filter_map(ClusterEntry::assignment).map(|name| &**name).collect();
        self.assignments.retain(|name, _| followed.contains(&**name));
        let routes: BTreeSet<Arc<str>> = self.followed_routes().cloned().collect();
        self.routes.retain(|name| routes.contains(name));
    }
}

impl Verdict {
    fn refuse(&mut self, name: &Arc<str>, refusal: &Refusal) {
        self.refused.push(subscription::Refusal::new(Arc::clone(name), refusal.to_string()));
    }

    fn note(&mut self, name: &str, context: Context<'_>) {
        self.notes.extend(context.into_notes().into_iter().map(|note| format!("{name}: {note}")));
    }
}

/// The name in the envelope is the one in the message.
fn same_name(at: &At<'_>, envelope: &str, own: &str) -> Compiled<()> {
    if envelope == own { Ok(()) } else { Err(at.refuse(format_args!("calls itself {own:?}"))) }
}
