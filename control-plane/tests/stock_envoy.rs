//! A stock Envoy under our ADS service, with resources made by hand: no request is lost while routes move to clusters that come and go.
//!
//! In:  `envoy`, from `target/peers/bin` or `$PATH`; without it the test says so and passes, unless `PILLION_REQUIRE=all`.
//! Out: both variants of ADS converge without a NACK.
#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pillion_control_plane::push::{
    Configs,
    server::{self, Ads},
    status::{Event, Metrics, Proxies},
};
use pillion_xds::{
    node::Node,
    resource::{NodeConfig, pack},
    wire::{
        envoy::{
            config::{
                cluster::v3::{Cluster, cluster},
                core::v3::{Address, AggregatedConfigSource, ConfigSource, SocketAddress, address, config_source, socket_address},
                endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint},
                listener::v3::{Filter, FilterChain, Listener, filter},
                route::v3::{Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match},
            },
            extensions::filters::{
                http::router::v3::Router,
                network::http_connection_manager::v3::{
                    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
                },
            },
        },
        google::protobuf::Duration as WireDuration,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

fn envoy() -> Option<PathBuf> {
    let mut places = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin")];
    places.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    let found = places.into_iter().map(|place| place.join("envoy")).find(|path| path.is_file());
    if found.is_none() {
        assert_ne!(env::var("PILLION_REQUIRE").as_deref(), Ok("all"), "envoy is required");
        eprintln!("skipped: envoy is not installed (`.ci/run` installs it)");
    }
    found
}

struct Same {
    generation: watch::Sender<u64>,
    config: Mutex<Arc<NodeConfig>>,
}

impl Configs for Same {
    fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
    fn config(&self, _: &Node) -> Arc<NodeConfig> {
        self.config.lock().unwrap().clone()
    }
}

fn ads() -> ConfigSource {
    let specifier = config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource::default());
    ConfigSource { config_source_specifier: Some(specifier), resource_api_version: 2, ..ConfigSource::default() }
}

fn address(at: SocketAddr) -> Address {
    let socket = SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(at.port().into())),
        ..SocketAddress::default()
    };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

fn cluster(name: &str, timeout_ms: i32) -> Cluster {
    let eds = cluster::EdsClusterConfig { eds_config: Some(ads()), ..cluster::EdsClusterConfig::default() };
    Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(eds),
        connect_timeout: Some(WireDuration { seconds: 1, nanos: timeout_ms * 1_000_000 }),
        ..Cluster::default()
    }
}

fn endpoints(name: &str, at: SocketAddr) -> ClusterLoadAssignment {
    let endpoint = Endpoint { address: Some(address(at)), ..Endpoint::default() };
    let host = LbEndpoint { host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() };
    let locality = LocalityLbEndpoints { lb_endpoints: vec![host], ..LocalityLbEndpoints::default() };
    ClusterLoadAssignment { cluster_name: name.into(), endpoints: vec![locality], ..ClusterLoadAssignment::default() }
}

fn listener(port: u16, stat_prefix: &str) -> Listener {
    let router = HttpFilter {
        name: "envoy.filters.http.router".into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
        ..HttpFilter::default()
    };
    let rds = Rds { config_source: Some(ads()), route_config_name: "80".into() };
    let manager = HttpConnectionManager {
        stat_prefix: stat_prefix.into(),
        http_filters: vec![router],
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..HttpConnectionManager::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".into(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
    };
    Listener {
        name: "http_proxy".into(),
        address: Some(address(SocketAddr::from(([127, 0, 0, 1], port)))),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    }
}

fn routes(cluster: &str) -> RouteConfiguration {
    let action = RouteAction { cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.into())), ..RouteAction::default() };
    let matcher = RouteMatch { path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())), ..RouteMatch::default() };
    let route = Route { r#match: Some(matcher), action: Some(route::Action::Route(action)), ..Route::default() };
    let host = VirtualHost { name: "all".into(), domains: vec!["*".into()], routes: vec![route], ..VirtualHost::default() };
    RouteConfiguration { name: "80".into(), virtual_hosts: vec![host], ..RouteConfiguration::default() }
}

/// An application that answers every connection with one reply.
async fn application(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                    if stream.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}

/// One request on a connection of its own: status line and body.
async fn get(port: u16) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

fn bootstrap(api_type: &str, xds: SocketAddr) -> String {
    let source = serde_json::json!({"ads": {}, "resource_api_version": "V3"});
    let xds_address = serde_json::json!({"socket_address": {"address": xds.ip().to_string(), "port_value": xds.port()}});
    serde_json::json!({
        "node": {"id": "a-stranger", "cluster": "test"},
        "dynamic_resources": {
            "ads_config": {"api_type": api_type, "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
            "lds_config": source, "cds_config": source,
        },
        "static_resources": {"clusters": [{
            "name": "xds", "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": xds_address}}]}]},
        }]},
    })
    .to_string()
}

struct Killed(Child);
impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Plane {
    configs: Arc<Same>,
    proxies: Proxies,
    nacks: Arc<Mutex<Vec<String>>>,
    xds: SocketAddr,
}

impl Plane {
    async fn start() -> Self {
        let proxies = Proxies::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        let configs = Arc::new(Same { generation: watch::Sender::new(0), config: Mutex::default() });
        let (ads, queue) = server::assemble(configs.clone(), &proxies, CancellationToken::new());
        tokio::spawn(queue);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let xds = listener.local_addr().unwrap();
        let router = Ads::limit(tonic::transport::Server::builder()).add_service(ads.into_service());
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        let (mut events, nacks) = (proxies.events(), Arc::new(Mutex::new(Vec::new())));
        let seen = nacks.clone();
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                if let Event::Nack { kind, message, .. } = event {
                    seen.lock().unwrap().push(format!("{kind}: {message}"));
                }
            }
        });
        Self { configs, proxies, nacks, xds }
    }

    /// Publishes, and waits until Envoy has it all.
    async fn reach(&self, config: NodeConfig) {
        let generation = config.generation;
        *self.configs.config.lock().unwrap() = Arc::new(config);
        self.configs.generation.send_replace(generation);
        let reached = self.proxies.until(|all| !all.is_empty() && all.iter().all(|proxy| proxy.generation >= generation));
        if timeout(Duration::from_secs(20), reached).await.is_err() {
            panic!("generation {generation} is not reached: {:#?}", self.proxies.snapshot());
        }
    }
}

async fn converges(envoy: &Path, api_type: &str) {
    let plane = Plane::start().await;
    let (old, new) = (application("old").await, application("new").await);
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.json");
    fs::write(&file, bootstrap(api_type, plane.xds)).unwrap();
    let mut command = Command::new(envoy);
    command.arg("-c").arg(&file).args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warn"]);
    let _envoy = Killed(command.stdout(Stdio::null()).spawn().unwrap());

    let config = |generation: u64, name: &str, at: SocketAddr, variation: i32| {
        let mut config = NodeConfig::new(generation);
        config.add(&cluster(name, variation));
        config.add(&endpoints(name, at));
        config.add(&routes(name));
        config.add(&listener(port, "outbound"));
        config
    };
    plane.reach(config(1, "outbound|80|v0|shop", old, 0)).await;
    let mut tries = 0;
    while get(port).await.is_err() {
        tries += 1;
        assert!(tries < 200, "Envoy does not listen");
        sleep(Duration::from_millis(25)).await;
    }

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stopped, count) = (stop.clone(), served.clone());
    let load = tokio::spawn(async move {
        let mut faults = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            match get(port).await {
                Ok((status, _)) if status == "HTTP/1.1 200 OK" => drop(count.fetch_add(1, Ordering::Relaxed)),
                other => faults.push(format!("{other:?}")),
            }
        }
        faults
    });
    // Each generation moves the route to a cluster that is new and removes the one before.
    for generation in 2..40 {
        let at = if generation % 2 == 0 { new } else { old };
        let subset = generation / 2;
        let variation = i32::try_from(generation % 2).unwrap();
        plane.reach(config(generation, &format!("outbound|80|v{subset}|shop"), at, variation)).await;
        let want = if generation % 2 == 0 { "new" } else { "old" };
        assert_eq!(get(port).await.unwrap().1, want, "generation {generation} obeys once it is acknowledged");
    }
    stop.store(true, Ordering::Relaxed);
    let faults = load.await.unwrap();
    assert!(faults.is_empty(), "{api_type}: {} of {}: {:?}", faults.len(), served.load(Ordering::Relaxed), &faults[..faults.len().min(5)]);
    assert!(served.load(Ordering::Relaxed) > 50, "there was load");
    assert_eq!(*plane.nacks.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_envoy_loses_no_request_while_clusters_come_and_go_incremental() {
    if let Some(envoy) = envoy() {
        converges(&envoy, "DELTA_GRPC").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_envoy_loses_no_request_while_clusters_come_and_go_state_of_the_world() {
    if let Some(envoy) = envoy() {
        converges(&envoy, "GRPC").await;
    }
}
