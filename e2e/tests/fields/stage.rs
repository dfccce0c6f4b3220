//! What stays while cases come and go: `pillion run` over a folder with the base and one file for the case.
//!
//! In:  the YAML of a case.
//! Out: the mesh that obeys it, and its doors.

use std::{
    fs,
    time::{Duration, Instant},
};

use pillion_e2e::{client, mesh::Mesh};
use serde_json::Value;

use crate::{
    ask::text,
    backend::{self, Mute, Records},
};

const FILE: &str = "case.yaml";

type Ports = [(&'static str, u16); 3];

/// A running mesh with its backends.
pub struct Stage {
    pub records: Records,
    mesh: Mesh,
    applied: String,
    base: String,
    ports: Ports,
    /// Counts the access logs; each world has its own.
    log: usize,
    home: tempfile::TempDir,
    _mute: Mute,
}

/// Hosts of one endpoint each, `pair.example` with two of them, `heavy.example` with the same two of which `v1` gets nearly all, `mute.example`, which never accepts; two workloads, two clients and a gateway. Port 80 of `v1.example` is `v1`, port 81 is `v3`.
fn base(ports: &Ports, mute: u16) -> String {
    let mut text = String::new();
    for (name, port) in ports {
        text += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 81, name: http-third, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}, http-third: {third}}}}}]
",
            third = ports[2].1
        );
    }
    for (name, weight) in [("pair", 1), ("heavy", 10_000)] {
        text += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
  - {{address: 127.0.0.1, ports: {{http: {}}}, labels: {{version: v1, tier: all}}, weight: {weight}}}
  - {{address: 127.0.0.1, ports: {{http: {}}}, labels: {{version: v2, tier: all}}, weight: 1}}
",
            ports[0].1, ports[1].1
        );
    }
    for (name, version, port) in [("w1", "v1", ports[0].1), ("w2", "v2", ports[1].1)] {
        text += &format!(
            "---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {{name: {name}, labels: {{app: w, version: {version}}}}}
spec: {{ports: [{{name: http, containerPort: 8080, localPort: {port}}}]}}
"
        );
    }
    text += &format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: mute}}
spec:
  hosts: [mute.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {mute}}}, labels: {{tier: all}}}}]
"
    );
    text + "---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: client, labels: {app: client}}
spec: {}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: other, namespace: other, labels: {app: other}}
spec: {}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: gateway, labels: {istio: gateway}}
spec: {gateway: true}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public}
spec:
  selector: {istio: gateway}
  servers: [{port: {number: 18080, name: http, protocol: HTTP}, hosts: ['*']}]
"
}

impl Stage {
    pub async fn new() -> Self {
        let records = Records::default();
        let mut ports = [("v1", 0), ("v2", 0), ("v3", 0)];
        for (name, port) in &mut ports {
            *port = backend::start(name, records.clone()).await;
        }
        let mute = Mute::new().await;
        let home = tempfile::tempdir().expect("a temporary folder");
        let source = home.path().join("source");
        fs::create_dir(&source).expect("a fresh folder");
        let base = base(&ports, mute.port());
        fs::write(source.join("base.yaml"), &base).expect("writable");
        let mesh = Mesh::start(&source, &["--logs", "none"]).await;
        Self { records, mesh, applied: String::new(), base, ports, log: 0, home, _mute: mute }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Replaces `$port-v1` and so on, and `$log`.
    pub fn fill(&mut self, yaml: &str) -> String {
        self.log += 1;
        let mut yaml = yaml.replace("$log", &self.log_path());
        for (name, port) in self.ports {
            // A whole scalar is printed in quotes, and the port is a number.
            yaml = yaml.replace(&format!("\"$port-{name}\""), &port.to_string()).replace(&format!("$port-{name}"), &port.to_string());
        }
        yaml
    }

    /// Makes `yaml` the case, and waits until every proxy obeys.
    pub async fn apply(&mut self, yaml: &str) {
        // The same bytes are no edit, and no generation follows.
        if std::mem::replace(&mut self.applied, yaml.to_owned()) == yaml {
            return;
        }
        let generation = self.mesh.apply(FILE, yaml).await;
        assert_eq!(generation["acked"], generation["proxies"], "{generation}\n{}", self.mesh.log_tail());
    }

    pub fn outbound(&self, client: &str) -> String {
        self.mesh.outbound(client)
    }

    /// Whether a value of the client's configuration is this text.
    pub async fn config_says(&self, text: &str) -> &'static str {
        let dump = client::get(&self.mesh.admin("client"), "/config_dump").await.text();
        if dump.contains(&format!("\"{text}\"")) { "yes" } else { "no" }
    }

    /// Name and address of the gateway's listener for a port of the YAML; `None` when there is none.
    pub async fn gateway(&self, port: &str) -> Option<(String, String)> {
        let admin = self.mesh.ready["gateways"][0]["admin"].as_str()?.trim_start_matches("http://").to_owned();
        let listeners = client::get(&admin, "/listeners").await.text();
        let found = listeners.lines().find(|line| line.split("::").next().is_some_and(|name| name.ends_with(&format!("_{port}"))));
        found.and_then(|line| line.split_once("::")).map(|(name, address)| (name.to_owned(), address.to_owned()))
    }

    fn log_path(&self) -> String {
        self.home.path().join(format!("access-{}.log", self.log)).to_string_lossy().into_owned()
    }

    /// A field of the first line of the access log, or `text` when the line is not JSON.
    pub async fn log(&self, field: &str, within: Duration) -> String {
        let began = Instant::now();
        loop {
            let lines = fs::read_to_string(self.log_path()).unwrap_or_default();
            if let Some((line, _)) = lines.split_once('\n') {
                return serde_json::from_str::<Value>(line).map_or_else(|_| "text".to_owned(), |line| text(&line[field]));
            }
            if began.elapsed() > within {
                return "-".to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
