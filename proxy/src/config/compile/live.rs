//! A cluster over time: which version serves, and the live state that outlives versions.
//!
//! In:  compiled specifications and endpoint lists, and the time.
//! Out: the [`Cluster`] that requests may see, the same `Arc` while nothing about it changed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::WARMING;
use super::cluster::{ClusterSpec, Discovery, EndpointSpec};
use crate::config::cluster::{
    Cluster, ClusterKind, ClusterLive, ClusterName, DnsEndpoints, Endpoint, EndpointList, EndpointLive, Transport,
};

#[derive(Debug)]
pub(super) struct ClusterEntry {
    name: ClusterName,
    version: Arc<str>,
    spec: Arc<ClusterSpec>,
    /// When the specification's source of endpoints changed last.
    since: Instant,
    /// What requests see, and what it was built from.
    serving: Option<Serving>,
    live: Arc<ClusterLive>,
    /// Endpoints that were here and may still have requests open.
    endpoints: HashMap<SocketAddr, Weak<EndpointLive>, foldhash::fast::RandomState>,
    waiting: bool,
}

#[derive(Debug)]
struct Serving {
    spec: Arc<ClusterSpec>,
    assignment: Option<Arc<Vec<EndpointSpec>>>,
    cluster: Arc<Cluster>,
}

impl ClusterEntry {
    pub(super) fn new(name: &str, version: Arc<str>, spec: Arc<ClusterSpec>, now: Instant) -> Self {
        Self {
            name: ClusterName::new(name),
            version,
            spec,
            since: now,
            serving: None,
            live: Arc::default(),
            endpoints: HashMap::default(),
            waiting: true,
        }
    }

    pub(super) fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// A new version of the resource.
    pub(super) fn replace(&mut self, version: Arc<str>, spec: Arc<ClusterSpec>, now: Instant) {
        if !same_source(&self.spec.discovery, &spec.discovery) {
            self.since = now;
            self.waiting = true;
        }
        self.version = version;
        self.spec = spec;
    }

    /// The assignment that brings its endpoints.
    pub(super) fn assignment(&self) -> Option<&Arc<str>> {
        match &self.spec.discovery {
            Discovery::Eds(name) => Some(name),
            _ => None,
        }
    }

    /// Until when it waits for first endpoints; `None` when it does not.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.waiting.then_some(self.since + WARMING)
    }

    /// What requests see now; `None` while it waits and nothing served before.
    pub(super) fn visible(&mut self, assignment: Option<&Arc<Vec<EndpointSpec>>>, now: Instant) -> Option<Arc<Cluster>> {
        let endpoints = match &self.spec.discovery {
            Discovery::Static(endpoints) => Some(Arc::clone(endpoints)),
            Discovery::Eds(_) => assignment.cloned(),
            Discovery::Dns { .. } | Discovery::OriginalDestination { .. } | Discovery::DynamicForwardProxy => None,
        };
        if self.waiting {
            let first = match (&self.spec.discovery, &endpoints) {
                // An empty list is an answer, but no reason to take away what serves.
                (Discovery::Eds(_), Some(endpoints)) => !endpoints.is_empty() || self.serving.is_none(),
                (Discovery::Eds(_), None) => false,
                _ => true,
            };
            if !first && now < self.since + WARMING {
                return self.serving.as_ref().map(|serving| Arc::clone(&serving.cluster));
            }
            self.waiting = false;
        }
        let unchanged = self
            .serving
            .as_ref()
            .filter(|serving| Arc::ptr_eq(&serving.spec, &self.spec) && same_list(serving.assignment.as_ref(), endpoints.as_ref()));
        if let Some(serving) = unchanged {
            return Some(Arc::clone(&serving.cluster));
        }
        let cluster = Arc::new(self.build(endpoints.as_ref().map_or(&[], |endpoints| endpoints)));
        self.serving = Some(Serving { spec: Arc::clone(&self.spec), assignment: endpoints, cluster: Arc::clone(&cluster) });
        Some(cluster)
    }

    fn build(&mut self, endpoints: &[EndpointSpec]) -> Cluster {
        let spec = Arc::clone(&self.spec);
        let before = self.serving.as_ref().map(|serving| Arc::clone(&serving.cluster));
        let kind = match &spec.discovery {
            Discovery::Static(_) | Discovery::Eds(_) => ClusterKind::Endpoints(self.endpoint_list(before.as_deref(), endpoints)),
            Discovery::Dns { hosts, all_addresses, family, refresh } => {
                ClusterKind::Dns(match before.as_ref().map(|cluster| &cluster.kind) {
                    Some(ClusterKind::Dns(old))
                        if (&old.hosts, old.all_addresses, old.family, old.refresh) == (hosts, *all_addresses, *family, *refresh) =>
                    {
                        Arc::clone(old)
                    }
                    _ => Arc::new(DnsEndpoints {
                        hosts: hosts.clone(),
                        resolved: arc_swap::ArcSwap::default(),
                        all_addresses: *all_addresses,
                        family: *family,
                        refresh: *refresh,
                    }),
                })
            }
            Discovery::OriginalDestination { port } => ClusterKind::OriginalDestination { port: *port },
            Discovery::DynamicForwardProxy => ClusterKind::DynamicForwardProxy,
        };
        // Endpoints of the mesh say which workload they are; others would only be told who calls them.
        let of_the_mesh =
            matches!(spec.discovery, Discovery::Eds(_)) && endpoints.iter().any(|endpoint| !endpoint.peer.workload.is_empty());
        Cluster {
            name: self.name.clone(),
            service: spec.service.clone(),
            kind,
            policy: spec.policy,
            connect_timeout: spec.connect_timeout,
            protocol: spec.protocol,
            http2: spec.http2,
            idle_timeout: spec.idle_timeout,
            max_requests_per_connection: spec.max_requests_per_connection,
            transport: Transport::default(),
            sends_peer_metadata: of_the_mesh,
            live: Arc::clone(&self.live),
        }
    }

    /// The list with the same `Arc` for each endpoint that stayed as it was, or for the whole when all did.
    fn endpoint_list(&mut self, before: Option<&Cluster>, endpoints: &[EndpointSpec]) -> Arc<EndpointList> {
        let old_list = match before.map(|cluster| &cluster.kind) {
            Some(ClusterKind::Endpoints(list)) => Some(list),
            _ => None,
        };
        let old: HashMap<SocketAddr, &Arc<Endpoint>> =
            old_list.into_iter().flat_map(|list| &list.endpoints).map(|endpoint| (endpoint.address, endpoint)).collect();
        let list: Vec<Arc<Endpoint>> = endpoints
            .iter()
            .map(|spec| match old.get(&spec.address) {
                Some(same) if same.weight == spec.weight && *same.peer == spec.peer => Arc::clone(same),
                other => {
                    let live = other.map(|old| Arc::clone(&old.live)).or_else(|| self.endpoints.get(&spec.address)?.upgrade());
                    let peer = match other {
                        Some(old) if *old.peer == spec.peer => Arc::clone(&old.peer),
                        _ => Arc::new(spec.peer.clone()),
                    };
                    Arc::new(Endpoint { address: spec.address, weight: spec.weight, peer, live: live.unwrap_or_default() })
                }
            })
            .collect();
        self.endpoints.retain(|_, live| live.strong_count() > 0);
        self.endpoints.extend(list.iter().map(|endpoint| (endpoint.address, Arc::downgrade(&endpoint.live))));
        match old_list {
            Some(same) if same.endpoints.len() == list.len() && same.endpoints.iter().zip(&list).all(|(a, b)| Arc::ptr_eq(a, b)) => {
                Arc::clone(same)
            }
            _ => Arc::new(EndpointList::new(list)),
        }
    }
}

fn same_list(a: Option<&Arc<Vec<EndpointSpec>>>, b: Option<&Arc<Vec<EndpointSpec>>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// Whether endpoints known for one are those of the other.
fn same_source(a: &Discovery, b: &Discovery) -> bool {
    match (a, b) {
        (Discovery::Eds(a), Discovery::Eds(b)) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}
