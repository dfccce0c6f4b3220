//! The program as a whole, over real sockets: started from a copy on disk with no control plane, asked through its pages, told to end.
// Other control planes still send fields that are deprecated.
#![allow(deprecated)]
#![allow(clippy::unwrap_used)] // a test's helpers may fail loudly

#[path = "config/wire.rs"]
#[allow(dead_code)]
mod wire;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use pillion_proxy::config::disk::Copy;
use pillion_proxy::{Args, Bootstrap};
use pillion_xds::resource::{Encoded, NodeConfig, pack};
use pillion_xds::wire::envoy::config::accesslog::v3 as log;
use pillion_xds::wire::envoy::config::cluster::v3::{Cluster, cluster};
use pillion_xds::wire::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use serde_json::Value;

use wire::*;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running program; killed when dropped.
struct Proxy {
    child: Child,
    admin: SocketAddr,
    status: SocketAddr,
    metrics: SocketAddr,
}

const FLAGS: [&str; 12] = [
    "--xds",
    "127.0.0.1:1",
    "--name",
    "order-0",
    "--admin",
    "127.0.0.1:0",
    "--status",
    "127.0.0.1:0",
    "--metrics",
    "127.0.0.1:0",
    "--labels",
    "app=order,version=v1",
];

impl Proxy {
    fn start(state_dir: &Path, more: &[&str]) -> Self {
        let mut child = command(state_dir, more).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let started = lines.by_ref().map_while(Result::ok).find(|line| line.contains("started")).expect("it starts");
        // Keeps the pipe empty, and shows the log of a test that fails.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        let fields: Value = serde_json::from_str(&started).unwrap();
        let address = |name: &str| {
            let text = fields["fields"][name].as_str().unwrap();
            text.trim_start_matches("Some(").trim_end_matches(')').parse().unwrap()
        };
        Self { admin: address("admin"), status: address("status"), metrics: address("metrics"), child }
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        http(self.admin, "GET", path, &[])
    }

    fn post(&self, path: &str) -> (u16, String) {
        http(self.admin, "POST", path, &[])
    }

    fn until(&self, what: &str, mut test: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !test(self) {
            assert!(Instant::now() < end, "waited for {what}: {:?}", self.get("/ready"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn listener(&self, name: &str) -> SocketAddr {
        let info: Value = serde_json::from_str(&self.get("/server_info").1).unwrap();
        info["pillion"]["addresses"]["listeners"][name].as_str().unwrap().parse().unwrap()
    }

    /// Waits for the end; whether it was a success.
    fn ended(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status.success(),
                None => assert!(Instant::now() < end, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(state_dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion-proxy"));
    command.args(FLAGS).arg("--state-dir").arg(state_dir).args(["--workers", "1", "--log-json"]).args(more);
    command
}

/// One request on a connection of its own.
fn http(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = headers.iter().find(|(name, _)| *name == "host").map_or_else(|| at.to_string(), |(_, host)| (*host).to_owned());
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

/// An application that answers every request with `hello`.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                    if line == "\r\n" && stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

/// A copy on disk: a listener on a free port to this application, logging to this file.
fn state(folder: &Path, application: SocketAddr, access_log: &Path) {
    let mut config = NodeConfig::new(7);
    let file = FileAccessLog { path: access_log.to_str().unwrap().into(), access_log_format: None };
    let config_type = Some(log::access_log::ConfigType::TypedConfig(pack(&file)));
    let mut manager = manager("http_proxy");
    manager.access_log = vec![log::AccessLog { config_type, ..Default::default() }];
    config.add(&http_listener("http_proxy", "127.0.0.1:0", &manager));
    let name = "outbound|80||product.default.svc.cluster.local";
    let routes = vec![host("product:80", &["product"], vec![route_of(forward_to(name))])];
    config.add(&inline_routes("http_proxy", routes));
    let endpoints = vec![endpoint(&application.to_string(), "product-v1;default;product;v1;Kubernetes")];
    config.add(&Cluster { load_assignment: Some(assignment(name, endpoints)), ..cluster_of(name, cluster::DiscoveryType::Static) });
    let mut copy = Copy { generation: 7, ..Copy::default() };
    for (kind, resources) in &config.resources {
        let held = resources.values().map(|resource: &Encoded| (Arc::clone(&resource.name), resource.clone()));
        copy.resources.insert(*kind, held.collect());
    }
    let node = Bootstrap::new(Args::try_parse_from([&["pillion-proxy"], &FLAGS[..]].concat()).unwrap()).unwrap().node;
    copy.write(folder, &node).unwrap();
}

#[test]
fn without_control_plane_it_serves_from_disk_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let access_log = dir.path().join("access.log");
    state(&dir.path().join("state"), application(), &access_log);
    let mut proxy = Proxy::start(&dir.path().join("state"), &[]);
    proxy.until("readiness", |proxy| proxy.get("/ready").0 == 200);
    let (_, ready) = proxy.get("/ready");
    assert!(ready.starts_with("LIVE\nserving the last good configuration from disk, generation 7; no control plane for"), "{ready}");
    assert_eq!(http(proxy.status, "GET", "/healthz/ready", &[]).0, 200);

    let listener = proxy.listener("http_proxy");
    for _ in 0..3 {
        assert_eq!(http(listener, "GET", "/a", &[("host", "product")]), (200, "hello".to_owned()));
    }
    assert_eq!(http(listener, "GET", "/", &[("host", "nobody")]).0, 404);

    proxy.until("the access log", |_| std::fs::read_to_string(&access_log).unwrap_or_default().lines().count() == 4);
    let lines = std::fs::read_to_string(&access_log).unwrap();
    assert!(lines.contains("\"GET /a HTTP/1.1\" 200 - via_upstream"), "{lines}");
    assert!(lines.contains("404 NR route_not_found"), "{lines}");

    let (_, metrics) = http(proxy.metrics, "GET", "/stats/prometheus", &[]);
    let has = |words: &[&str]| metrics.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has(&["istio_requests_total", "source_workload=\"order-0\"", "destination_workload=\"product-v1\"", "} 3"]), "{metrics}");
    assert!(has(&["istio_requests_total", "response_code=\"404\"", "response_flags=\"NR\"", "} 1"]), "{metrics}");
    assert!(has(&["istio_request_duration_milliseconds_bucket", "le=\"+Inf\"} 3"]), "{metrics}");
    for line in ["istio_build{component=\"proxy\"", "pillion_config_stale 1", "pillion_generation 7", "envoy_server_live 1"] {
        assert!(has(&[line]), "{line}\n{metrics}");
    }
    assert_eq!(metrics, metrics.replace("NaN", ""), "no value is missing");

    assert!(proxy.post("/quitquitquit").0 == 200 && proxy.ended());
}

#[test]
fn the_pages_have_envoys_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let application = application();
    state(dir.path(), application, &dir.path().join("log"));
    let proxy = Proxy::start(dir.path(), &[]);
    proxy.until("readiness", |proxy| proxy.get("/ready").0 == 200);
    let cluster = "outbound|80||product.default.svc.cluster.local";
    let (_, clusters) = proxy.get("/clusters");
    assert!(clusters.contains(&format!("{cluster}::{application}::weight::1\n")), "{clusters}");
    let clusters: Value = serde_json::from_str(&proxy.get("/clusters?format=json").1).unwrap();
    let host = &clusters["cluster_statuses"][0]["host_statuses"][0];
    assert_eq!(host["address"]["socket_address"]["port_value"], application.port());
    let at = proxy.listener("http_proxy");
    assert_eq!(proxy.get("/listeners"), (200, format!("http_proxy::{at}\n")));
    let listeners: Value = serde_json::from_str(&proxy.get("/listeners?format=json").1).unwrap();
    assert_eq!(listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"], at.port());
    let info: Value = serde_json::from_str(&proxy.get("/server_info").1).unwrap();
    assert_eq!((&info["state"], &info["node"]["instance"]), (&Value::from("LIVE"), &Value::from("order-0")));
    assert_eq!(info["pillion"]["control_plane"]["stale"], true);
    let (_, stats) = proxy.get("/stats?filter=^server%5C.live$");
    assert_eq!(stats, "server.live: 1\n");
    assert_eq!(proxy.get("/stats?filter=(").0, 400);
    let (status, help) = proxy.get("/");
    assert!(status == 200 && help.contains("/quitquitquit"), "{help}");
}

#[test]
fn a_dump_shows_what_is_in_force_as_envoy_does() {
    let dir = tempfile::tempdir().unwrap();
    state(dir.path(), application(), &dir.path().join("log"));
    let proxy = Proxy::start(dir.path(), &[]);
    proxy.until("readiness", |proxy| proxy.get("/ready").0 == 200);
    let dump: Value = serde_json::from_str(&proxy.get("/config_dump?include_eds").1).unwrap();
    let descriptors = pillion_xds::json::Descriptors::load().unwrap();
    descriptors.from_json("envoy.admin.v3.ConfigDump", dump.clone()).unwrap();
    let configs = dump["configs"].as_array().unwrap();
    assert_eq!(configs[0]["bootstrap"]["node"]["metadata"]["NAME"], "order-0");
    assert_eq!((&configs[3]["version_info"], &configs[3]["dynamic_listeners"][0]["name"]), (&"7".into(), &"http_proxy".into()));
    let listeners = &proxy.get("/config_dump?resource=dynamic_listeners&mask=active_state.version_info").1;
    let listeners: Value = serde_json::from_str(listeners).unwrap();
    let listener = &listeners["configs"][0];
    assert_eq!(listener["@type"], "type.googleapis.com/envoy.admin.v3.ListenersConfigDump.DynamicListener");
    assert_eq!(listener["active_state"].as_object().unwrap().keys().collect::<Vec<_>>(), ["version_info"]);
    assert_eq!(
        (proxy.get("/config_dump?resource=x").0, proxy.get("/config_dump?name_regex=(").0, proxy.post("/config_dump").0),
        (404, 400, 405)
    );
}

#[test]
fn files_take_the_place_of_a_control_plane() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let response = |file: &str, text: &str| {
        let fresh = files.join("fresh");
        std::fs::write(&fresh, format!("resources:\n{text}")).unwrap();
        std::fs::rename(&fresh, files.join(file)).unwrap();
    };
    let cluster = |port: u16| {
        let address = format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
        format!(
            "- {{'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster, name: c, type: STATIC, connect_timeout: 1s, \
             load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {address}}}}}]}}]}}}}\n"
        )
    };
    let routes = |host: &str| {
        let route = "{match: {prefix: /}, route: {cluster: c}}";
        let host = format!("{{name: h, domains: [{host}], routes: [{route}]}}");
        format!("- {{'@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration, name: r, virtual_hosts: [{host}]}}\n")
    };
    let hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let filter =
        "{name: envoy.filters.http.router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";
    let manager = format!(
        "{{'@type': {hcm}, stat_prefix: s, http_filters: [{filter}], \
         rds: {{route_config_name: r, config_source: {{path_config_source: {{path: /elsewhere/rds.yaml}}}}}}}}"
    );
    let listener = format!(
        "- {{'@type': type.googleapis.com/envoy.config.listener.v3.Listener, name: l, \
         address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: [{{name: envoy.filters.network.http_connection_manager, typed_config: {manager}}}]}}]}}\n"
    );
    response("cds.yaml", &cluster(application().port()));
    response("rds.yaml", &routes("product"));
    response("lds.yaml", &listener);
    let proxy = Proxy::start(&dir.path().join("state"), &["--resources", files.to_str().unwrap()]);
    proxy.until("readiness", |proxy| proxy.get("/ready") == (200, "LIVE\n".to_owned()));
    let at = proxy.listener("l");
    let ask = |host: &str| http(at, "GET", "/", &[("host", host)]).0;
    assert_eq!((ask("product"), ask("order")), (200, 404));

    response("rds.yaml", &routes("order"));
    proxy.until("the new routes", |_| ask("order") == 200);
    assert_eq!(ask("product"), 404);

    // Broken: what is in force stays, and it is said.
    response("cds.yaml", &cluster(1).replace("STATIC", "NOT_A_TYPE"));
    proxy.until("the refusal", |proxy| proxy.get("/server_info").1.contains("NOT_A_TYPE"));
    response("rds.yaml", "[");
    proxy.until("the broken file", |proxy| proxy.get("/ready").1.contains("rds.yaml: line"));
    assert_eq!(ask("order"), 200);
    response("rds.yaml", &routes("product"));
    proxy.until("the next good routes", |_| ask("product") == 200);
    let missing = Command::new(env!("CARGO_BIN_EXE_pillion-proxy")).args(["--resources", "/nowhere"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn orders_are_posts_from_here() {
    let dir = tempfile::tempdir().unwrap();
    state(dir.path(), application(), &dir.path().join("log"));
    let mut proxy = Proxy::start(dir.path(), &[]);
    proxy.until("readiness", |proxy| proxy.get("/ready").0 == 200);
    for path in ["/quitquitquit", "/drain_listeners", "/logging"] {
        assert_eq!(proxy.get(path).0, 405, "{path}");
    }
    assert_eq!(proxy.post("/ready").0, 405);
    assert_eq!(proxy.get("/nothing").0, 404);
    assert_eq!(http(proxy.admin, "GET", "/ready", &[("host", "evil.example.com")]).0, 403);
    assert_eq!(http(proxy.admin, "POST", "/quitquitquit", &[("origin", "http://evil.example.com")]).0, 403);
    for surface in [proxy.status, proxy.metrics] {
        assert_eq!(http(surface, "POST", "/quitquitquit", &[]).0, 404);
        assert_eq!(http(surface, "GET", "/server_info", &[]).0, 404);
    }
    let (status, levels) = proxy.post("/logging?level=debug");
    assert!(status == 200 && levels.contains("debug"), "{levels}");
    assert_eq!(proxy.post("/logging?level=loud").0, 400);
    assert_eq!(proxy.post("/drain_listeners").0, 200);
    let (status, ready) = proxy.get("/ready");
    assert!(status == 503 && ready.starts_with("DRAINING"), "{ready}");
    let id = rustix::process::Pid::from_child(&proxy.child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(proxy.ended(), "SIGTERM is a success");
}

#[test]
fn a_head_without_end_or_bound_costs_its_sender_alone() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), &[]);
    let mut endless = TcpStream::connect(proxy.admin).unwrap();
    endless.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut written = endless.write_all(b"GET / HTTP/1.1\r\nx: ");
    for _ in 0..64 {
        written = written.and_then(|()| endless.write_all(&[b'x'; 1024]));
    }
    let mut answer = String::new();
    // The answer, or the reset that follows it.
    let _ = endless.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
    let (status, ready) = proxy.get("/ready");
    assert!(status == 503 && ready.starts_with("PRE_INITIALIZING\nwaiting for a configuration"), "{ready}");
    assert_eq!(http(proxy.status, "GET", "/healthz/ready", &[]).0, 503);
}

#[test]
fn a_port_that_is_taken_ends_the_start_and_names_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flags in [["--http-proxy-port", &port], ["--admin", &format!("127.0.0.1:{port}")]] {
        // A flag given twice is misuse, so the first admin address goes.
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion-proxy"));
        command.args(["--xds", "127.0.0.1:1", "--status", "off", "--state-dir"]).arg(dir.path()).args(flags);
        if flags[0] != "--admin" {
            command.args(["--admin", "127.0.0.1:0"]);
        }
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&format!("{}: taken by", port)) || error.contains(&format!(":{port}: taken by")), "{error}");
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    }
}

#[test]
fn misuse_is_told_apart_from_failure() {
    for flags in [&["--admin", "0.0.0.0:0"][..], &["--workers", "0"], &["--no-such-flag"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_pillion-proxy")).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
}
