//! Strangers' clients, unchanged: each is told of the proxy by the usual variables and appears in the metrics as its workload.

use std::{fs, path::Path, process::Stdio, time::Duration};

use pillion_e2e::{client, eventually, mesh::Mesh, metrics, peers, workspace};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(20);

/// A client in somebody else's language.
struct Stranger {
    name: &'static str,
    /// Program and arguments; `{dir}` is a folder with the scripts below.
    command: Vec<String>,
    service: &'static str,
    destination: &'static str,
    protocol: &'static str,
}

const URLLIB: &str = r#"
import json, urllib.request
print(json.load(urllib.request.urlopen("http://product-service/api/products/7"))["id"])
"#;
const REQUESTS: &str = r#"
import requests
print(requests.get("http://product-service/api/products/7", timeout=10).json()["id"])
"#;
const FETCH: &str = r#"
const answer = await fetch("http://product-service/api/products/7");
console.log((await answer.json()).id);
"#;
/// grpc-core finds `grpc_proxy`/`https_proxy` by itself and tunnels.
const GRPC: &str = r#"
import sys, grpc
from grpc_tools import protoc
folder = sys.argv[1]
assert protoc.main(["protoc", "-I" + folder, "--python_out=" + folder, "--grpc_python_out=" + folder, folder + "/inventory.proto"]) == 0
sys.path.insert(0, folder)
import inventory_pb2 as messages, inventory_pb2_grpc as services
channel = grpc.insecure_channel("inventory-service:9090")
stub = services.InventoryStub(channel)
print(stub.Stock(messages.StockRequest(product="bell"), timeout=10).product)
answers = stub.Converse(iter([messages.StockRequest(product=p) for p in ("a", "b", "c")]), timeout=10)
assert [answer.product for answer in answers] == ["a", "b", "c"]
"#;

fn strangers(dir: &Path) -> Vec<Stranger> {
    let scripts = [("fetch.mjs", FETCH), ("grpc_stock.py", GRPC)];
    for (name, text) in scripts {
        fs::write(dir.join(name), text).expect("a writable folder");
    }
    fs::copy(workspace().join("examples/shop/proto/inventory.proto"), dir.join("inventory.proto")).expect("the shop's messages");
    let script = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let http = |name, command| Stranger { name, command, service: "product-service", destination: "product", protocol: "http" };
    let mut found = Vec::new();
    if let Some(curl) = peers::find("curl") {
        found.push(http("curl", vec![path(curl), "-sf".into(), "http://product-service/api/products/7".into()]));
    }
    if let Some(python) = peers::python_with("urllib.request") {
        found.push(http("Python's urllib", vec![path(python), "-c".into(), URLLIB.into()]));
    }
    if let Some(python) = peers::python_with("requests") {
        found.push(http("Python's requests", vec![path(python), "-c".into(), REQUESTS.into()]));
    }
    if let Some(node) = peers::find("node").filter(|node| reads_proxy_variables(node)) {
        found.push(http("Node's fetch", vec![path(node), script("fetch.mjs")]));
    }
    if let Some(python) = peers::python_with("grpc_tools.protoc") {
        let command = vec![path(python), script("grpc_stock.py"), dir.to_string_lossy().into_owned()];
        found.push(Stranger { name: "gRPC for Python", command, service: "inventory-service", destination: "inventory", protocol: "grpc" });
    }
    found
}

/// Node reads the variables by itself from release 24 on.
fn reads_proxy_variables(node: &Path) -> bool {
    let version =
        std::process::Command::new(node).arg("--version").output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let major = version.ok().and_then(|version| version.trim().trim_start_matches('v').split('.').next()?.parse::<u32>().ok());
    let new_enough = major.is_some_and(|major| major >= 24);
    if !new_enough {
        assert_ne!(std::env::var("PILLION_REQUIRE").as_deref(), Ok("all"), "Node 24 or later is required, {} is older", node.display());
        eprintln!("skipped: {} is older than 24 and does not read http_proxy", node.display());
    }
    new_enough
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_clients_appear_as_their_workload() {
    let mesh = Mesh::start(&workspace().join("examples/shop"), &["--quiet"]).await;
    let (proxy, admin) = (format!("http://{}", mesh.outbound("logistics-v1")), mesh.admin("logistics-v1"));
    let home = tempfile::tempdir().expect("a temporary folder");
    for stranger in strangers(home.path()) {
        let service = format!("{}.default.svc.cluster.local", stranger.service);
        let labels = [
            ("reporter", "source"),
            ("source_workload", "logistics-v1"),
            ("destination_service", service.as_str()),
            ("request_protocol", stranger.protocol),
        ];
        let count = || async { metrics::sum(&client::get(&admin, "/stats/prometheus").await.text(), "istio_requests_total", &labels) };
        let before = count().await;
        let mut command = Command::new(&stranger.command[0]);
        command.args(&stranger.command[1..]).stdin(Stdio::null()).kill_on_drop(true).env("NODE_USE_ENV_PROXY", "1");
        for variable in ["http_proxy", "https_proxy", "grpc_proxy"] {
            command.env(variable, &proxy).env(variable.to_uppercase(), &proxy);
        }
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{} never ends", stranger.name)).expect("it starts");
        assert!(
            output.status.success(),
            "{}: {}\n{}\n{}",
            stranger.name,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        eventually(&format!("{} is counted as logistics-v1", stranger.name), SOON, || async { (count().await > before).then_some(()) })
            .await;
        // The other end saw the same name.
        let releases: &[&str] = if stranger.destination == "product" { &["product-v1", "product-v2"] } else { &["inventory-v1"] };
        let mut seen = 0.0;
        for workload in releases {
            let text = client::get(&mesh.admin(workload), "/stats/prometheus").await.text();
            seen += metrics::sum(&text, "istio_requests_total", &[("reporter", "destination"), ("source_workload", "logistics-v1")]);
        }
        assert!(seen >= 1.0, "{}: the {} side does not know logistics-v1", stranger.name, stranger.destination);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_generators_see_no_error() {
    let mesh = Mesh::start(&workspace().join("examples/canary"), &[]).await;
    let outbound = mesh.outbound("visitor");
    let url = format!("http://{outbound}/api/products/7");
    if let Some(wrk) = peers::find("wrk") {
        let output = Command::new(wrk).args(["-t1", "-c50", "-d3s", "-H", "Host: product-service", &url]).output().await.expect("wrk runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("requests in"), "{text}");
        assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    }
    if let Some(h2load) = peers::find("h2load") {
        let arguments = ["-t1", "-c10", "-m20", "-n20000", "-H", ":authority: product-service", &url];
        let output = Command::new(h2load).args(arguments).output().await.expect("h2load runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("20000 succeeded, 0 failed, 0 errored, 0 timeout") && text.contains("20000 2xx"), "{text}");
    }
}
