//! A stock Envoy accepts everything the golden cases produce, over the real service.
//!
//! In:  the golden cases, each for an explicit sidecar and, where a case has one, a captured sidecar or a gateway.
//! Out: every type acknowledged, nothing refused. Without Envoy the test says that it was skipped.
#![allow(clippy::unwrap_used)] // a test's helpers may fail loudly

#[allow(dead_code)] // each test takes what it needs
mod world;

use std::{env, fs, net::Ipv4Addr, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use pillion_api::{effective::Effective, set::ObjectSet};
use pillion_control_plane::{
    model::world::World,
    push::{
        server::{Ads, assemble},
        status::{Event, Metrics, Proxies},
    },
};
use pillion_xds::node::{InterceptionMode, Node};
use tokio::{net::TcpListener, process::Command, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use world::{instances, node, parse};

const WITHIN: Duration = Duration::from_secs(30);

fn find_envoy() -> Option<PathBuf> {
    let mut places = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin")];
    places.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    let found = places.into_iter().map(|place| place.join("envoy")).find(|path| path.is_file());
    if found.is_none() {
        let required = env::var("PILLION_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "all" || name == "envoy"),
            "PILLION_REQUIRE asks for envoy, which is not installed"
        );
        eprintln!("skipped: envoy is not installed (`.ci/run` installs it)");
    }
    found
}

/// The asking nodes of a case as stock Envoys, each kind once.
fn nodes(input: &str, world: &World) -> Vec<Node> {
    let lines = input.lines().map_while(|line| line.strip_prefix("# ")).filter_map(|line| line.strip_prefix("node: "));
    let mut nodes: Vec<Node> = lines.map(|who| Node { pillion_version: None, ..node(world, who) }).collect();
    nodes.retain(|node| !node.is_grpc());
    nodes.dedup_by_key(|node| (node.id.clone(), node.interception_mode, node.role));
    nodes
}

/// The world of a case, on an address of its own: a mesh that runs on this machine has the ports of the golden cases.
fn elsewhere(set: ObjectSet) -> Arc<World> {
    let mut all = instances(&Effective::new(set.clone(), None)).as_ref().clone();
    let ports = all.values_mut().flat_map(|instance| &mut instance.ports);
    ports.for_each(|port| port.inbound.set_ip(Ipv4Addr::new(127, 20, 20, 20).into()));
    Arc::new(World::build(1, set, Arc::new(all), None))
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

fn bootstrap(node: &Node, xds: u16, proxy_port: u16) -> String {
    let labels = serde_json::to_string(&node.labels).unwrap();
    let mode = match node.interception_mode {
        InterceptionMode::None => format!("INTERCEPTION_MODE: NONE, HTTP_PROXY_PORT: \"{proxy_port}\""),
        InterceptionMode::Redirect => "INTERCEPTION_MODE: REDIRECT".to_owned(),
    };
    format!(
        r#"
node: {{id: {id}, cluster: test, metadata: {{NAME: {name}, NAMESPACE: {namespace}, LABELS: {labels}, {mode}}}}}
dynamic_resources:
  ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}
  lds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s}}
  cds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment: {{cluster_name: xds, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {xds}}}}}}}}}]}}]}}
"#,
        id = node.id,
        name = node.instance,
        namespace = node.namespace,
    )
}

/// `Err` says what Envoy refused, or that it did not answer.
async fn accepts(envoy: &PathBuf, world: Arc<World>, node: &Node) -> Result<(), String> {
    let (translator, worlds, generations) = world::translator();
    let proxies = Proxies::new(Metrics::new(&prometheus::Registry::new()).unwrap());
    let mut events = proxies.events();
    let shutdown = CancellationToken::new();
    let (ads, queue) = assemble(Arc::new(translator), &proxies, shutdown.clone());
    let queue = tokio::spawn(queue);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let xds = listener.local_addr().unwrap().port();
    let server = Ads::limit(tonic::transport::Server::builder()).add_service(ads.into_service());
    let server = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let generation = world.generation;
    worlds.send_replace(Some(world));
    generations.send_replace(generation);

    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("envoy.yaml");
    fs::write(&config, bootstrap(node, xds, free_port().await)).unwrap();
    let log = home.path().join("envoy.log");
    let child = Command::new(envoy)
        .arg("-c")
        .arg(&config)
        .args(["--concurrency", "1", "--log-level", "warn", "--use-dynamic-base-id"])
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let outcome = timeout(WITHIN, async {
        loop {
            match events.recv().await.map_err(|error| error.to_string())? {
                Event::Nack { kind, names, message, .. } => return Err(format!("{kind} {names:?}: {message}")),
                Event::GenerationAcked { proxies: 1, acked: 1, .. } => return Ok(()),
                _ => {}
            }
        }
    });
    let outcome = outcome.await.unwrap_or_else(|_| Err(format!("no answer: {:?}", proxies.snapshot())));
    drop(child);
    shutdown.cancel();
    server.abort();
    queue.abort();
    let words = fs::read_to_string(&log).unwrap_or_default();
    let complaints: Vec<&str> = words.lines().filter(|line| line.contains("rejected") || line.contains("[error]")).collect();
    outcome.map_err(|error| format!("{error}\n{}", complaints.join("\n")))
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_accepts_every_golden_case() {
    let Some(envoy) = find_envoy() else { return };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut refused = Vec::new();
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let input = fs::read_to_string(folder.join("in.yaml")).unwrap();
        let world = elsewhere(parse(&name, &input).set);
        for node in nodes(&input, &world) {
            if let Err(error) = accepts(&envoy, world.clone(), &node).await {
                refused.push(format!("{name} ({}): {error}", node.id));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n\n"));
}
