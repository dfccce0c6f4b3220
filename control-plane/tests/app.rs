//! The whole control plane, over real files and sockets, with a proxy that has no data path.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use pillion_control_plane::{
    app::{self, Event, Running, StartError},
    bootstrap::Bootstrap,
    model::instance::{Instance, InstanceId, InstancePort},
    push::status::SyncState,
};
use pillion_xds::{
    node::Node,
    resource::ResourceType,
    testing::{Follower, PATIENCE},
    transport::Dial,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::broadcast,
    time::timeout,
};

const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: product}
spec: {selector: {app: product}, ports: [{name: http, port: 80, targetPort: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: order}
spec: {selector: {app: order}, ports: [{name: http, port: 80, targetPort: 9080}]}
";

const ROUTES: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: product}
spec: {hosts: [product], http: [{timeout: 1s, route: [{destination: {host: product}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: order}
spec: {hosts: [order], http: [{timeout: 1s, route: [{destination: {host: order}}]}]}
";

struct Mesh {
    dir: tempfile::TempDir,
    running: Running,
}

impl Mesh {
    async fn start(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| write(&dir.path().join(name), text));
        let running = app::start(bootstrap(dir.path())).await.unwrap();
        Self { dir, running }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn follow(&self) -> Follower {
        let mut node = Node::sidecar(Ipv4Addr::LOCALHOST.into(), "client-0", "default");
        node.pillion_version = Some("0.1.0".into());
        node.labels.insert("app".into(), "client".into());
        Follower::start(Dial::tcp(self.running.xds.to_string()), node)
    }

    async fn get(&self, address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    async fn json(&self, path: &str) -> serde_json::Value {
        let body = self.get(self.running.api, path).await;
        let start = body.find('{').unwrap();
        serde_json::Deserializer::from_str(&body[start..]).into_iter().next().unwrap().unwrap()
    }
}

fn bootstrap(dir: &Path) -> Bootstrap {
    let zero = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Bootstrap { config: vec![dir.to_owned()], xds: zero, api: zero, metrics: zero, ..Bootstrap::default() }
}

/// By rename, as editors do.
fn write(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text).unwrap();
    fs::rename(fresh, path).unwrap();
}

async fn event<T>(events: &mut broadcast::Receiver<Event>, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = wanted(events.recv().await.unwrap()) {
                return found;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("the event in time")
}

async fn acked(events: &mut broadcast::Receiver<Event>, at_least: u64) -> (u64, usize, usize, Duration) {
    event(events, |event| match event {
        Event::Acked { generation, acked, proxies, took } if generation >= at_least => Some((generation, acked, proxies, took)),
        _ => None,
    })
    .await
}

/// The texts of all virtual hosts, as far as they are readable.
fn hosts(state: &pillion_xds::testing::State) -> String {
    let hosts = state.resources.get(&ResourceType::VirtualHost).into_iter().flatten();
    hosts.map(|(name, encoded)| format!("{name} {:?}\n", encoded.version)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_the_proxy_and_a_bad_object_is_quarantined_alone() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES), ("routes.yaml", ROUTES)]).await;
    let mut events = mesh.running.events();
    let proxy = mesh.follow();
    let first = proxy.until(|state| state.complete && state.generation.is_some()).await;
    assert_eq!(first.generation, Some(1));
    acked(&mut events, 1).await;
    let before = hosts(&first);

    // One good edit and one bad one in the same file.
    let edited = ROUTES.replacen("timeout: 1s", "timeout: 2s", 1).replace("host: order}", "host: order}, wait: 1");
    write(&mesh.path("routes.yaml"), &edited);
    let (new, _) = event(&mut events, |event| match event {
        Event::Findings { new, fixed } => Some((new, fixed)),
        _ => None,
    })
    .await;
    assert!(new.iter().any(|finding| finding.object == "VirtualService default/order" && finding.code == "PLN1010"), "{new:?}");
    let (generation, accepted, proxies, took) = acked(&mut events, 2).await;
    assert_eq!((generation, accepted, proxies), (2, 1, 1));
    assert!(took < PATIENCE);
    let after = hosts(&proxy.until(|state| state.generation == Some(2)).await);
    let changed: Vec<&str> = after.lines().filter(|line| !before.contains(*line)).collect();
    assert!(!changed.is_empty() && changed.iter().all(|line| line.contains("product")), "only product changed: {changed:?}");
    let config = mesh.json("/api/v1/config").await;
    let states: Vec<_> = config["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| (o["kind"].as_str().unwrap(), o["name"].as_str().unwrap(), o["state"].as_str().unwrap()))
        .collect();
    assert!(
        states.contains(&("VirtualService", "order", "quarantined")) && states.contains(&("VirtualService", "product", "in_force")),
        "{states:?}"
    );

    // Half a file deletes nothing; the whole one mends everything.
    write(&mesh.path("routes.yaml"), &edited[..edited.len() - 10]);
    event(&mut events, |event| matches!(event, Event::Findings { .. }).then_some(())).await;
    let held = mesh.json("/api/v1/config").await["objects"].as_array().unwrap().iter().filter(|object| object["last_good"] == true).count();
    assert!(held >= 1);
    write(&mesh.path("routes.yaml"), ROUTES);
    event(&mut events, |event| matches!(event, Event::Findings { fixed, .. } if fixed > 0).then_some(())).await;
    proxy.until(|state| state.generation > Some(2) && hosts(state) == before).await;

    // What the operator sees.
    let synced = mesh.running.proxies().until(|all| all.iter().all(|proxy| proxy.state == SyncState::Synced));
    timeout(PATIENCE, synced).await.unwrap();
    let list = mesh.json("/api/v1/proxies").await;
    assert_eq!(list["proxies"][0]["instance"], "client-0");
    assert_eq!(list["proxies"][0]["state"], "synced");
    let generations = mesh.json("/api/v1/generations").await;
    assert!(generations["generations"].as_array().unwrap().iter().any(|g| g["generation"] == 2 && g["acked"] == 1 && g["proxies"] == 1));
    let metrics = mesh.get(mesh.running.metrics, "/metrics").await;
    for name in ["pilot_xds_pushes{type=\"cds\"}", "pilot_proxy_convergence_time_count", "galley_validation_failed{", "pillion_generation "]
    {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    drop(proxy);
    event(&mut events, |event| matches!(event, Event::ProxyDisconnected { ref proxy } if proxy == "client-0.default").then_some(())).await;
    timeout(PATIENCE, mesh.running.shutdown()).await.expect("an end in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_become_endpoints_when_they_are_ready() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)]).await;
    let proxy = mesh.follow();
    proxy.until(|state| state.complete).await;
    let id = InstanceId { namespace: "default".into(), name: "product-v1-0".into() };
    let port = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    mesh.running.registry.register(Instance {
        id: id.clone(),
        workload: "product-v1".into(),
        replica: 0,
        labels: [("app".to_owned(), "product".to_owned())].into(),
        service_account: "product".into(),
        gateway: false,
        ports: vec![InstancePort { name: "http".into(), container_port: 9080, inbound: port(4711), app: port(4712) }],
        ready: false,
    });
    let endpoints = |state: &pillion_xds::testing::State| {
        let all = state.resources.get(&ResourceType::Endpoint).into_iter().flatten();
        let of_product: Vec<Vec<u8>> = all.filter(|(name, _)| name.contains("product")).map(|(_, encoded)| encoded.body.to_vec()).collect();
        of_product.iter().any(|bytes| bytes.windows(9).any(|window| window == b"127.0.0.1"))
    };
    timeout(PATIENCE, mesh.running.subscribe_world().wait_for(|world| world.generation >= 2)).await.unwrap().unwrap();
    assert!(!endpoints(&proxy.state()), "it is known, and not ready");
    mesh.running.registry.set_ready(&id, true);
    proxy.until(endpoints).await;
    mesh.running.registry.set_ready(&id, false);
    proxy.until(|state| !endpoints(state)).await;
}

const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\nspec: {}\n";

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_are_not_enforced_refuse_the_start_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: strict}\nspec: {mtls: {mode: STRICT}}\n";
    fs::write(dir.path().join("policy.yaml"), format!("{POLICY}---\n{strict}")).unwrap();
    let Err(error) = app::start(bootstrap(dir.path())).await else { panic!("it started") };
    assert!(matches!(error.downcast_ref(), Some(StartError::Unenforced(_))));
    let text = error.to_string();
    for part in ["AuthorizationPolicy default/deny (", "policy.yaml:3)", "PeerAuthentication default/strict (", "--allow-unenforced"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let allowed = Bootstrap { allow_unenforced: true, ..bootstrap(dir.path()) };
    let running = app::start(allowed).await.unwrap();
    assert_eq!(running.unenforced().len(), 2);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_appears_later_is_loud() {
    let mesh = Mesh::start(&[]).await;
    let mut events = mesh.running.events();
    write(&mesh.path("policy.yaml"), POLICY);
    let policies = event(&mut events, |event| match event {
        Event::Unenforced { policies } => Some(policies),
        _ => None,
    })
    .await;
    assert_eq!(policies.len(), 1);
    assert!(mesh.get(mesh.running.metrics, "/metrics").await.contains("pillion_unenforced_security_policies 1"));
    assert_eq!(mesh.json("/api/v1/config").await["unenforced"][0]["name"], "deny");
    fs::remove_file(mesh.path("policy.yaml")).unwrap();
    event(&mut events, |event| matches!(event, Event::Unenforced { policies } if policies.is_empty()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_says_whose_it_is() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let taken = Bootstrap { api: listener.local_addr().unwrap(), ..bootstrap(dir.path()) };
    let Err(error) = app::start(taken).await else { panic!("it started") };
    let text = format!("{error:#}");
    assert!(text.starts_with("--api 127.0.0.1:") && text.contains(&format!("(pid {})", std::process::id())), "{text}");
    assert!(error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_is_an_error_and_an_empty_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let Err(error) = app::start(bootstrap(&dir.path().join("nowhere"))).await else { panic!("it started") };
    assert!(matches!(error.downcast_ref(), Some(StartError::Unreadable(_))), "{error:#}");
    let running = app::start(bootstrap(dir.path())).await.unwrap();
    assert_eq!(running.world().generation, 1);
    running.shutdown().await;
}
