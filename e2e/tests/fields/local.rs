//! Cases of Workload: all of them, and all that they are without a field, in one local mesh, each in a namespace of its own.
//!
//! In:  cases; `$port` in their YAML is a backend of the variant's own, `$free-1` and `$free-2` are free ports, `$script` is a program that says
//!      what it was started with.
//! Out: what is wrong.
//!
//! Observations:
//!
//! | word | what |
//! |---|---|
//! | `answer` | the status that a client gets of the Service `s` |
//! | `account`, `replicas`, `ports` | of the Workload `x` in the event `ready` |
//! | `outbound`, `inbound`, `local` | `fixed` when the port is `$free-1`, `$free-2`, `$port` |
//! | `gateway` | `yes` when `x` is one |
//! | `env:NAME`, `argument` | what the program found |

use std::{
    fs,
    time::{Duration, Instant},
};

use pillion_api::object::Kind;
use pillion_e2e::{
    client::{self, Client},
    mesh::Mesh,
};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    ask::text,
    backend::{self, Records},
    case::{Case, Field},
};

/// After so long a probe with a period of 1 s has failed more often than the default allows.
const SETTLED: Duration = Duration::from_secs(5);
/// Sidecars of a whole list on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers its variables and arguments as JSON on `$PORT`.
const SCRIPT: &str = "import http.server, json, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({'env': dict(os.environ), 'argument': sys.argv[1:]}).encode())
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()
";

/// A case as it is written, or without one of its fields.
struct Variant<'a> {
    case: &'a Case,
    field: Option<&'a Field>,
    namespace: String,
    yaml: String,
    /// `$port`, `$free-1`, `$free-2`.
    ports: [u16; 3],
}

async fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl<'a> Variant<'a> {
    async fn new(kind: Kind, case: &'a Case, field: Option<&'a Field>, namespace: String) -> Self {
        let tree = case.tree();
        let tree = field.map_or(Some(tree.clone()), |field| tree.with(kind, field.path, &field.change));
        let tree = tree.unwrap_or_else(|| panic!("`{}` has no {}", case.name, field.map_or("", |field| field.path)));
        let ports = [backend::start("x", Records::default()).await, free().await, free().await];
        let mut yaml = tree.in_namespace(&namespace).to_string();
        for (name, port) in ["port", "free-1", "free-2"].into_iter().zip(ports) {
            yaml = yaml.replace(&format!("\"${name}\""), &port.to_string());
        }
        yaml = yaml.replace("\"$script\"", &Value::from(SCRIPT).to_string());
        Self { case, field, namespace, yaml, ports }
    }

    async fn observe(&self, mesh: &Mesh) -> String {
        let all = mesh.ready["workloads"].as_array().cloned().unwrap_or_default();
        let own: Vec<&Value> = all.iter().filter(|workload| workload["namespace"] == *self.namespace).collect();
        let none = Value::Null;
        let first = own.first().copied().unwrap_or(&none);
        let ends = |value: &Value, port: u16| if text(value).ends_with(&format!(":{port}")) { "fixed" } else { "picked" }.to_owned();
        let mut words = Vec::new();
        for word in self.case.see.split_whitespace() {
            words.push(match word {
                "account" => text(&first["service_account"]),
                "replicas" => own.len().to_string(),
                "ports" => {
                    let ports = first["ports"].as_array().cloned().unwrap_or_default();
                    ports.iter().map(|port| format!("{}:{}", text(&port["name"]), port["port"])).collect::<Vec<_>>().join(",")
                }
                "outbound" => ends(&first["outbound"], self.ports[1]),
                "inbound" => ends(&first["ports"][0]["inbound"], self.ports[2]),
                "local" => ends(&first["ports"][0]["app"], self.ports[0]),
                "gateway" => {
                    let gateways = mesh.ready["gateways"].as_array().cloned().unwrap_or_default();
                    if gateways.iter().any(|gateway| gateway["namespace"] == *self.namespace) { "yes" } else { "no" }.to_owned()
                }
                "answer" => {
                    let url = format!("http://s.{}.svc.cluster.local/", self.namespace);
                    let answer = Client::new(&mesh.outbound("client")).get(&url).await;
                    answer.map_or_else(|error| error, |answer| answer.status.as_u16().to_string())
                }
                other => {
                    let app = text(&first["ports"][0]["app"]);
                    let said = client::get(app.trim_start_matches("http://"), "/").await.json();
                    match other.strip_prefix("env:") {
                        Some(name) => text(&said["env"][name]),
                        None => text(&said["argument"][0]),
                    }
                }
            });
        }
        words.join(" ")
    }
}

/// Runs all cases at once.
pub async fn run(kind: Kind, cases: &[Case]) -> Vec<String> {
    let mut variants = Vec::new();
    for case in cases {
        for field in std::iter::once(None).chain(case.fields.iter().map(Some)) {
            variants.push(Variant::new(kind, case, field, format!("n{}", variants.len())).await);
        }
    }
    let client = "---\napiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {name: client}\nspec: {}\n";
    let yaml = variants.iter().map(|variant| variant.yaml.as_str()).chain([client]).collect::<String>();
    let source = tempfile::tempdir().expect("a temporary folder");
    fs::write(source.path().join("all.yaml"), yaml).expect("writable");
    let mesh = Mesh::start(source.path(), &["--logs", "none"]).await;
    tokio::time::sleep(SETTLED).await;
    let mut wrong = Vec::new();
    // Everything must be as written first; a sidecar may be late.
    for variant in variants.iter().filter(|variant| variant.field.is_none()) {
        let began = Instant::now();
        let seen = loop {
            let seen = variant.observe(&mesh).await;
            if seen == variant.case.expected || began.elapsed() > PATIENCE {
                break seen;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        if seen != variant.case.expected {
            wrong
                .push(format!("{kind} `{}`: expected {:?}, observed {seen:?}\n{}", variant.case.name, variant.case.expected, variant.yaml));
        }
    }
    for variant in &variants {
        let Some(field) = variant.field else { continue };
        let seen = variant.observe(&mesh).await;
        println!("{kind} {}: {:?} -> {seen:?}", field.path, variant.case.expected);
        if seen == variant.case.expected {
            let name = variant.case.name;
            wrong.push(format!("{kind} `{name}`: nobody notices that {} is not there: {seen:?}\n{}", field.path, variant.yaml));
        }
    }
    wrong
}
