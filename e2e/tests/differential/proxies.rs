//! Envoy and our proxy, each started from what `pillion translate` writes of the same YAML.
//!
//! In:  YAML. Out: two running proxies, their access logs and routes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use pillion_e2e::{binary, client, eventually, from_files, planes::free_address};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Child;

use crate::{generate::NAMESPACE, wire};

const WITHIN: Duration = Duration::from_secs(60);

/// A proxy under comparison.
pub struct Proxy {
    /// `envoy` or `pillion`: also what marks of its requests begin with.
    pub name: &'static str,
    out: PathBuf,
    pub outbound: String,
    admin: String,
    access_log: PathBuf,
    _child: Child,
}

/// Clusters and weights of a route.
pub type Weights = Vec<(String, u64)>;

/// Two proxies; the folder goes with them.
pub struct Pair {
    pub proxies: [Proxy; 2],
    _home: TempDir,
}

impl Pair {
    /// Starts both and waits for their routes.
    pub async fn start(envoy: &Path, yaml: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let input = home.path().join("mesh");
        fs::create_dir(&input).expect("a folder");
        fs::write(input.join("mesh.yaml"), yaml).expect("writable");
        let ours = binary("pillion");
        let (first, second) =
            tokio::join!(Proxy::start("envoy", envoy, &input, home.path()), Proxy::start("pillion", &ours, &input, home.path()));
        let pair = Self { proxies: [first, second], _home: home };
        for proxy in &pair.proxies {
            let ready = eventually("ready", WITHIN, || async {
                let asked = wire::Client::new(&proxy.outbound).ask(b"GET / HTTP/1.1\r\nhost: nobody\r\n\r\n", false).await;
                let ready = client::Client::new(&proxy.admin).get("/ready").await;
                (asked.is_ok() && ready.is_ok_and(|ready| ready.status == 200)).then_some(())
            });
            assert!(tokio::time::timeout(WITHIN / 2, ready).await.is_ok(), "{} is not ready:\n{}", proxy.name, proxy.says());
        }
        pair
    }
}

impl Proxy {
    async fn start(name: &'static str, program: &Path, input: &Path, home: &Path) -> Self {
        let out = home.join(name);
        let (outbound, admin) = (free_address().await, free_address().await);
        let (workload, inbound) = (format!("{NAMESPACE}/client-v1"), format!("http={}", free_address().await));
        let placed = ["--workload", &workload, "--outbound", &outbound, "--admin", &admin, "--inbound", &inbound].map(str::to_owned);
        from_files::translate(input, &out, &placed).await;
        let access_log = home.join(format!("{name}.access"));
        let child = from_files::run(name, program, &out, fs::File::create(&access_log).expect("a log file").into());
        Self { name, out, outbound, admin, access_log, _child: child }
    }

    /// Its own log.
    pub fn says(&self) -> String {
        from_files::says(&self.out)
    }

    /// The lines of the access log so far, by user agent.
    pub fn lines(&self) -> BTreeMap<String, Vec<Value>> {
        let mut lines: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for line in fs::read_to_string(&self.access_log).unwrap_or_default().lines() {
            if let Ok(line) = serde_json::from_str::<Value>(line) {
                lines.entry(line["user_agent"].as_str().unwrap_or_default().to_owned()).or_default().push(line);
            }
        }
        lines
    }

    /// By route name: where it may send requests, and in which shares.
    pub async fn weights(&self) -> BTreeMap<String, Weights> {
        let dump = client::get(&self.admin, "/config_dump?resource=dynamic_route_configs").await.json();
        let mut all = BTreeMap::new();
        for config in dump["configs"].as_array().into_iter().flatten() {
            assert!(config["error_state"].is_null(), "{}: {config}", self.name);
            for host in config["route_config"]["virtual_hosts"].as_array().into_iter().flatten() {
                for route in host["routes"].as_array().into_iter().flatten() {
                    let name = format!("{} {}", host["name"].as_str().unwrap_or_default(), route["name"].as_str().unwrap_or_default());
                    all.insert(name, weights(&route["route"]));
                }
            }
        }
        all
    }
}

fn weights(action: &Value) -> Weights {
    let one = action["cluster"].as_str().map(|name| (name.to_owned(), 100));
    let weighted = action["weighted_clusters"]["clusters"].as_array().into_iter().flatten();
    let weighted = weighted.map(|entry| (entry["name"].as_str().unwrap_or_default().to_owned(), entry["weight"].as_u64().unwrap_or(0)));
    one.into_iter().chain(weighted).collect()
}
