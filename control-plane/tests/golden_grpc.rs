//! The gRPC library of PyPI accepts everything the golden cases produce, over the real service.
//!
//! In:  the golden cases, one generation after the other.
//! Out: a client of every service, nothing refused. Without Python's gRPC the test says that it was skipped.
#![allow(clippy::unwrap_used)] // a test's helpers may fail loudly

#[allow(dead_code)] // each test takes what it needs
mod world;

use std::{collections::BTreeMap, env, fs, net::Ipv4Addr, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use pillion_api::effective::Effective;
use pillion_control_plane::{
    model::world::World,
    push::{
        server::{Ads, assemble},
        status::{Event, Metrics, Proxies, SyncState},
    },
};
use pillion_xds::{
    names::{ClusterName, ClusterParts},
    node::Node,
    resource::ResourceType,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    process::Command,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use world::{instances, parse};

const WITHIN: Duration = Duration::from_secs(60);
const NODE: &str = "sidecar~127.0.0.1~client-0.default~default.svc.cluster.local";

/// Calls every target of a line at once, whatever comes of it: nobody listens there. The channels stay until the next line.
const CLIENT: &str = r#"
import sys, grpc
channels = []
for line in sys.stdin:
    for channel in channels:
        channel.close()
    channels = [grpc.insecure_channel("xds:///" + target) for target in line.split()]
    calls = [channel.unary_unary("/none.None/None").future(b"", timeout=20) for channel in channels]
    print(*(call.code().name for call in calls), flush=True)
"#;

fn find_python() -> Option<PathBuf> {
    let places = [PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin/python3"), PathBuf::from("python3")];
    let works = |python: &PathBuf| {
        let tried = std::process::Command::new(python).args(["-c", "import grpc"]).output();
        tried.is_ok_and(|output| output.status.success())
    };
    let found = places.into_iter().find(works);
    if found.is_none() {
        let required = env::var("PILLION_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "all" || name == "grpc"),
            "PILLION_REQUIRE asks for Python's gRPC, which is not installed"
        );
        eprintln!("skipped: no Python with the module grpc (`.ci/run` installs it)");
    }
    found
}

/// The world of a case, on an address of its own.
fn elsewhere(generation: u64, name: &str, input: &str) -> Arc<World> {
    let set = parse(name, input).set;
    let mut all = instances(&Effective::new(set.clone(), None)).as_ref().clone();
    let ports = all.values_mut().flat_map(|instance| &mut instance.ports);
    ports.for_each(|port| port.inbound.set_ip(Ipv4Addr::new(127, 20, 20, 20).into()));
    Arc::new(World::build(generation, set, Arc::new(all), None))
}

/// `host:port` of every service that has routes.
fn targets(world: &Arc<World>) -> Vec<String> {
    let node = Node { id: NODE.to_owned(), namespace: "default".to_owned(), generator: "grpc".to_owned(), ..Node::default() };
    let config = world::translator().0.translate(world, &node);
    let target = |name: &Arc<str>| match ClusterName::from(name.clone()).parts() {
        ClusterParts::Outbound { port, host, .. } if !host.contains('*') => Some(format!("{host}:{port}")),
        _ => None,
    };
    config.of(ResourceType::Route).keys().filter_map(target).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_accepts_every_golden_case() {
    let Some(python) = find_python() else { return };
    let (translator, worlds, generations) = world::translator();
    let proxies = Proxies::new(Metrics::new(&prometheus::Registry::new()).unwrap());
    let mut events = proxies.events();
    let (ads, queue) = assemble(Arc::new(translator), &proxies, CancellationToken::new());
    tokio::spawn(queue);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let xds = listener.local_addr().unwrap();
    let server = Ads::limit(tonic::transport::Server::builder()).add_service(ads.into_service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let bootstrap = serde_json::json!({
        "xds_servers": [{"server_uri": xds.to_string(), "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
        "node": {"id": NODE, "metadata": {"GENERATOR": "grpc"}},
    });
    let mut child = Command::new(python)
        .args(["-c", CLIENT])
        .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string())
        .env("GRPC_VERBOSITY", "none")
        // Else it waits 15 s for a cluster that is not there.
        .env("GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING", "true")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());

    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut refused = Vec::new();
    let mut held: BTreeMap<ResourceType, usize> = BTreeMap::new();
    for (folder, generation) in folders.iter().zip(1..) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let world = elsewhere(generation, &name, &fs::read_to_string(folder.join("in.yaml")).unwrap());
        let targets = targets(&world);
        if targets.is_empty() {
            continue;
        }
        worlds.send_replace(Some(world));
        generations.send_replace(generation);
        // The generation is on its way before the client asks for what is new in it.
        while events.try_recv().is_ok() {}
        tokio::time::sleep(Duration::from_millis(50)).await;
        input.write_all(format!("{}\n", targets.join(" ")).as_bytes()).await.unwrap();
        let codes = timeout(WITHIN, output.next_line()).await.expect("calls end").unwrap().expect("the client goes on");
        assert!(!codes.contains("DEADLINE"), "{name}: a call hangs: {targets:?} {codes}");
        // Every answer is in when nothing is in flight any more.
        let all = timeout(WITHIN, proxies.until(|all| all.iter().all(|proxy| proxy.state != SyncState::Pending)));
        for proxy in all.await.expect("the client answers") {
            proxy.types.iter().for_each(|(kind, status)| *held.entry(*kind).or_default() += status.resources);
        }
        while let Ok(event) = events.try_recv() {
            if let Event::Nack { kind, names, message, .. } = event {
                refused.push(format!("{name}: {kind} {names:?}: {message}"));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n\n"));
    for kind in [ResourceType::Listener, ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoint] {
        assert!(held.get(&kind).copied().unwrap_or(0) >= folders.len(), "the client hardly asked: {held:?}");
    }
}
