//! What gRPC applications without a proxy are told: the part of xDS that their libraries read, and nothing that they refuse.
//!
//! In:  the services a client sees, endpoint lists and virtual hosts as a sidecar gets them.
//! Out: a listener for every spelling of every service, one route table per service and port, clusters and endpoint lists within gRPC's
//!      rules: <https://github.com/grpc/proposal>, A27 and those that extend it. Names as in Istio's `grpcgen`.

pub mod routes;

use std::{collections::HashSet, sync::Arc};

use pillion_api::effective::Resolution;
use pillion_xds::{
    names::{ClusterName, RouteName},
    resource::{Encoded, ResourceMap},
};

use super::{
    clusters::{Outbound, each_outbound, unlimited},
    connection_manager::FAULT_FILTER,
    endpoints,
    scope::Client,
    seen::Visible,
    wire::{
        ads, any,
        cluster::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy},
        },
        core,
        endpoint::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier},
        fault, hcm, http_filter,
        listener::{ApiListener, Listener},
        router, uint32,
    },
};
use crate::model::endpoints::Endpoint;

/// The route table of a service port: the name of its cluster. Source: Istio's `grpcgen`.
pub fn route_name(port: u16, host: &str) -> RouteName {
    ClusterName::outbound(port, "", host).to_string().into()
}

/// A listener for every name by which a client may ask: `<spelling>:<port>` (A27). A spelling of two services means the first by host, as
/// it does in the tables of sidecars.
pub fn listeners(client: &Client<'_>) -> ResourceMap {
    let effective = client.world.effective();
    let mut all = ResourceMap::new();
    for Visible { service, ports } in client.called() {
        let names = service.domains(client.namespace(), &effective.mesh().cluster_domain);
        for port in ports.iter().filter(|port| port.protocol.may_be_http()) {
            let Ok(port) = u16::try_from(port.number) else { continue };
            let api_listener = ApiListener { api_listener: Some(any(&manager(&route_name(port, &service.host)))) };
            // Nobody knows what would be asked for under a wildcard.
            for name in names.iter().filter(|name| !name.contains('*')) {
                let name: Arc<str> = format!("{name}:{port}").into();
                let listener = || Listener { name: name.to_string(), api_listener: Some(api_listener.clone()), ..Default::default() };
                all.entry(name.clone()).or_insert_with(|| Encoded::of(&listener()));
            }
        }
    }
    all
}

/// Faults (A33) and the router, which must be last (A39).
fn manager(routes: &RouteName) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager::RouteSpecifier;
    hcm::HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds { config_source: Some(ads()), route_config_name: routes.to_string() })),
        http_filters: vec![
            http_filter(FAULT_FILTER, &fault::HttpFault::default()),
            http_filter("envoy.filters.http.router", &router::Router::default()),
        ],
        ..Default::default()
    }
}

/// Every cluster that gRPC has a form for.
pub fn clusters(client: &Client<'_>) -> ResourceMap {
    let mut all = ResourceMap::new();
    each_outbound(client, |wanted| {
        let encoded = cluster(client, &wanted).map(|cluster| Encoded::of(&cluster));
        all.extend(encoded.map(|encoded| (encoded.name.clone(), encoded)));
    });
    all
}

/// EDS, or a single name (A37). `None` where the client would have to name the destination itself: calls to what is missing
/// fail. Of the balancing policies only round robin is known to every implementation; a policy that one does not know makes it refuse
/// the cluster.
fn cluster(client: &Client<'_>, wanted: &Outbound<'_>) -> Option<Cluster> {
    let name = wanted.name.to_string();
    let mut cluster = Cluster {
        name: name.clone(),
        lb_policy: LbPolicy::RoundRobin as i32,
        // Else 1,024 requests at once (A32).
        circuit_breakers: unlimited(client),
        ..Default::default()
    };
    let kind = match wanted.service.resolution {
        Resolution::Static => {
            cluster.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(ads()), service_name: name });
            DiscoveryType::Eds
        }
        Resolution::Dns | Resolution::DnsRoundRobin => {
            let found = client.world.endpoints(wanted.service)?;
            let first: &Endpoint = found.of_port(wanted.port.number).iter().find(|endpoint| wanted.takes(endpoint))?;
            let assignment = endpoints::assignment(wanted, &[first]);
            assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints).find_map(socket)?;
            cluster.load_assignment = Some(assignment);
            DiscoveryType::LogicalDns
        }
        Resolution::DynamicDns | Resolution::None => return None,
    };
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
    Some(cluster)
}

/// Within A27: every locality is named and has a weight, every endpoint is a socket and is there once. A list that breaks one of these
/// is refused as a whole, and a locality without a weight is not used.
pub fn restrict_endpoints(assignment: &mut ClusterLoadAssignment) {
    let mut seen = HashSet::new();
    for locality in &mut assignment.endpoints {
        locality.locality.get_or_insert_default();
        locality.lb_endpoints.retain(|endpoint| socket(endpoint).is_some_and(|socket| seen.insert(socket)));
        let weights = locality.lb_endpoints.iter().map(|endpoint| endpoint.load_balancing_weight.map_or(1, |weight| weight.value.max(1)));
        locality.load_balancing_weight = uint32(weights.fold(0, u32::saturating_add));
    }
    assignment.endpoints.retain(|locality| !locality.lb_endpoints.is_empty());
}

/// Host and port; `None` for a pipe.
fn socket(endpoint: &LbEndpoint) -> Option<(String, Option<core::socket_address::PortSpecifier>)> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { return None };
    match endpoint.address.as_ref()?.address.as_ref()? {
        core::address::Address::SocketAddress(socket) => Some((socket.address.clone(), socket.port_specifier.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::wire::{
        self,
        endpoint::{Endpoint as WireEndpoint, LocalityLbEndpoints},
    };

    fn at(address: core::Address) -> LbEndpoint {
        let endpoint = WireEndpoint { address: Some(address), ..Default::default() };
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), load_balancing_weight: uint32(3), ..Default::default() }
    }

    #[test]
    fn endpoints_keep_to_what_grpc_takes() {
        let pipe = core::Pipe { path: "/run/a".to_owned(), ..Default::default() };
        let pipe = core::Address { address: Some(core::address::Address::Pipe(pipe)) };
        let list = |lb_endpoints| LocalityLbEndpoints { lb_endpoints, ..Default::default() };
        let mut assignment = ClusterLoadAssignment {
            endpoints: vec![
                list(vec![at(wire::host_port("10.0.0.1", 80)), at(pipe.clone()), at(wire::host_port("10.0.0.1", 81))]),
                list(vec![at(wire::host_port("10.0.0.1", 80))]),
                list(vec![at(pipe)]),
            ],
            ..Default::default()
        };
        restrict_endpoints(&mut assignment);
        let [only] = &assignment.endpoints[..] else { panic!("{assignment:?}") };
        assert_eq!((only.lb_endpoints.len(), only.load_balancing_weight), (2, uint32(6)));
        assert_eq!(only.locality, Some(core::Locality::default()));
    }
}
