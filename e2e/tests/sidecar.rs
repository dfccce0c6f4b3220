//! A Sidecar in a running mesh: what a proxy holds, where requests for what is hidden go, and which program answers.
//!
//! In:  the example `canary`, 200 services of another namespace, Sidecars that come and change.
//! Out: fewer clusters, routes and bytes; answers of the policy.

use std::time::Duration;

use pillion_e2e::{
    client::{self, Client},
    eventually,
    mesh::Mesh,
};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(20);
const SERVICES: usize = 200;

fn many() -> String {
    let one = |n| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: far}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n")
    };
    (0..SERVICES).map(one).collect::<Vec<_>>().join("---\n")
}

/// How much a proxy holds.
#[derive(Debug, PartialEq)]
struct Held {
    clusters: usize,
    virtual_hosts: usize,
    bytes: usize,
}

async fn held(admin: &str) -> Held {
    let answer = client::get(admin, "/config_dump?include_eds").await;
    let dump = answer.json();
    let configs = dump["configs"].as_array().expect("a dump has parts");
    let part = |kind: &str, list: &str| {
        let found = configs.iter().find(|config| config["@type"].as_str().is_some_and(|name| name.ends_with(kind)));
        found.and_then(|config| config[list].as_array()).cloned().unwrap_or_default()
    };
    let hosts = |table: &Value| table["route_config"]["virtual_hosts"].as_array().map_or(0, Vec::len);
    Held {
        clusters: part("ClustersConfigDump", "dynamic_active_clusters").len(),
        virtual_hosts: part("RoutesConfigDump", "dynamic_route_configs").iter().map(hosts).sum(),
        bytes: answer.body.len(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_shrinks_what_its_proxies_hold_and_its_policy_takes_the_rest() {
    let mut mesh = Mesh::example("canary").await;
    mesh.apply("many.yaml", &many()).await;
    let (visitor, product) = (mesh.admin("visitor"), mesh.admin("product-v1"));
    let (before, others) = (held(&visitor).await, held(&product).await);
    let mut client = Client::new(&mesh.outbound("visitor"));
    let hidden = "http://s7.far/";
    let nobody = client.get(hidden).await.expect("answered");
    assert_eq!(nobody.status, 503, "a service without endpoints: {}", nobody.text());

    // A host that is a service of the mesh while it is seen, and an address of this machine else.
    let (first, second) = (mesh.app("product-v1", "http"), mesh.app("product-v2", "http"));
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: local, namespace: far}}\nspec:\n  hosts: [localhost]\n  \
         resolution: STATIC\n  ports: [{{number: {}, name: http, protocol: HTTP}}]\n  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]\n",
        port(&first),
        port(&second)
    );
    let sidecar = |mode: &str| {
        format!(
            "{entry}---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: visitor}}\nspec:\n  \
             workloadSelector: {{labels: {{app: visitor}}}}\n  egress: [{{hosts: [\"./*\"]}}]\n  outboundTrafficPolicy: {{mode: {mode}}}\n"
        )
    };
    let local = format!("http://localhost:{}/api/products/7", port(&first));
    let visible = "http://product-service/api/products/7";

    mesh.apply("sidecar.yaml", &entry).await;
    assert_eq!(client.get(&local).await.expect("answered").json()["release"], "v2", "the entry is seen");

    mesh.apply("sidecar.yaml", &sidecar("REGISTRY_ONLY")).await;
    assert_eq!(client.get(visible).await.expect("answered").status, 200);
    for url in [hidden, &local] {
        let refused = client.get(url).await.expect("answered");
        assert_eq!(refused.status, 502, "{url}: {}", refused.text());
    }
    let after = held(&visitor).await;
    eprintln!("before {before:?}, after {after:?}");
    assert_eq!(before.clusters - after.clusters, SERVICES, "{before:?} {after:?}");
    assert!(before.virtual_hosts - after.virtual_hosts >= SERVICES, "{before:?} {after:?}");
    assert!(after.bytes * 5 < before.bytes, "{before:?} {after:?}");
    assert_eq!(held(&product).await.clusters, others.clusters + 1, "others see the entry and all services");

    mesh.apply("sidecar.yaml", &sidecar("ALLOW_ANY")).await;
    assert_eq!(client.get(&local).await.expect("answered").json()["release"], "v1", "passed on to the address itself");
    assert_eq!(client.get(visible).await.expect("answered").status, 200);

    mesh.apply("sidecar.yaml", &entry).await;
    assert_eq!(client.get(&local).await.expect("answered").json()["release"], "v2", "without the Sidecar all is seen again");
    assert_eq!(held(&visitor).await.clusters, before.clusters + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_ingress_leads_to_its_default_endpoint() {
    let mut mesh = Mesh::example("canary").await;
    let other = mesh.app("product-v1", "http");
    let inbound = mesh.workload("product-v2")["ports"][0]["inbound"].as_str().expect("an address").trim_start_matches("http://").to_owned();
    let release = async || client::get(&inbound, "/api/products/7").await.json()["release"].clone();
    assert_eq!(release().await, "v2");
    let sidecar = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: second}}\nspec:\n  workloadSelector: {{labels: {{version: v2}}}}\n  \
         ingress: [{{port: {{number: 9080, protocol: HTTP, name: http}}, defaultEndpoint: \"{other}\"}}]\n"
    );
    mesh.apply("sidecar.yaml", &sidecar).await;
    eventually("the other program answers", WITHIN, || async { (release().await == "v1").then_some(()) }).await;
}
