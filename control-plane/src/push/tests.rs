use std::{sync::Mutex, time::Duration};

use pillion_xds::{
    resource::{Encoded, ResourceType},
    testing::{self, DeltaStream, Follower, SotwStream},
    transport::Dial,
    wire::envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            endpoint::v3::ClusterLoadAssignment,
            route::v3::VirtualHost,
        },
        service::discovery::v3::DeltaDiscoveryRequest,
    },
};
use prometheus::Registry;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{
    status::{Event, Metrics, Proxies, SyncState},
    *,
};

/// The same configuration for everybody.
struct Same {
    generation: watch::Sender<u64>,
    config: Mutex<Arc<NodeConfig>>,
}

impl Configs for Same {
    fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
    fn config(&self, node: &Node) -> Arc<NodeConfig> {
        assert_ne!(node.workload, "trouble", "a fault in the translation");
        self.config.lock().unwrap().clone()
    }
}

struct Plane {
    configs: Arc<Same>,
    proxies: Proxies,
    registry: Registry,
    shutdown: CancellationToken,
    dial: Dial,
}

impl Plane {
    fn start() -> Self {
        let registry = Registry::new();
        let proxies = Proxies::new(Metrics::new(&registry).unwrap());
        let configs = Arc::new(Same { generation: watch::Sender::new(0), config: Mutex::default() });
        let shutdown = CancellationToken::new();
        let (ads, queue) = server::assemble(configs.clone(), &proxies, shutdown.clone());
        tokio::spawn(queue);
        let dial = testing::serve(server::Ads::limit(tonic::transport::Server::builder()).add_service(ads.into_service()));
        Self { configs, proxies, registry, shutdown, dial }
    }

    /// Clusters with endpoints, and virtual hosts with a content.
    fn set(&self, generation: u64, clusters: &[&str], hosts: &[(&str, &str)]) {
        let mut config = NodeConfig::new(generation);
        for name in clusters {
            let kind = Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32));
            config.add(&Cluster { name: (*name).into(), cluster_discovery_type: kind, ..Cluster::default() });
            config.add(&ClusterLoadAssignment { cluster_name: (*name).into(), ..ClusterLoadAssignment::default() });
        }
        for (name, content) in hosts {
            let host = VirtualHost { name: (*content).into(), ..VirtualHost::default() };
            config.insert(ResourceType::VirtualHost, Encoded::new(*name, &host));
        }
        *self.configs.config.lock().unwrap() = Arc::new(config);
        self.configs.generation.send_replace(generation);
    }

    fn metric(&self, name: &str) -> f64 {
        let family = self.registry.gather().into_iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric().to_vec()).unwrap_or_default();
        metrics.iter().map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

fn node(instance: &str) -> Node {
    Node::sidecar("127.0.0.1".parse().unwrap(), instance, "default")
}

async fn event(events: &mut broadcast::Receiver<Event>, test: impl Fn(&Event) -> bool) -> Event {
    let find = async {
        loop {
            let event = events.recv().await.unwrap();
            if test(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), find).await.expect("the event comes")
}

fn is_acked(event: &Event) -> bool {
    matches!(event, Event::GenerationAcked { .. })
}

#[tokio::test(start_paused = true)]
async fn every_proxy_is_brought_to_the_newest_generation_and_that_is_announced() {
    let plane = Plane::start();
    let mut events = plane.proxies.events();
    let followers: Vec<_> = (0..3).map(|n| Follower::start(plane.dial.clone(), node(&format!("p-{n}")))).collect();
    plane.proxies.until(|all| all.len() == 3).await;
    plane.set(1, &["a"], &[("80/h", "one")]);
    for follower in &followers {
        follower.until(|state| state.complete && state.names(ResourceType::Endpoint) == ["a"]).await;
    }
    let acked = |event: Event| match event {
        Event::GenerationAcked { generation, proxies, acked, elapsed } => (generation, proxies, acked, elapsed < Duration::from_secs(2)),
        other => panic!("{other:?}"),
    };
    assert_eq!(acked(event(&mut events, is_acked).await), (1, 3, 3, true));
    plane.set(2, &["a", "b"], &[("80/h", "two")]);
    for follower in &followers {
        let state = follower.until(|state| state.get::<VirtualHost>("80/h").is_some_and(|host| host.name == "two")).await;
        let updates = &state.updates[state.updates.len() - 3..];
        assert_eq!(updates, ["cds +b", "eds +b", "vhds +80/h"], "made before broken");
    }
    assert_eq!(acked(event(&mut events, is_acked).await), (2, 3, 3, true));
    let all = plane.proxies.until(|all| all.iter().all(|proxy| proxy.generation == 2)).await;
    assert!(all.iter().all(|proxy| proxy.state == SyncState::Synced && proxy.lag_ms == 0 && proxy.pillion), "{all:?}");
    assert_eq!(all[0].types[&ResourceType::Cluster].resources, 2);
    assert_eq!(plane.metric("pilot_xds"), 3.0);
    assert!(plane.metric("pilot_xds_pushes") >= 15.0);
    serde_json::to_string(&all).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_changes_nothing_is_acknowledged_at_once() {
    let plane = Plane::start();
    let mut events = plane.proxies.events();
    plane.set(1, &["a"], &[]);
    let follower = Follower::start(plane.dial.clone(), node("p"));
    event(&mut events, is_acked).await;
    let before = follower.state().updates.len();
    plane.set(2, &["a"], &[]);
    let acked = event(&mut events, is_acked).await;
    assert!(matches!(acked, Event::GenerationAcked { generation: 2, proxies: 1, acked: 1, .. }), "{acked:?}");
    assert_eq!(follower.state().updates.len(), before);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_loud_and_kept() {
    let plane = Plane::start();
    let mut events = plane.proxies.events();
    plane.set(1, &["a"], &[("80/h", "one")]);
    let follower = Follower::start(plane.dial.clone(), node("p"));
    event(&mut events, is_acked).await;
    follower.refuse("80/h");
    plane.set(2, &["a"], &[("80/h", "two")]);
    let nack = event(&mut events, |event| matches!(event, Event::Nack { .. })).await;
    let Event::Nack { kind, generation, names, message, .. } = nack else { unreachable!() };
    assert_eq!((kind, generation, names), (ResourceType::VirtualHost, 2, vec![Arc::from("80/h")]));
    assert_eq!(message, "80/h: refused by the test");
    let acked = event(&mut events, is_acked).await;
    assert!(matches!(acked, Event::GenerationAcked { generation: 2, proxies: 1, acked: 0, .. }), "{acked:?}");
    let status = &plane.proxies.snapshot()[0];
    assert_eq!((status.state, status.last_nack.as_ref().map(|nack| nack.generation)), (SyncState::Refused, Some(2)));
    assert_eq!((status.types[&ResourceType::VirtualHost].acked, status.types[&ResourceType::Cluster].acked), (1, 2));
    assert_eq!(plane.metric("pilot_total_xds_rejects"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_does_not_answer_is_named_after_thirty_seconds() {
    let plane = Plane::start();
    let mut events = plane.proxies.events();
    plane.set(1, &["a"], &[]);
    let mut silent = DeltaStream::open(&plane.dial).await;
    silent.ask(ResourceType::Cluster, &[], Some(&node("silent"))).await;
    let response = silent.next().await;
    let late = event(&mut events, |event| matches!(event, Event::Late { .. })).await;
    let Event::Late { generation, proxies, acked, late } = late else { unreachable!() };
    assert_eq!((generation, proxies, acked, late.len()), (1, 1, 0, 1));
    assert_eq!((late[0].proxy.instance.as_str(), late[0].unanswered.as_slice()), ("silent", [ResourceType::Cluster].as_slice()));
    assert_eq!(plane.proxies.snapshot()[0].state, SyncState::Pending);
    assert!(plane.proxies.snapshot()[0].lag_ms >= 30_000);
    silent.ack(&response).await;
    event(&mut events, is_acked).await;
}

#[tokio::test(start_paused = true)]
async fn every_generation_that_waits_for_a_late_proxy_says_so() {
    let plane = Plane::start();
    let mut events = plane.proxies.events();
    plane.set(1, &["a"], &[]);
    let mut silent = DeltaStream::open(&plane.dial).await;
    silent.ask(ResourceType::Cluster, &[], Some(&node("silent"))).await;
    silent.next().await;
    for generation in 1..4 {
        if generation > 1 {
            plane.set(generation, &["a", &format!("c{generation}")], &[]);
        }
        let begun = tokio::time::Instant::now();
        let late = event(&mut events, |event| matches!(event, Event::Late { .. })).await;
        let Event::Late { generation: said, late, .. } = late else { unreachable!() };
        assert_eq!((said, late.len()), (generation, 1));
        assert!(begun.elapsed() >= Duration::from_secs(29), "{:?}", begun.elapsed());
        // Nothing more of this generation.
        tokio::time::sleep(Duration::from_secs(20)).await;
        let again = std::iter::from_fn(|| events.try_recv().ok()).find(|event| matches!(event, Event::Late { .. }));
        assert!(again.is_none(), "{again:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_one_push() {
    let plane = Plane::start();
    let mut events = plane.proxies.events();
    plane.set(1, &["a"], &[]);
    let follower = Follower::start(plane.dial.clone(), node("p"));
    event(&mut events, is_acked).await;
    let before = follower.state().updates.len();
    for generation in 2..10 {
        plane.set(generation, &["a", &format!("c{generation}")], &[]);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let acked = event(&mut events, is_acked).await;
    assert!(matches!(acked, Event::GenerationAcked { generation: 9, .. }), "{acked:?}");
    assert_eq!(follower.state().updates[before..], ["cds +c9", "eds +c9"]);
}

#[tokio::test(start_paused = true)]
async fn a_newer_stream_of_a_proxy_ends_the_older_one() {
    let plane = Plane::start();
    plane.set(1, &["a"], &[]);
    let mut old = DeltaStream::open(&plane.dial).await;
    old.ask(ResourceType::Cluster, &[], Some(&node("p"))).await;
    old.next().await;
    let mut new = DeltaStream::open(&plane.dial).await;
    new.ask(ResourceType::Cluster, &[], Some(&node("p"))).await;
    new.next().await;
    assert_eq!(old.try_next().await.unwrap_err().code(), Code::Aborted);
    assert_eq!((plane.proxies.snapshot().len(), plane.metric("pilot_xds")), (1, 1.0));
    drop((old, new));
    plane.proxies.until(<[_]>::is_empty).await;
    assert_eq!(plane.metric("pilot_xds"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn strangers_must_introduce_themselves_and_stay_within_limits() {
    let plane = Plane::start();
    plane.set(1, &["a"], &[]);
    let mut nameless = DeltaStream::open(&plane.dial).await;
    nameless.ask(ResourceType::Cluster, &[], None).await;
    assert_eq!(nameless.try_next().await.unwrap_err().code(), Code::InvalidArgument);
    let mut greedy = DeltaStream::open(&plane.dial).await;
    let long = "x".repeat(2000);
    greedy.ask(ResourceType::Endpoint, &[&long], Some(&node("greedy"))).await;
    assert_eq!(greedy.try_next().await.unwrap_err().code(), Code::ResourceExhausted);
    let mut silent = DeltaStream::open(&plane.dial).await;
    // In-memory pipes have no clock of their own: wait longer than the limit.
    let ended = tokio::time::timeout(Duration::from_secs(9), silent.try_next()).await;
    assert!(ended.is_err(), "not yet");
    assert_eq!(silent.try_next().await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(plane.proxies.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fault_in_the_translation_ends_no_stream() {
    let plane = Plane::start();
    plane.set(1, &["a"], &[]);
    let mut stream = DeltaStream::open(&plane.dial).await;
    let trouble = Node { workload: "trouble".into(), ..node("p") };
    stream.ask(ResourceType::Cluster, &[], Some(&trouble)).await;
    plane.proxies.until(|all| all.len() == 1).await;
    assert!(stream.is_silent(Duration::from_secs(5)).await);
    assert_eq!(plane.proxies.snapshot().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_control_plane_is_said() {
    let plane = Plane::start();
    plane.set(1, &["a"], &[]);
    let mut stream = SotwStream::open(&plane.dial).await;
    stream.ask(ResourceType::Cluster, &[], None, Some(&node("p"))).await;
    stream.next().await;
    plane.shutdown.cancel();
    assert_eq!(stream.try_next().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_state_of_the_world_client_converges_too() {
    use ResourceType::{Cluster, Endpoint};
    let plane = Plane::start();
    plane.set(1, &["a"], &[]);
    let stranger = Node { id: "envoy-1".into(), user_agent: "envoy".into(), ..Node::default() };
    let mut stream = SotwStream::open(&plane.dial).await;
    stream.ask(Cluster, &[], None, Some(&stranger)).await;
    let clusters = stream.next().await;
    assert_eq!((clusters.resources.len(), clusters.version_info.as_str()), (1, "1"));
    stream.ask(Endpoint, &["a"], None, None).await;
    let endpoints = stream.next().await;
    stream.ask(Endpoint, &["a"], Some(&endpoints), None).await;
    stream.ask(Cluster, &[], Some(&clusters), None).await;
    plane.proxies.until(|all| all.iter().any(|proxy| proxy.node == "envoy-1" && proxy.generation == 1)).await;
    plane.set(2, &["a", "b"], &[]);
    let clusters = stream.next().await;
    assert_eq!((clusters.resources.len(), clusters.version_info.as_str()), (2, "2"));
    stream.ask(Endpoint, &["a", "b"], Some(&endpoints), None).await;
    let endpoints = stream.next().await;
    assert_eq!(endpoints.resources.len(), 1);
    stream.ask(Endpoint, &["a", "b"], Some(&endpoints), None).await;
    stream.ask(Cluster, &[], Some(&clusters), None).await;
    let all = plane.proxies.until(|all| all.iter().all(|proxy| proxy.generation == 2)).await;
    assert!(!all[0].pillion);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_requests_gets_one_answer_per_type() {
    let plane = Plane::start();
    plane.set(1, &["a"], &[]);
    let mut stream = DeltaStream::open(&plane.dial).await;
    stream.ask(ResourceType::Cluster, &[], Some(&node("p"))).await;
    for _ in 0..1000 {
        stream.send(DeltaDiscoveryRequest { type_url: ResourceType::Cluster.type_url().into(), ..Default::default() }).await;
    }
    stream.next().await;
    assert!(stream.is_silent(Duration::from_secs(5)).await);
}
