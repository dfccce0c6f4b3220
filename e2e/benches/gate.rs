//! The price of a request, in pairs with Envoy: a short measurement that fails when the proxy has become dear.
//!
//! In:  `pillion-proxy` fed by `pillion-control-plane` (profile `dist`), a static Envoy, wrk and h2load.
//! Out: CPU microseconds per request of both, round by round on the same core, and their ratio; exit 1 above the limit.
//!
//! CPU is read from `/proc/PID/task/*/schedstat` (all threads, user and system), so other users of the machine disturb little. The proxies
//! share core 0, load and backends core 1.
#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use pillion_e2e::peers;

const ROUNDS: usize = 5;
/// Others on the machine can spoil a measurement: one above the limit is repeated, and all of them must be above it to fail.
const MEASUREMENTS: usize = 3;
const HOST: &str = "bench.local";
const SECONDS: u32 = 3;

/// A load, and how much of Envoy's CPU a request may cost.
struct Scenario {
    name: &'static str,
    http2: bool,
    limit: f64,
}

const SCENARIOS: &[Scenario] = &[Scenario { name: "h1", http2: false, limit: 0.42 }, Scenario { name: "h2", http2: true, limit: 0.65 }];

/// Ends its process when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(core: &str, program: &Path, arguments: &[&str], log: &Path) -> Process {
    let log = fs::File::create(log).expect("a log file");
    let child = Command::new("taskset")
        .args(["-c", core])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    Process(child.expect("the program starts"))
}

fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the proxy runs");
    let nanoseconds = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    Duration::from_nanos(nanoseconds.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum())
}

fn rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Two backends that answer 1 KiB from memory, HTTP/1.1 and h2c on the same ports.
fn backends() -> Vec<SocketAddr> {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            for _ in 0..2 {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                tell.send(listener.local_addr().expect("an address")).expect("somebody listens");
                tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        let _ = stream.set_nodelay(true);
                        let answer =
                            service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&[b'x'; 1024])))) });
                        tokio::spawn(async move {
                            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await
                        });
                    }
                });
            }
            std::future::pending::<()>().await;
        });
    });
    (0..2).map(|_| told.recv().expect("a backend listens")).collect()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn service_entry(http2: bool, backends: &[SocketAddr]) -> String {
    let (name, protocol) = if http2 { ("http2", "HTTP2") } else { ("http", "HTTP") };
    let endpoints: String = backends.iter().map(|at| format!("  - {{address: {}, ports: {{{name}: {}}}}}\n", at.ip(), at.port())).collect();
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: bench}}
spec:
  hosts: [{HOST}, other.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 80, name: {name}, protocol: {protocol}}}
  endpoints:
{endpoints}"
    )
}

fn envoy_config(port: u16, http2: bool, backends: &[SocketAddr]) -> String {
    let endpoints: Vec<_> = backends
        .iter()
        .map(|at| format!("{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}", at.ip(), at.port()))
        .collect();
    let protocol = if http2 {
        "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}"
    } else {
        ""
    };
    format!(
        "static_resources:
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: AUTO
          route_config:
            name: r
            virtual_hosts:
            - {{name: a, domains: [{HOST}], routes: [{{match: {{prefix: /}}, route: {{cluster: c}}}}]}}
            - {{name: b, domains: [other.local], routes: [{{match: {{prefix: /}}, route: {{cluster: c}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: c
    type: STATIC
    connect_timeout: 5s
    {protocol}
    circuit_breakers: {{thresholds: [{{max_connections: 20000, max_pending_requests: 20000, max_requests: 20000}}]}}
    load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{}]}}]}}
",
        endpoints.join(", ")
    )
}

/// Runs the load for `seconds`; the number of requests that succeeded. Any error ends the measurement.
fn load(scenario: &Scenario, port: u16, seconds: u32) -> u64 {
    let (url, duration) = (format!("http://127.0.0.1:{port}/"), seconds.to_string());
    let output = if scenario.http2 {
        let authority = format!(":authority: {HOST}");
        Command::new("taskset").args(["-c", "1", "h2load", "-t1", "-c10", "-m20", "-D", &duration, "-H", &authority, &url]).output()
    } else {
        let host = format!("Host: {HOST}");
        let duration = format!("-d{seconds}s");
        Command::new("taskset").args(["-c", "1", "wrk", "-t1", "-c50", &duration, "-H", &host, &url]).output()
    };
    let text = String::from_utf8_lossy(&output.expect("the load generator runs").stdout).into_owned();
    let number = |after: &str, before: &str| text.split(after).nth(1)?.split(before).next()?.trim().parse::<u64>().ok();
    if scenario.http2 {
        assert!(text.contains(" 0 failed, 0 errored"), "{text}");
        number(" done, ", " succeeded").unwrap_or_else(|| panic!("{text}"))
    } else {
        assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
        let line = text.lines().find(|line| line.contains("requests in")).unwrap_or_else(|| panic!("{text}"));
        line.split_whitespace().next().and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }
}

fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    let mut head = [0; 12];
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).is_ok()
        && stream.read_exact(&mut head).is_ok()
        && &head == b"HTTP/1.1 200"
}

fn wait_until_it_answers(port: u16, home: &Path) {
    let begun = Instant::now();
    while !answers(port) {
        assert!(begun.elapsed() < Duration::from_secs(20), "port {port} does not answer; logs in {}", home.display());
        thread::sleep(Duration::from_millis(20));
    }
}

fn microseconds_per_request(scenario: &Scenario, process: &Process, port: u16) -> f64 {
    load(scenario, port, 1);
    let before = cpu(process.0.id());
    let requests = load(scenario, port, SECONDS);
    (cpu(process.0.id()) - before).as_secs_f64() * 1e6 / requests as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures one scenario; whether it stays below its limit.
fn measure(scenario: &Scenario, envoy: &Path, binaries: &Path, backends: &[SocketAddr]) -> bool {
    let home = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| home.path().join(name);
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    fs::create_dir(path("config")).expect("a fresh folder");
    fs::write(path("config/bench.yaml"), service_entry(scenario.http2, backends)).expect("writable");
    let [xds, envoy_port, proxy_port] = [(); 3].map(|()| free_port());
    fs::write(path("envoy.yaml"), envoy_config(envoy_port, scenario.http2, backends)).expect("writable");

    let (xds, zero) = (format!("127.0.0.1:{xds}"), "127.0.0.1:0");
    let (config, state) = (text(path("config")), text(path("state")));
    let control = ["--config", &config, "--xds", &xds, "--api", zero, "--metrics", zero];
    let _control = start("1", &binaries.join("pillion-control-plane"), &control, &path("control-plane.log"));
    let listen = proxy_port.to_string();
    let sidecar = [
        "--xds",
        &xds,
        "--name",
        "bench-0",
        "--namespace",
        "default",
        "--http-proxy-port",
        &listen,
        "--admin",
        zero,
        "--status",
        zero,
        "--state-dir",
        &state,
        "--workers",
        "1",
    ];
    let ours = start("0", &binaries.join("pillion-proxy"), &sidecar, &path("proxy.log"));
    let theirs = start(
        "0",
        envoy,
        &["-c", &text(path("envoy.yaml")), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"],
        &path("envoy.log"),
    );
    wait_until_it_answers(proxy_port, home.path());
    wait_until_it_answers(envoy_port, home.path());
    let idle = rss_mib(ours.0.id());

    let (mut ratios, mut own, mut envoys) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let reference = microseconds_per_request(scenario, &theirs, envoy_port);
        let cost = microseconds_per_request(scenario, &ours, proxy_port);
        ratios.push(cost / reference);
        own.push(cost);
        envoys.push(reference);
    }
    let ratio = median(ratios);
    println!(
        "{}: {:.2} us/request, Envoy {:.2}, ratio {ratio:.3} (limit {}); RSS idle {idle:.1} MiB",
        scenario.name,
        median(own),
        median(envoys),
        scenario.limit
    );
    ratio <= scenario.limit
}

fn main() {
    // `cargo test --benches` only asks whether it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let tools = ["envoy", "wrk", "h2load", "taskset"].map(peers::find);
    let [Some(envoy), Some(_), Some(_), Some(_)] = tools else { return };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| pillion_e2e::workspace().join("target"), PathBuf::from);
    let binaries = target.join("dist");
    assert!(binaries.join("pillion-proxy").exists(), "`just bench` builds the binaries of profile dist first");
    // Backends are threads of this process, and threads inherit.
    let pinned = Command::new("taskset").args(["-c", "-p", "1", &std::process::id().to_string()]).stdout(Stdio::null()).status();
    assert!(pinned.is_ok_and(|status| status.success()), "taskset pins the backends");
    let backends = backends();
    let mut dear = false;
    for scenario in SCENARIOS {
        dear |= !(0..MEASUREMENTS).any(|_| measure(scenario, &envoy, &binaries, &backends));
    }
    if dear {
        println!("dearer than the limit");
        std::process::exit(1);
    }
}
