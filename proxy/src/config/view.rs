//! One worker's own form of a snapshot: the shared configuration plus the worker's pools and metric handles beside what they belong to.
//!
//! In:  a [`Snapshot`], and the view before it.
//! Out: [`WorkerCluster`]s by name for `balance` and `connect`. Requests clone the `Rc` of the view they began with.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::Snapshot;
use super::cluster::{Cluster, ClusterKind, ClusterMap, ClusterName, Endpoint, EndpointList, PeerLabels};
use crate::connect::pool::{Pool, PoolKey, Pools};
use crate::http::record::HandleSlot;

/// What a worker looks things up in. Replaced at each swap; clusters and endpoints that did not change are the same `Rc` as before.
#[derive(Debug)]
pub struct WorkerView {
    pub config: Snapshot,
    /// Clusters that were asked for since the start: a sidecar uses few of those it knows.
    clusters: RefCell<ClusterMap<Rc<WorkerCluster>>>,
    pools: Rc<Pools>,
}

/// A cluster with this worker's state.
#[derive(Debug)]
pub struct WorkerCluster {
    pub cluster: Arc<Cluster>,
    list: Arc<EndpointList>,
    /// In the order of `list`.
    pub endpoints: Vec<Rc<WorkerEndpoint>>,
    /// Metric handles for exchanges that reached no endpoint.
    pub handles: HandleSlot,
    /// State of ROUND_ROBIN.
    pub cursor: Cell<usize>,
    /// State of weighted ROUND_ROBIN, beside `endpoints`.
    pub credits: RefCell<Vec<i64>>,
    /// Endpoints of passthrough clusters, made when asked for.
    dynamic: RefCell<HashMap<SocketAddr, Rc<WorkerEndpoint>, foldhash::fast::RandomState>>,
    /// Addresses of names that passthrough requests asked for, and until when they are good.
    names: RefCell<HashMap<Box<str>, Resolved, foldhash::fast::RandomState>>,
}

/// What a name was resolved to.
#[derive(Debug, Clone)]
struct Resolved {
    until: Instant,
    endpoint: Rc<WorkerEndpoint>,
}

/// An endpoint with this worker's connections to it.
#[derive(Debug)]
pub struct WorkerEndpoint {
    pub endpoint: Arc<Endpoint>,
    pub pool: Rc<Pool>,
    /// Metric handles for exchanges with it.
    pub handles: HandleSlot,
}

impl WorkerView {
    pub fn first(config: Snapshot, pools: Rc<Pools>) -> Self {
        Self { config, clusters: RefCell::default(), pools }
    }

    /// The view of the next snapshot. Clusters in use are carried over or rebuilt at once, so that their pools stay referred to.
    pub fn next(&self, config: Snapshot) -> Self {
        let next = Self { config, clusters: RefCell::default(), pools: Rc::clone(&self.pools) };
        for (name, before) in &*self.clusters.borrow() {
            if let Some(cluster) = next.config.clusters.get(name) {
                let carried = next.carry(cluster, Some(before));
                next.clusters.borrow_mut().insert(name.clone(), carried);
            }
        }
        next
    }

    /// A cluster by name. `None`: there is none of that name.
    pub fn cluster(&self, name: &ClusterName) -> Option<Rc<WorkerCluster>> {
        let known = self.clusters.borrow().get(name).map(Rc::clone);
        let fresh = match &known {
            Some(known) if known.is_current() => return Some(Rc::clone(known)),
            Some(known) => self.carry(&known.cluster, Some(known)),
            None => self.carry(self.config.clusters.get(name)?, None),
        };
        self.clusters.borrow_mut().insert(name.clone(), Rc::clone(&fresh));
        Some(fresh)
    }

    fn carry(&self, cluster: &Arc<Cluster>, before: Option<&Rc<WorkerCluster>>) -> Rc<WorkerCluster> {
        let list = match &cluster.kind {
            ClusterKind::Endpoints(list) => Arc::clone(list),
            ClusterKind::Dns(dns) => dns.resolved.load_full(),
            ClusterKind::OriginalDestination { .. } | ClusterKind::DynamicForwardProxy => Arc::default(),
        };
        if let Some(before) = before
            && Arc::ptr_eq(&before.cluster, cluster)
            && (Arc::ptr_eq(&before.list, &list) || list.endpoints.is_empty() && before.list.endpoints.is_empty())
        {
            return Rc::clone(before);
        }
        // Handles know the labels of the service, so they go on only where those are the same.
        let before = before.filter(|before| before.cluster.service == cluster.service && before.cluster.transport == cluster.transport);
        let known: HashMap<*const Endpoint, &Rc<WorkerEndpoint>> =
            before.into_iter().flat_map(|before| &before.endpoints).map(|known| (Arc::as_ptr(&known.endpoint), known)).collect();
        let endpoints = list.endpoints.iter().map(|endpoint| match known.get(&Arc::as_ptr(endpoint)) {
            Some(known) => Rc::clone(known),
            None => self.endpoint(cluster, Arc::clone(endpoint)),
        });
        let endpoints: Vec<_> = endpoints.collect();
        Rc::new(WorkerCluster {
            cluster: Arc::clone(cluster),
            credits: RefCell::new(vec![0; endpoints.len()]),
            endpoints,
            list,
            handles: HandleSlot::default(),
            cursor: Cell::new(before.map_or(0, |before| before.cursor.get())),
            dynamic: RefCell::new(before.map(|before| before.dynamic.borrow().clone()).unwrap_or_default()),
            names: RefCell::new(before.map(|before| before.names.borrow().clone()).unwrap_or_default()),
        })
    }

    fn endpoint(&self, cluster: &Cluster, endpoint: Arc<Endpoint>) -> Rc<WorkerEndpoint> {
        let logical = match &cluster.kind {
            ClusterKind::Dns(dns) => dns.logical(),
            ClusterKind::Endpoints(_) | ClusterKind::OriginalDestination { .. } | ClusterKind::DynamicForwardProxy => None,
        };
        let pool = self.pools.get(PoolKey::new(endpoint.address, cluster.transport, logical), endpoint.address);
        pool.aim(endpoint.address);
        Rc::new(WorkerEndpoint { endpoint, pool, handles: HandleSlot::default() })
    }

    /// The endpoint of a passthrough cluster for an address.
    pub fn dynamic_endpoint(&self, cluster: &WorkerCluster, address: SocketAddr) -> Rc<WorkerEndpoint> {
        let mut dynamic = cluster.dynamic.borrow_mut();
        if dynamic.len() >= WorkerCluster::MOST_DYNAMIC {
            dynamic.clear();
        }
        let make = || {
            let endpoint = Endpoint { address, weight: 1, peer: Arc::new(PeerLabels::default()), live: Arc::default() };
            self.endpoint(&cluster.cluster, Arc::new(endpoint))
        };
        Rc::clone(dynamic.entry(address).or_insert_with(make))
    }
}

impl WorkerCluster {
    /// Passthrough endpoints kept per cluster; a downstream chooses them, so there is a limit.
    const MOST_DYNAMIC: usize = 1024;

    /// Whether the resolver has brought no newer addresses.
    fn is_current(&self) -> bool {
        match &self.cluster.kind {
            ClusterKind::Dns(dns) => Arc::ptr_eq(&*dns.resolved.load(), &self.list),
            ClusterKind::Endpoints(_) | ClusterKind::OriginalDestination { .. } | ClusterKind::DynamicForwardProxy => true,
        }
    }

    /// All weights are the same.
    pub fn is_uniform(&self) -> bool {
        self.list.uniform
    }

    pub fn total_weight(&self) -> u64 {
        self.list.total_weight
    }

    /// The endpoint that a name was resolved to, while that is good.
    pub fn named(&self, authority: &str, now: Instant) -> Option<Rc<WorkerEndpoint>> {
        self.names.borrow().get(authority).filter(|known| now < known.until).map(|known| Rc::clone(&known.endpoint))
    }

    pub fn remember(&self, authority: &str, until: Instant, endpoint: &Rc<WorkerEndpoint>) {
        let mut names = self.names.borrow_mut();
        if names.len() >= Self::MOST_DYNAMIC {
            names.clear();
        }
        names.insert(authority.into(), Resolved { until, endpoint: Rc::clone(endpoint) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RuntimeConfig;
    use crate::config::cluster::{DnsEndpoints, DnsHost, LookupFamily};
    use crate::config::cluster::{EndpointLive, LoadBalancing, ServiceNames, Transport, UpstreamProtocol};
    use crate::config::listener::Http2Settings;
    use std::time::Duration;

    fn endpoint(port: u16) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            weight: 1,
            peer: Arc::default(),
            live: Arc::<EndpointLive>::default(),
        })
    }

    fn config(endpoints: &[Arc<Endpoint>], transport: u64) -> Snapshot {
        let cluster = Cluster {
            name: "c".into(),
            service: ServiceNames::default(),
            kind: ClusterKind::Endpoints(Arc::new(EndpointList::new(endpoints.to_vec()))),
            policy: LoadBalancing::LeastRequest,
            connect_timeout: Duration::from_secs(1),
            protocol: UpstreamProtocol::Http1,
            http2: Http2Settings::default(),
            idle_timeout: None,
            max_requests_per_connection: 0,
            transport: Transport { fingerprint: transport },
            sends_peer_metadata: true,
            live: Arc::default(),
        };
        let mut config = RuntimeConfig::default();
        config.clusters.insert("c".into(), Arc::new(cluster));
        Arc::new(config)
    }

    #[test]
    fn pools_live_on_over_a_swap_while_endpoint_and_transport_stay() {
        let pools = Rc::new(Pools::default());
        let (one, two) = (endpoint(1), endpoint(2));
        let first = WorkerView::first(config(&[Arc::clone(&one), two], 0), Rc::clone(&pools));
        let before = first.cluster(&"c".into()).unwrap();
        let cases = [("another list", 0, true), ("another transport", 1, false)];
        for (name, transport, same) in cases {
            let next = first.next(config(&[endpoint(3), Arc::clone(&one)], transport));
            let after = next.cluster(&"c".into()).unwrap();
            assert_eq!(Rc::ptr_eq(&before.endpoints[0].pool, &after.endpoints[1].pool), same, "{name}");
        }
    }

    #[test]
    fn when_a_logical_name_moves_its_connections_stay_and_new_ones_go_to_the_new_address() {
        for (all_addresses, stay) in [(false, true), (true, false)] {
            let host = DnsHost { host: "a.example".into(), port: 80, weight: 1, peer: Arc::default() };
            let dns = Arc::new(DnsEndpoints {
                hosts: vec![host],
                resolved: arc_swap::ArcSwap::from_pointee(EndpointList::new(vec![endpoint(1)])),
                all_addresses,
                family: LookupFamily::V4Preferred,
                refresh: Duration::from_secs(60),
            });
            let mut config = RuntimeConfig::default();
            let like = Arc::try_unwrap(Arc::into_inner(self::config(&[], 0)).unwrap().clusters.remove(&"c".into()).unwrap()).unwrap();
            config.clusters.insert("c".into(), Arc::new(Cluster { kind: ClusterKind::Dns(Arc::clone(&dns)), ..like }));
            let view = WorkerView::first(Arc::new(config), Rc::default());
            let before = view.cluster(&"c".into()).unwrap();
            assert_eq!(before.endpoints[0].pool.target().port(), 1);
            dns.resolved.store(Arc::new(EndpointList::new(vec![endpoint(2)])));
            let after = view.cluster(&"c".into()).unwrap();
            assert_eq!(Rc::ptr_eq(&before.endpoints[0].pool, &after.endpoints[0].pool), stay, "all addresses: {all_addresses}");
            assert_eq!((after.endpoints[0].pool.target().port(), after.endpoints[0].endpoint.address.port()), (2, 2));
        }
    }

    #[test]
    fn an_unchanged_cluster_is_the_same_object() {
        let first = WorkerView::first(config(&[endpoint(1)], 0), Rc::default());
        let before = first.cluster(&"c".into()).unwrap();
        let next = first.next(Arc::clone(&first.config));
        assert!(Rc::ptr_eq(&before, &next.cluster(&"c".into()).unwrap()));
        assert!(next.cluster(&"unknown".into()).is_none());
    }
}
