//! gRPC applications without a proxy: the real gRPC from PyPI calls a service by `xds:///` through our ADS, and follows what we say.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use pillion_e2e::{client, eventually, mesh::Mesh, peers, workspace};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

const SOON: Duration = Duration::from_secs(30);

/// Calls one after the other for ever, and says who answered each or how it failed.
const CALLS: &str = r#"
import sys, time, grpc
sys.path.insert(0, sys.argv[1])
import inventory_pb2 as messages, inventory_pb2_grpc as services
stub = services.InventoryStub(grpc.insecure_channel(sys.argv[2]))
while True:
    try:
        print(stub.Stock(messages.StockRequest(product="bell"), timeout=10).release, flush=True)
    except grpc.RpcError as error:
        print("failed:", error.code().name, error.details(), flush=True)
    time.sleep(0.005)
"#;

/// One call to each target; what came of it, and after how many seconds.
const ONCE: &str = r#"
import json, sys, time, grpc
sys.path.insert(0, sys.argv[1])
import inventory_pb2 as messages, inventory_pb2_grpc as services
for target in sys.argv[2:]:
    begun = time.monotonic()
    try:
        got = services.InventoryStub(grpc.insecure_channel(target)).Stock(messages.StockRequest(product="bell"), timeout=30).release
    except grpc.RpcError as error:
        got = error.code().name
    print(json.dumps({"target": target, "got": got, "seconds": time.monotonic() - begun}), flush=True)
"#;

/// A Python with gRPC, the shop's messages for it, and a bootstrap that leads to a mesh.
struct Python {
    program: PathBuf,
    home: TempDir,
}

impl Python {
    async fn of(mesh: &Mesh, program: &Path) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| home.path().join(name);
        fs::write(path("calls.py"), CALLS).and_then(|()| fs::write(path("once.py"), ONCE)).expect("a writable folder");
        let bootstrap = serde_json::json!({
            "xds_servers": [{"server_uri": mesh.ready["xds"], "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
            "node": {"id": "sidecar~127.0.0.1~buyer.default~default.svc.cluster.local", "metadata": {"GENERATOR": "grpc"}},
        });
        fs::write(path("bootstrap.json"), bootstrap.to_string()).expect("a writable folder");
        let output = home.path().to_string_lossy().into_owned();
        let made = Command::new(program)
            .args(["-m", "grpc_tools.protoc", "-I"])
            .arg(workspace().join("examples/shop/proto"))
            .args([format!("--python_out={output}"), format!("--grpc_python_out={output}"), "inventory.proto".to_owned()])
            .output()
            .await
            .expect("protoc runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { program: program.to_owned(), home }
    }

    fn command(&self, script: &str, targets: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(self.home.path().join(script))
            .arg(self.home.path())
            .args(targets)
            // Some libraries read errors about single resources only when they are told to (A88).
            .env("GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING", "true")
            .env("GRPC_XDS_BOOTSTRAP", self.home.path().join("bootstrap.json"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    fn calls(&self, target: &str) -> Calls {
        let mut child = self.command("calls.py", &[target]).stdout(Stdio::piped()).spawn().expect("Python starts");
        let lines = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        Calls { lines, _child: child }
    }

    async fn once(&self, targets: &[&str]) -> Vec<Value> {
        let output = tokio::time::timeout(4 * SOON, self.command("once.py", targets).output()).await;
        let output = output.expect("the calls end").expect("Python starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"))).collect()
    }
}

/// Calls that go on.
struct Calls {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Calls {
    /// Who answers next.
    async fn next(&mut self) -> String {
        let line = tokio::time::timeout(SOON, self.lines.next_line()).await.expect("calls do not hang");
        let line = line.expect("readable output").expect("the client goes on");
        assert!(!line.starts_with("failed"), "a call {line}");
        line
    }

    /// Who answered how many of the next calls.
    async fn count(&mut self, calls: usize) -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        for _ in 0..calls {
            *seen.entry(self.next().await).or_default() += 1;
        }
        seen
    }

    /// Goes on until only `wanted` answer, some calls long.
    async fn settle(&mut self, wanted: &[&str]) {
        let begun = Instant::now();
        loop {
            let seen = self.count(20).await;
            if seen.keys().eq(wanted) {
                return;
            }
            assert!(begun.elapsed() < SOON, "{seen:?} answer after {SOON:?}, not {wanted:?}");
        }
    }
}

async fn grpc_proxies(mesh: &Mesh) -> Vec<Value> {
    let api = mesh.ready["api"].as_str().expect("an address").trim_start_matches("http://").to_owned();
    let all = client::get(&api, "/api/v1/proxies").await.json();
    let all = all["proxies"].as_array().expect("a list").clone();
    all.into_iter().filter(|proxy| proxy["user_agent"].as_str().is_some_and(|name| name.starts_with("gRPC"))).collect()
}

async fn is_in_sync(mesh: &Mesh) {
    let synced = eventually("the gRPC client is in sync", SOON, || async {
        let clients = grpc_proxies(mesh).await;
        (!clients.is_empty() && clients.iter().all(|client| client["state"] == "synced")).then_some(clients)
    });
    for client in synced.await {
        assert_eq!(client["last_nack"], Value::Null, "{client}");
        for kind in ["listener", "route", "cluster", "endpoint"] {
            assert!(client["types"][kind]["resources"].as_u64() >= Some(1), "{kind}: {client}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_follows_weights_and_fails_over() {
    let Some(python) = peers::python_with("grpc_tools.protoc") else { return };
    let mut mesh = Mesh::example("grpc-proxyless").await;
    let python = Python::of(&mesh, &python).await;
    let mut calls = python.calls("xds:///inventory-service:9090");
    assert_eq!(calls.count(100).await, BTreeMap::from([("v1".to_owned(), 100)]), "all weight is on v1");
    is_in_sync(&mesh).await;

    let written = mesh.read("routes.yaml");
    let weights = |v1: u32, v2: u32| {
        let (before, after) = written.split_once("weight: 100").expect("the weight of v1");
        format!("{before}weight: {v1}{}", after.replace("weight: 0", &format!("weight: {v2}")))
    };
    mesh.apply("routes.yaml", &weights(0, 100)).await;
    calls.settle(&["v2"]).await;
    assert_eq!(calls.count(100).await, BTreeMap::from([("v2".to_owned(), 100)]), "all weight is on v2");

    mesh.apply("routes.yaml", &weights(25, 75)).await;
    calls.settle(&["v1", "v2"]).await;
    let v1 = calls.count(1000).await.get("v1").copied().unwrap_or(0);
    // The standard deviation is 14.
    assert!((180..=320).contains(&v1), "{v1} of 1000 went to v1, a quarter was asked for");
    is_in_sync(&mesh).await;

    // Both behind one cluster: who dies is not missed.
    mesh.apply("routes.yaml", &written.replace(", subset: v1", "").replace(", subset: v2", "")).await;
    calls.settle(&["v1", "v2"]).await;
    let pid = mesh.workload("inventory-v1")["pid"].as_u64().expect("a process").to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().await.is_ok_and(|status| status.success()));
    assert!(calls.count(300).await["v2"] >= 100, "calls go on at v2");
    calls.settle(&["v1", "v2"]).await;

    let workloads = mesh.read("local/workloads.yaml");
    let (_, v2_only) = workloads.split_once("---\n").expect("two workloads");
    mesh.apply("local/workloads.yaml", v2_only).await;
    calls.settle(&["v2"]).await;
    assert_eq!(calls.count(100).await, BTreeMap::from([("v2".to_owned(), 100)]), "v1 is gone");
    is_in_sync(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_finds_every_spelling_and_is_told_at_once_what_is_not_there() {
    let Some(python) = peers::python_with("grpc_tools.protoc") else { return };
    let mesh = Mesh::example("grpc-proxyless").await;
    let python = Python::of(&mesh, &python).await;
    let there = ["", ".default", ".default.svc", ".default.svc.cluster.local"].map(|rest| format!("xds:///inventory-service{rest}:9090"));
    let nowhere = ["xds:///nobody-service:9090", "xds:///inventory-service:9091", "xds:///inventory-service"];
    let targets: Vec<&str> = there.iter().map(String::as_str).chain(nowhere).collect();
    for answer in python.once(&targets).await {
        let want = if nowhere.contains(&answer["target"].as_str().unwrap_or_default()) { "UNAVAILABLE" } else { "v1" };
        assert_eq!(answer["got"], want, "{answer}");
        // A client that is left without an answer waits for 15 s.
        assert!(answer["seconds"].as_f64() < Some(10.0), "{answer}");
    }
}
