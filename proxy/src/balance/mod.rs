//! The choice of an endpoint.
//!
//! In:  a cluster in the worker's view, endpoints already tried, random numbers.
//! Out: one endpoint, or none when the cluster has none.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use crate::config::cluster::LoadBalancing;
use crate::config::view::{WorkerCluster, WorkerEndpoint};

/// Choose an endpoint; `again` further choices are made while it is one of those `tried`.
///
/// Source: Envoy `LoadBalancerBase::chooseHost` with the `previous_hosts` predicate: after the last choice the endpoint is taken as it is.
pub fn pick<'c>(
    cluster: &'c WorkerCluster,
    tried: &[Rc<WorkerEndpoint>],
    again: u32,
    mut random: impl FnMut() -> u64,
) -> Option<&'c Rc<WorkerEndpoint>> {
    let mut chosen = choose(cluster, &mut random)?;
    for _ in 0..again {
        if !tried.iter().any(|other| Rc::ptr_eq(other, chosen)) {
            break;
        }
        chosen = choose(cluster, &mut random)?;
    }
    Some(chosen)
}

fn choose<'c>(cluster: &'c WorkerCluster, random: &mut impl FnMut() -> u64) -> Option<&'c Rc<WorkerEndpoint>> {
    let endpoints = &cluster.endpoints;
    match endpoints.len() {
        0 => return None,
        1 => return endpoints.first(),
        _ => {}
    }
    match cluster.cluster.policy {
        LoadBalancing::RoundRobin if cluster.is_uniform() => {
            let at = cluster.cursor.get();
            cluster.cursor.set(at.wrapping_add(1));
            endpoints.get(at % endpoints.len())
        }
        LoadBalancing::RoundRobin => weighted_turn(cluster),
        LoadBalancing::Random => endpoints.get(draw(cluster, random)),
        LoadBalancing::LeastRequest => {
            let (one, two) = (&endpoints[draw(cluster, random)], &endpoints[draw(cluster, random)]);
            // Drawn by weight already: what is compared is load per weight.
            let load = |endpoint: &WorkerEndpoint| u64::from(endpoint.endpoint.live.open_requests.load(Ordering::Relaxed));
            let weight = |endpoint: &WorkerEndpoint| u64::from(endpoint.endpoint.weight);
            Some(if load(two) * weight(one) < load(one) * weight(two) { two } else { one })
        }
    }
}

/// Index of an endpoint, drawn in proportion to its weight.
fn draw(cluster: &WorkerCluster, random: &mut impl FnMut() -> u64) -> usize {
    let endpoints = &cluster.endpoints;
    if cluster.is_uniform() {
        // The upper half of the product: even for lengths that are no power of two, and no division.
        return ((u128::from(random()) * endpoints.len() as u128) >> 64) as usize;
    }
    let mut at = random() % cluster.total_weight().max(1);
    for (index, endpoint) in endpoints.iter().enumerate() {
        let weight = u64::from(endpoint.endpoint.weight);
        if at < weight {
            return index;
        }
        at -= weight;
    }
    0
}

/// Smooth weighted turns: each endpoint gains its weight, the richest is taken and pays the total.
fn weighted_turn(cluster: &WorkerCluster) -> Option<&Rc<WorkerEndpoint>> {
    let mut credits = cluster.credits.borrow_mut();
    for (credit, endpoint) in credits.iter_mut().zip(&cluster.endpoints) {
        *credit += i64::from(endpoint.endpoint.weight);
    }
    // Of equals the first, as `max_by_key` would not.
    let best = (0..credits.len()).reduce(|best, index| if credits[index] > credits[best] { index } else { best })?;
    credits[best] -= i64::try_from(cluster.total_weight()).unwrap_or(i64::MAX);
    cluster.endpoints.get(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RuntimeConfig;
    use crate::config::cluster::{Cluster, ClusterKind, Endpoint, EndpointList, Transport, UpstreamProtocol};
    use crate::config::view::WorkerView;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    fn cluster(policy: LoadBalancing, weights: &[u32]) -> Rc<WorkerCluster> {
        let endpoints = weights.iter().zip(1..).map(|(weight, port)| {
            Arc::new(Endpoint {
                address: SocketAddr::from(([127, 0, 0, 1], port)),
                weight: *weight,
                peer: Arc::default(),
                live: Arc::default(),
            })
        });
        let cluster = Cluster {
            name: "c".into(),
            service: Default::default(),
            kind: ClusterKind::Endpoints(Arc::new(EndpointList::new(endpoints.collect()))),
            policy,
            connect_timeout: Duration::from_secs(1),
            protocol: UpstreamProtocol::Http1,
            http2: Default::default(),
            idle_timeout: None,
            max_requests_per_connection: 0,
            transport: Transport::default(),
            sends_peer_metadata: false,
            live: Arc::default(),
        };
        let mut config = RuntimeConfig::default();
        config.clusters.insert("c".into(), Arc::new(cluster));
        WorkerView::first(Arc::new(config), Rc::default()).cluster(&"c".into()).unwrap()
    }

    fn counts(cluster: &WorkerCluster, picks: usize) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; cluster.endpoints.len()];
        for _ in 0..picks {
            let chosen = pick(cluster, &[], 0, || random.u64(..)).unwrap();
            counts[usize::from(chosen.endpoint.address.port()) - 1] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_takes_turns_by_weight() {
        assert_eq!(counts(&cluster(LoadBalancing::RoundRobin, &[1, 1, 1]), 9), [3, 3, 3]);
        assert_eq!(counts(&cluster(LoadBalancing::RoundRobin, &[3, 1]), 8), [6, 2]);
    }

    #[test]
    fn random_and_idle_least_request_follow_the_weights() {
        for policy in [LoadBalancing::Random, LoadBalancing::LeastRequest] {
            let counts = counts(&cluster(policy, &[3, 1]), 4000);
            assert!((2900..3100).contains(&counts[0]), "{policy:?} {counts:?}");
        }
    }

    #[test]
    fn least_request_avoids_the_busy_one() {
        let cluster = cluster(LoadBalancing::LeastRequest, &[1, 1]);
        cluster.endpoints[0].endpoint.live.open_requests.store(5, Ordering::Relaxed);
        let counts = counts(&cluster, 1000);
        // Only two draws of the busy one choose it.
        assert!((200..300).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn endpoints_already_tried_are_avoided_while_choices_last() {
        let cluster = cluster(LoadBalancing::RoundRobin, &[1, 1, 1]);
        let tried = [Rc::clone(&cluster.endpoints[0]), Rc::clone(&cluster.endpoints[1])];
        for (again, want) in [(5, 2), (0, 0)] {
            cluster.cursor.set(0);
            let got = pick(&cluster, &tried, again, || 0).unwrap();
            assert!(Rc::ptr_eq(got, &cluster.endpoints[want]), "{again}");
        }
    }

    #[test]
    fn a_cluster_without_endpoints_has_none_to_choose() {
        assert!(pick(&cluster(LoadBalancing::LeastRequest, &[]), &[], 5, || 0).is_none());
    }
}
