//! Endpoint lists.
//!
//! In:  the endpoints of a service port, the subset a client asks for.
//! Out: one load assignment per EDS cluster, encoded once for all clients that mean the same.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use pillion_api::effective::Labels;
use pillion_xds::{
    names::ClusterName,
    resource::{Encoded, ResourceMap},
};

use super::{
    clusters::{Outbound, each_outbound},
    grpc,
    scope::Client,
    wire::{
        self, core,
        endpoint::{ClusterLoadAssignment, Endpoint as WireEndpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
        object, text, uint32,
    },
};
use crate::model::{
    endpoints::{Endpoint, Peer, Place},
    instance::CLUSTER_ID,
    revision::Revision,
};

/// Endpoint lists by what they were made from.
#[derive(Debug, Default)]
pub struct EndpointCache {
    made: HashMap<Key, (Encoded, u64)>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    cluster: ClusterName,
    service: Revision,
    endpoints: Revision,
    labels: Labels,
    grpc: bool,
}

impl EndpointCache {
    /// Forgets what the two newest generations did not use.
    pub fn sweep(&mut self, generation: u64) {
        self.made.retain(|_, (_, used)| *used + 1 >= generation);
    }

    /// Every endpoint list of a client.
    pub fn resources(&mut self, client: &Client<'_>) -> ResourceMap {
        let mut all = ResourceMap::new();
        each_outbound(client, |wanted| {
            if wanted.is_eds() {
                let encoded = self.one(client, &wanted);
                all.insert(encoded.name.clone(), encoded);
            }
        });
        all
    }

    fn one(&mut self, client: &Client<'_>, wanted: &Outbound<'_>) -> Encoded {
        let found = client.world.endpoints(wanted.service);
        let key = Key {
            cluster: wanted.name.clone(),
            service: client.world.service_revision(wanted.service),
            endpoints: found.map(|found| found.revision).unwrap_or_default(),
            labels: wanted.subset_labels(),
            grpc: client.mode().grpc,
        };
        if let Some((encoded, used)) = self.made.get_mut(&key) {
            *used = client.world.generation;
            return encoded.clone();
        }
        let all = found.map(|found| found.of_port(wanted.port.number)).unwrap_or_default();
        let kept: Vec<&Endpoint> = all.iter().filter(|endpoint| wanted.takes(endpoint)).collect();
        let mut made = assignment(wanted, &kept);
        if client.mode().grpc {
            grpc::restrict_endpoints(&mut made);
        }
        let encoded = Encoded::of(&made);
        self.made.insert(key, (encoded.clone(), client.world.generation));
        encoded
    }
}

/// The endpoints of a cluster, by locality.
pub fn assignment(wanted: &Outbound<'_>, endpoints: &[&Endpoint]) -> ClusterLoadAssignment {
    let mut localities: BTreeMap<&str, Vec<LbEndpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        if let Some(address) = address_of(&endpoint.place, wanted.is_eds()) {
            let metadata = (!wanted.service.external).then(|| metadata(&endpoint.peer));
            localities.entry(endpoint.peer.locality.as_str()).or_default().push(lb_endpoint(address, endpoint.weight, metadata));
        }
    }
    let localities = localities.into_iter().map(|(place, lb_endpoints)| LocalityLbEndpoints {
        locality: locality(place),
        load_balancing_weight: uint32(
            lb_endpoints.iter().filter_map(|e| e.load_balancing_weight.as_ref()).fold(0, |sum, w| sum.saturating_add(w.value)),
        ),
        lb_endpoints,
        ..Default::default()
    });
    ClusterLoadAssignment { cluster_name: wanted.name.to_string(), endpoints: localities.collect(), ..Default::default() }
}

/// One endpoint, nothing known about it.
pub fn single(cluster: &ClusterName, address: core::Address) -> ClusterLoadAssignment {
    let list = LocalityLbEndpoints {
        lb_endpoints: vec![LbEndpoint { load_balancing_weight: None, ..lb_endpoint(address, 1, None) }],
        ..Default::default()
    };
    ClusterLoadAssignment { cluster_name: cluster.to_string(), endpoints: vec![list], ..Default::default() }
}

fn lb_endpoint(address: core::Address, weight: u32, metadata: Option<core::Metadata>) -> LbEndpoint {
    let endpoint = WireEndpoint { address: Some(address), ..Default::default() };
    LbEndpoint {
        metadata,
        load_balancing_weight: uint32(weight),
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    }
}

/// `None`: a name in an EDS cluster, where Envoy takes addresses only.
fn address_of(place: &Place, is_eds: bool) -> Option<core::Address> {
    match place {
        Place::Socket(address) => Some(wire::address(*address)),
        Place::Name(..) if is_eds => None,
        Place::Name(name, port) => Some(wire::host_port(name.clone(), *port)),
        Place::Pipe(path) => {
            Some(core::Address { address: Some(core::address::Address::Pipe(core::Pipe { path: path.clone(), ..Default::default() })) })
        }
    }
}

/// `region/zone/subzone`.
fn locality(place: &str) -> Option<core::Locality> {
    if place.is_empty() {
        return None;
    }
    let mut parts = place.splitn(3, '/').map(str::to_owned);
    Some(core::Locality {
        region: parts.next().unwrap_or_default(),
        zone: parts.next().unwrap_or_default(),
        sub_zone: parts.next().unwrap_or_default(),
    })
}

/// What telemetry says about the upstream: Istio's `workload;namespace;name;revision;cluster`, and beside it what Istio learns by exchange.
fn metadata(peer: &Arc<Peer>) -> core::Metadata {
    let workload = format!("{};{};{};{};{CLUSTER_ID}", peer.workload, peer.namespace, peer.canonical_name(), peer.canonical_revision());
    let label = |key: &str| peer.labels.get(key).filter(|value| !value.is_empty());
    let own = [
        ("app", label("app")),
        ("version", label("version")),
        ("service_account", Some(&peer.service_account).filter(|account| !account.is_empty())),
        ("instance", Some(&peer.instance).filter(|name| !name.is_empty())),
    ];
    let own = own.into_iter().filter_map(|(key, value)| Some((key, text(value?.clone()))));
    wire::metadata([("istio", object([("workload", text(workload))])), ("pillion", object(own))])
}
