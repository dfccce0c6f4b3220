//! Which HTTP a sidecar speaks to the next one: by the port, the MeshConfig and the DestinationRule, changed while they run.
//!
//! In:  the example `canary`, the file of its MeshConfig and its DestinationRule edited.
//! Out: what the access log of the way in says of the request.

use std::{fs, path::Path, time::Duration};

use pillion_e2e::{
    client::Client,
    eventually,
    mesh::{Mesh, write_by_rename},
    workspace,
};

const SOON: Duration = Duration::from_secs(35);

fn config(log: &Path, policy: &str) -> String {
    format!("accessLogFile: {}\nh2UpgradePolicy: {policy}\n", log.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_speak_the_protocol_that_mesh_config_and_rule_name_and_follow_their_edits() {
    let logs = tempfile::tempdir().expect("a temporary folder");
    let log = logs.path().join("access.log");
    let settings = logs.path().join("mesh-config.yaml");
    write_by_rename(&settings, &config(&log, "DO_NOT_UPGRADE"));
    let file = settings.to_str().expect("a path in UTF-8");
    let mut mesh = Mesh::start(&workspace().join("examples/canary"), &["--mesh-config", file]).await;
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
        for (file, text) in [(mesh.dir.join("routes.yaml"), edited), (settings.clone(), config(&log, policy))] {
            // What stays makes no generation to wait for.
            if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
                mesh.forget_events();
                write_by_rename(&file, &text);
                mesh.event("generation", SOON).await;
            }
        }
        let path = format!("/api/products/7?case={number}");
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
