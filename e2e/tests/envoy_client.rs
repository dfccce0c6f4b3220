//! A stock Envoy joins the mesh: it accepts the resources of every example, in both variants of ADS, and routes by them.

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use http::StatusCode;
use pillion_e2e::{client, client::Client, eventually, mesh::Mesh, peers, planes::free_port, workspace};
use serde_json::Value;
use tokio::process::Command;

const WITHIN: Duration = Duration::from_secs(30);

fn bootstrap(xds: &str, variant: &str, proxy_port: u16, admin_port: u16) -> String {
    let (host, port) = xds.rsplit_once(':').expect("host:port");
    format!(
        r#"
node:
  id: sidecar~127.0.0.1~envoy-{lower}.default~default.svc.cluster.local
  cluster: envoy.default
  metadata: {{NAME: envoy-{lower}, NAMESPACE: default, LABELS: {{app: envoy}}, INTERCEPTION_MODE: NONE, HTTP_PROXY_PORT: "{proxy_port}"}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}}}}}
dynamic_resources:
  ads_config: {{api_type: {variant}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}
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
    load_assignment: {{cluster_name: xds, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}]}}]}}
"#,
        lower = variant.to_lowercase().replace('_', "-"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_envoy_accepts_the_resources_of_every_example_and_routes_by_them() {
    let Some(envoy) = peers::find("envoy") else { return };
    for entry in fs::read_dir(workspace().join("examples")).expect("examples").flatten().filter(|entry| entry.path().is_dir()) {
        let mesh = Mesh::start(&entry.path(), &["--quiet"]).await;
        for variant in ["DELTA_GRPC", "GRPC"] {
            joins_and_routes(&envoy, &mesh, variant, &entry.file_name().to_string_lossy()).await;
        }
    }
}

async fn joins_and_routes(envoy: &Path, mesh: &Mesh, variant: &str, example: &str) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (proxy_port, admin_port) = (free_port().await, free_port().await);
    let config = home.path().join("envoy.yaml");
    fs::write(&config, bootstrap(mesh.ready["xds"].as_str().expect("an address"), variant, proxy_port, admin_port)).expect("writable");
    let log = home.path().join("envoy.log");
    let _envoy = Command::new(envoy)
        .arg("-c")
        .arg(&config)
        .args(["--concurrency", "1", "--log-level", "info", "--use-dynamic-base-id"])
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).expect("a log file"))
        .kill_on_drop(true)
        .spawn()
        .expect("envoy starts");
    let says = || fs::read_to_string(&log).unwrap_or_default();

    let proxy = format!("127.0.0.1:{proxy_port}");
    let product = example != "grpc-proxyless";
    let url = if product { "http://product-service/api/products/7" } else { "http://inventory-service/" };
    let begun = Instant::now();
    let answer = loop {
        match Client::new(&proxy).get(url).await {
            Ok(answer) if answer.status == StatusCode::OK => break answer,
            other => assert!(begun.elapsed() < WITHIN, "{example} by {variant}: {other:?}\n{}", says()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!product || answer.json()["id"] == 7, "{example} by {variant}");

    // What Envoy itself counts as refused, and what our control plane saw refused.
    let stats = client::get(&format!("127.0.0.1:{admin_port}"), "/stats?filter=update_rejected").await.text();
    for line in stats.lines().filter(|line| line.contains("update_rejected")) {
        assert!(line.ends_with(": 0"), "{example} by {variant}: {line}\n{}", says());
    }
    let api = mesh.ready["api"].as_str().expect("an address").trim_start_matches("http://").to_owned();
    eventually(&format!("the control plane lists the Envoy as in sync ({example}, {variant})"), WITHIN, || async {
        let proxies = client::get(&api, "/api/v1/proxies").await.json();
        in_sync(&proxies, variant).then_some(())
    })
    .await;
}

/// The API's shape may grow; the Envoy's own entry must be there and carry no refusal.
fn in_sync(proxies: &Value, variant: &str) -> bool {
    let name = format!("envoy-{}", variant.to_lowercase().replace('_', "-"));
    let list = proxies["proxies"].as_array().or_else(|| proxies.as_array());
    list.is_some_and(|list| {
        list.iter().any(|proxy| {
            let text = proxy.to_string();
            text.contains(&name) && proxy["nack"].is_null() && proxy["last_nack"].is_null()
        })
    })
}
