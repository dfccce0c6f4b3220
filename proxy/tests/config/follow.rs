//! The stream to the control plane, and the copy on disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pillion_proxy::config::LocalNode;
use pillion_proxy::config::cluster::ClusterName;
use pillion_proxy::config::compile::Compiler;
use pillion_proxy::config::store::ConfigStore;
use pillion_proxy::config::subscribe::{Settings, Subscriber, SyncState};
use pillion_proxy::telemetry::log_sink::LogSinks;
use pillion_proxy::telemetry::stats::ProxyStats;
use pillion_xds::node::Node;
use pillion_xds::resource::{Encoded, NodeConfig, ResourceType};
use pillion_xds::testing::{PATIENCE, Server};
use pillion_xds::transport::Dial;
use pillion_xds::wire::envoy::config::cluster::v3::Cluster;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::wire::*;

/// The configuration task, and what it shows. Ends when dropped.
struct Proxy {
    store: ConfigStore,
    state: watch::Receiver<SyncState>,
    stats: Arc<ProxyStats>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    fn start(dial: Dial, state_dir: Option<&Path>) -> Self {
        let store = ConfigStore::default();
        let stats = Arc::new(ProxyStats::default());
        let settings = Settings {
            node: Node::sidecar("127.0.0.1".parse().unwrap(), "a-0", "default"),
            state_dir: state_dir.map(Path::to_owned),
            stats: Arc::clone(&stats),
            sockets: Default::default(),
            workers: 0,
        };
        let compiler = Compiler::new(Arc::new(LogSinks::default()), LocalNode::default());
        let subscriber = Subscriber::new(settings, compiler, store.clone(), Instant::now());
        let state = subscriber.state();
        let task = tokio::spawn(async move { match subscriber.run(dial).await {} });
        Self { store, state, stats, task }
    }

    async fn until(&self, what: &str, test: impl FnMut(&SyncState) -> bool) -> SyncState {
        let mut state = self.state.clone();
        match timeout(2 * PATIENCE, state.wait_for(test)).await {
            Ok(state) => state.unwrap().clone(),
            Err(_) => panic!("waited for {what}: {:?}", self.state.borrow()),
        }
    }

    fn has(&self, cluster: &str) -> bool {
        self.store.snapshot().clusters.contains_key(&ClusterName::new(cluster))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One service, whole: listener (unbound), route, virtual host, cluster, endpoint.
fn whole(generation: u64, clusters: &[&str]) -> NodeConfig {
    let mut config = NodeConfig::new(generation);
    let mut listener = http_listener("l", "0.0.0.0:80", &manager("r"));
    listener.bind_to_port = Some(Default::default());
    config.add(&listener);
    config.add(&vhds_routes("r"));
    config.insert(ResourceType::VirtualHost, Encoded::new("r/a:80", &host("a:80", &["a"], vec![])));
    for name in clusters {
        config.add(&eds(name));
        config.add(&assignment(name, vec![endpoint("10.0.0.1:80", "w")]));
    }
    config
}

fn nobody() -> Dial {
    Dial::new(|| async { Err::<tokio::net::TcpStream, _>(std::io::Error::other("nobody there")) })
}

#[tokio::test(start_paused = true)]
async fn nothing_is_in_force_before_the_first_complete_configuration() {
    let (server, dial) = Server::start(whole(3, &["c"]));
    let proxy = Proxy::start(dial, None);
    assert!(!proxy.state.borrow().ready);
    let state = proxy.until("readiness", |state| state.ready).await;
    assert_eq!((state.generation, state.from_disk), (3, false));
    let snapshot = proxy.store.snapshot();
    assert!(proxy.has("c") && snapshot.listeners.get("l").is_some());
    assert_eq!(snapshot.routes.get("r").unwrap().virtual_hosts.len(), 1);
    proxy.until("completeness", |state| state.complete && !state.is_stale()).await;
    server.acked(3).await;
    assert_eq!((proxy.stats.config_stale.get(), proxy.stats.xds_connected.get()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn changes_arrive_and_a_refusal_goes_back_by_name() {
    let (server, dial) = Server::start(whole(1, &["c"]));
    let proxy = Proxy::start(dial, None);
    proxy.until("readiness", |state| state.ready && state.complete).await;
    let mut next = whole(2, &["c", "d"]);
    next.add(&Cluster { lb_policy: 99, ..eds("bad") });
    server.set(next);
    let seen = server.until("a NACK", |seen| !seen.nacks.is_empty()).await;
    let (kind, names, message) = &seen.nacks[0];
    assert_eq!((*kind, &*names[0]), (ResourceType::Cluster, "bad"));
    assert!(message.contains("bad: lb_policy: 99 is no known value"), "{message}");
    let state = proxy.until("the refusal in the state", |state| !state.refused.is_empty()).await;
    assert_eq!((state.refused[0].0, state.refused[0].1.as_str()), (ResourceType::Cluster, "bad"));
    proxy.until("generation 2", |state| state.generation == 2 && state.complete).await;
    assert!(proxy.has("c") && proxy.has("d") && !proxy.has("bad"));
    assert_eq!(proxy.stats.refused(ResourceType::Cluster).get(), 1);
    server.set(whole(3, &["d"]));
    server.acked(3).await;
    assert!(!proxy.has("c"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_control_plane_changes_nothing_but_what_is_said() {
    let (server, dial) = Server::start(whole(1, &["c"]));
    let proxy = Proxy::start(dial, None);
    proxy.until("readiness", |state| state.ready && state.complete).await;
    let before = proxy.store.snapshot();
    server.disconnect();
    let state = proxy.until("staleness", SyncState::is_stale).await;
    assert!(state.ready && state.away_since.is_some() && state.trouble.is_some());
    assert!(Arc::ptr_eq(&before, &proxy.store.snapshot()));
    proxy.until("the next stream", |state| state.complete && !state.is_stale()).await;
    assert!(proxy.stats.xds_streams.get() >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_without_control_plane_serves_what_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (server, dial) = Server::start(whole(5, &["c"]));
    let proxy = Proxy::start(dial, Some(dir.path()));
    proxy.until("readiness", |state| state.ready && state.complete).await;
    server.acked(5).await;
    let file = dir.path().join("last-good-config");
    timeout(PATIENCE, async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // The file is written by a thread that knows nothing of paused time.
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
    })
    .await
    .unwrap();
    drop(proxy);

    let proxy = Proxy::start(nobody(), Some(dir.path()));
    let state = proxy.until("readiness from disk", |state| state.ready).await;
    assert_eq!((state.generation, state.from_disk), (5, true));
    assert!(proxy.state.borrow().is_stale() || proxy.until("staleness", SyncState::is_stale).await.is_stale());
    assert!(proxy.has("c") && proxy.store.snapshot().listeners.get("l").is_some());
    drop(proxy);

    // With the control plane back, only the difference travels.
    let (server, dial) = Server::start(whole(6, &["c", "d"]));
    let proxy = Proxy::start(dial, Some(dir.path()));
    let state = proxy.until("being current", |state| state.complete && state.ready && !state.from_disk).await;
    assert_eq!(state.generation, 6);
    server.acked(6).await;
    assert!(proxy.has("c") && proxy.has("d"));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("last-good-config"), b"PILLION1 garbage").unwrap();
    let (server, dial) = Server::start(whole(1, &["c"]));
    let proxy = Proxy::start(dial, Some(dir.path()));
    let state = proxy.until("readiness", |state| state.ready).await;
    assert!(!state.from_disk);
    server.acked(1).await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused_with_its_holder_and_taken_when_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let (server, dial) = Server::start(whole(1, &["c"]));
    let proxy = Proxy::start(dial, None);
    proxy.until("readiness", |state| state.ready && state.complete).await;
    let mut next = whole(2, &["c"]);
    next.add(&http_listener("m", &at.to_string(), &manager("r")));
    server.set(next);
    let seen = server.until("a NACK", |seen| !seen.nacks.is_empty()).await;
    let message = &seen.nacks[0].2;
    assert!(message.contains(&format!("m: listener m cannot bind {at} (held by ")), "{message}");
    assert_eq!(proxy.stats.listeners_unbound.get(), 1);
    drop(taken);
    proxy.until("the socket", |state| state.unbound.is_empty()).await;
    assert!(proxy.store.snapshot().sockets.contains_key(&at));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_endpoints_becomes_visible_by_time_alone() {
    let mut config = whole(1, &["c"]);
    config.add(&eds("empty"));
    let (_server, dial) = Server::start(config);
    let proxy = Proxy::start(dial, None);
    proxy.until("readiness", |state| state.ready).await;
    let mut snapshots = proxy.store.subscribe();
    let seen = snapshots.wait_for(|snapshot| snapshot.clusters.contains_key(&ClusterName::new("empty")));
    timeout(Duration::from_secs(20), seen).await.unwrap().unwrap();
}
