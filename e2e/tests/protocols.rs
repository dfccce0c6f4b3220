//! Which HTTP a sidecar speaks to the next one: by the port, the MeshConfig and the DestinationRule, changed while they run.
//!
//! In:  the example `canary`, its MeshConfig and DestinationRule edited.
//! Out: what the access log of the way in says of the request.

use std::{fs, path::Path, time::Duration};

use pillion_e2e::{client::Client, eventually, mesh::Mesh};

const SOON: Duration = Duration::from_secs(10);

fn config(log: &Path, policy: &str) -> String {
    let log = log.display();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
         data:\n  mesh: |\n    accessLogFile: {log}\n    h2UpgradePolicy: {policy}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_speak_the_protocol_that_mesh_config_and_rule_name_and_follow_their_edits() {
    let logs = tempfile::tempdir().expect("a temporary folder");
    let log = logs.path().join("access.log");
    let mut mesh = Mesh::example("canary").await;
    let outbound = mesh.outbound("visitor");
    let routes = mesh.read("routes.yaml");
    // The mesh's policy, the rule's connection pool, and what the way in is spoken to in by a client of HTTP/1.1.
    let cases = [
        ("DO_NOT_UPGRADE", "", "HTTP/1.1"),
        ("UPGRADE", "", "HTTP/2"),
        ("UPGRADE", "{h2UpgradePolicy: DO_NOT_UPGRADE}", "HTTP/1.1"),
        ("DO_NOT_UPGRADE", "{h2UpgradePolicy: UPGRADE}", "HTTP/2"),
        ("UPGRADE", "{useClientProtocol: true}", "HTTP/1.1"),
    ];
    for (number, (policy, pool, want)) in cases.into_iter().enumerate() {
        let traffic = if pool.is_empty() { String::new() } else { format!("  trafficPolicy: {{connectionPool: {{http: {pool}}}}}\n") };
        let edited = routes.replace("  subsets:\n", &format!("{traffic}  subsets:\n"));
        for (file, text) in [("routes.yaml", edited), ("mesh-config.yaml", config(&log, policy))] {
            // What stays makes no generation to wait for.
            if fs::read_to_string(mesh.dir.join(file)).ok().as_ref() != Some(&text) {
                mesh.apply(file, &text).await;
            }
        }
        let path = format!("/api/products/{number}?case={number}");
        let answer = Client::new(&outbound).get(&format!("http://product-service{path}")).await.expect("an answer");
        assert_eq!(answer.status, 200, "{policy} {pool}: {}", answer.text());
        let line = eventually(&format!("{path} is logged on the way in: {policy} {pool}"), SOON, || async {
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.lines().find(|line| line.contains(&path) && line.contains("inbound|")).map(str::to_owned)
        })
        .await;
        assert!(line.contains(&format!("\"GET {path} {want}\"")), "{policy} {pool}: {line}");
    }
}
