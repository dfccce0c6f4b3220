//! Our client against our server, without I/O, in every order that chance finds: they converge, and a held route never leads to a cluster
//! that is not there.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use pillion_xds::{
    node::Node,
    resource::{Encoded, NodeConfig, ResourceType},
    session::{Session, Variant},
    subscription::{Decoded, Refusal, Subscription},
    wire::envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            endpoint::v3::ClusterLoadAssignment,
            route::v3::VirtualHost,
        },
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
};
use proptest::prelude::*;
use tokio::time::Instant;

/// What can happen next.
#[derive(Clone, Debug)]
enum Step {
    /// Virtual host `n` routes to cluster `to`, in a variation; clusters that nobody uses are gone.
    Configure(Vec<(u8, u8, u8)>),
    /// The server reads a request, the client a response.
    Serve,
    Apply,
    /// The stream breaks; what was on it is lost.
    Reconnect,
    /// From now on the client refuses variation `v` of virtual hosts, or none.
    Refuse(Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => prop::collection::vec((0..4u8, 0..6u8, 0..3u8), 0..5).prop_map(Step::Configure),
        8 => Just(Step::Serve),
        8 => Just(Step::Apply),
        1 => Just(Step::Reconnect),
        1 => prop::option::of(0..3u8).prop_map(Step::Refuse),
    ]
}

fn config(generation: u64, routes: &[(u8, u8, u8)]) -> NodeConfig {
    let mut config = NodeConfig::new(generation);
    for (host, to, variation) in routes {
        let name = format!("c{to}");
        let kind = Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32));
        config.add(&Cluster { name: name.clone(), cluster_discovery_type: kind, ..Cluster::default() });
        config.add(&ClusterLoadAssignment { cluster_name: name.clone(), ..ClusterLoadAssignment::default() });
        let message = VirtualHost { name, domains: vec![variation.to_string()], ..VirtualHost::default() };
        config.insert(ResourceType::VirtualHost, Encoded::new(format!("80/h{host}"), &message));
    }
    config
}

struct World {
    now: Instant,
    session: Session,
    subscription: Subscription,
    config: Arc<NodeConfig>,
    requests: VecDeque<DeltaDiscoveryRequest>,
    responses: VecDeque<DeltaDiscoveryResponse>,
    /// Virtual hosts in force, and the cluster of each.
    routes: BTreeMap<Arc<str>, String>,
    refuse: Option<u8>,
}

impl World {
    fn new() -> Self {
        let node = Node::sidecar("127.0.0.1".parse().unwrap(), "p", "default");
        let mut world = Self {
            now: Instant::now(),
            session: Session::new(Variant::Delta, false),
            subscription: Subscription::new(node),
            config: Arc::default(),
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            routes: BTreeMap::new(),
            refuse: None,
        };
        world.reconnect();
        world
    }

    fn reconnect(&mut self) {
        self.session = Session::new(Variant::Delta, false);
        self.session.set_config(self.config.clone());
        self.responses.clear();
        self.requests = self.subscription.connect().into();
    }

    fn poll(&mut self) {
        self.responses.extend(self.session.poll(self.now).into_iter().map(|response| response.into_delta()));
    }

    fn serve(&mut self) -> bool {
        let Some(request) = self.requests.pop_front() else { return false };
        self.session.on_delta(&request).unwrap();
        self.poll();
        true
    }

    fn apply(&mut self) -> bool {
        let Some(response) = self.responses.pop_front() else { return false };
        let update = self.subscription.receive(response).unwrap();
        let mut refused = Vec::new();
        for changed in &update.changed {
            if let Decoded::VirtualHost(host) = &changed.message {
                if self.refuse.is_some_and(|variation| host.domains[0] == variation.to_string()) {
                    refused.push(Refusal::new(changed.encoded.name.clone(), "refused"));
                } else {
                    self.routes.insert(changed.encoded.name.clone(), host.name.clone());
                }
            }
        }
        if update.kind == ResourceType::VirtualHost {
            update.removed.iter().for_each(|name| drop(self.routes.remove(name)));
        }
        self.requests.extend(self.subscription.answer(update, refused));
        self.check();
        true
    }

    /// Every route in force leads to a cluster in force, with endpoints.
    fn check(&self) {
        let held = |kind| self.subscription.held(kind).map(|(name, _)| name.to_owned()).collect::<BTreeSet<_>>();
        let (clusters, endpoints) = (held(ResourceType::Cluster), held(ResourceType::Endpoint));
        for (host, cluster) in &self.routes {
            assert!(clusters.contains(cluster), "{host} leads to {cluster}, which is not there");
            assert!(endpoints.contains(cluster), "{host} leads to {cluster}, which has no endpoints");
        }
    }

    fn run(&mut self, step: &Step, generation: u64) {
        match step {
            Step::Configure(routes) => {
                self.config = Arc::new(config(generation, routes));
                self.session.set_config(self.config.clone());
                self.poll();
            }
            Step::Serve => drop(self.serve()),
            Step::Apply => drop(self.apply()),
            Step::Reconnect => self.reconnect(),
            Step::Refuse(variation) => self.refuse = *variation,
        }
    }

    fn drain(&mut self) {
        let mut steps = 0;
        while self.serve() || self.apply() {
            steps += 1;
            assert!(steps < 1000, "client and server talk for ever");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn client_and_server_converge_and_no_route_leads_nowhere(steps in prop::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        for (step, generation) in steps.iter().zip(1..) {
            world.run(step, generation);
        }
        world.drain();
        prop_assert!(world.session.progress().settled || world.config.generation == 0);
        // What is refused now may be held in an older version; a last generation that is accepted brings all in line.
        world.refuse = None;
        world.run(&Step::Configure(vec![(0, 0, 7), (1, 5, 7)]), 1000);
        world.drain();
        let progress = world.session.progress();
        prop_assert!(progress.settled && !progress.refused);
        prop_assert!(world.subscription.is_complete());
        prop_assert_eq!(world.subscription.refused().count(), 0);
        for kind in [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::VirtualHost] {
            let held: BTreeMap<_, _> = world.subscription.held(kind).collect();
            let want: BTreeMap<_, _> = world.config.of(kind).values().map(|resource| (&*resource.name, &*resource.version)).collect();
            prop_assert_eq!(held, want);
        }
    }
}
