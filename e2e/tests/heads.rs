//! What becomes of paths and header fields: a stock Envoy and our proxy from the same translation, asked the same.
//!
//! In:  a mesh of one upstream that answers with what it got, a sidecar and a gateway before it; `envoy`, without which ours is looked at alone.
//! Out: the same heads on both sides of both proxies, also after edits of the MeshConfig.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use pillion_e2e::{
    eventually, from_files,
    planes::free_address,
    raw::{self, Exchange},
};
use tempfile::TempDir;
use tokio::process::Child;

const WITHIN: Duration = Duration::from_secs(30);
/// What the upstream says beside its length.
const SAID: &str = "x-echo: 1\r\nserver: app\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nconnection: keep-alive\r\nkeep-alive: timeout=5\r\n\
                    x-envoy-upstream-service-time: 77\r\nx-own: 1\r\n";

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: pillion.io/v1alpha1
kind: Workload
metadata: {name: echo, labels: {app: echo}}
spec: {ports: [{name: http, containerPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec: {hosts: ['*'], gateways: [public], http: [{route: [{destination: {host: echo}}]}]}
";

fn mesh_config(settings: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {settings}\n")
}

/// A sidecar or a gateway, run by one program.
struct Proxy {
    program: &'static str,
    out: PathBuf,
    /// The arguments of its translation.
    placed: Vec<String>,
    /// Where requests go out, at a sidecar.
    outbound: String,
    inbound: String,
    _child: Child,
}

impl Proxy {
    async fn ask(&self, address: &str, request: &str) -> Exchange {
        let answer = raw::ask(address, request).await;
        answer.unwrap_or_else(|error| panic!("{}: {request:?}: {error}\n{}", self.program, from_files::says(&self.out)))
    }
}

/// The mesh, and each of its two proxies as often as there are programs.
struct Bench {
    home: TempDir,
    sidecars: Vec<Proxy>,
    gateways: Vec<Proxy>,
}

impl Bench {
    async fn start(settings: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let upstream = raw::echo(SAID).await;
        let port = serde_json::json!({"name": "http", "port": 8080, "inbound": upstream, "app": upstream});
        let workload = serde_json::json!({"namespace": "default", "name": "echo", "replica": 0, "ports": [port]});
        let ready = serde_json::json!({"event": "ready", "workloads": [workload]});
        fs::write(home.path().join("ready.json"), format!("{ready}\n")).expect("writable");
        fs::create_dir(home.path().join("mesh")).expect("writable");
        fs::write(home.path().join("mesh/mesh.yaml"), MESH).expect("writable");
        let mut bench = Self { home, sidecars: Vec::new(), gateways: Vec::new() };
        bench.configure(settings).await;
        let programs = from_files::programs();
        for (name, program) in &programs {
            let sidecar = bench.proxy(name, program, "default/echo").await;
            let gateway = bench.proxy(name, program, "istio-system/istio-ingressgateway").await;
            bench.sidecars.push(sidecar);
            bench.gateways.push(gateway);
        }
        for proxy in bench.sidecars.iter().chain(&bench.gateways) {
            eventually(&format!("{} listens:\n{}", proxy.program, from_files::says(&proxy.out)), WITHIN, || async {
                let answer = raw::ask(&proxy.inbound, "GET / HTTP/1.1\r\nhost: echo\r\n\r\n").await;
                answer.ok().filter(|answer| answer.status() == 200)
            })
            .await;
        }
        bench
    }

    async fn proxy(&self, program: &'static str, path: &Path, workload: &str) -> Proxy {
        let out = self.home.path().join(format!("{program}-{}", workload.replace('/', "-")));
        let (outbound, inbound, admin) = (free_address().await, free_address().await, free_address().await);
        let mut placed: Vec<String> = ["--workload", workload, "--admin", &admin].map(str::to_owned).to_vec();
        placed.extend(["--inbound".to_owned(), format!("http={inbound}")]);
        placed.extend(["--endpoints".to_owned(), self.home.path().join("ready.json").to_string_lossy().into_owned()]);
        if workload.starts_with("default/") {
            placed.extend(["--outbound".to_owned(), outbound.clone()]);
        }
        self.translate(&out, &placed).await;
        let child = from_files::run(program, path, &out, Stdio::null());
        Proxy { program, out, placed, outbound, inbound, _child: child }
    }

    async fn translate(&self, out: &Path, placed: &[String]) {
        from_files::translate(&self.home.path().join("mesh"), out, placed).await;
    }

    /// Edits the MeshConfig, and has every proxy told.
    async fn configure(&mut self, settings: &str) {
        fs::write(self.home.path().join("mesh/config.yaml"), mesh_config(settings)).expect("writable");
        for proxy in self.sidecars.iter().chain(&self.gateways) {
            self.translate(&proxy.out, &proxy.placed).await;
        }
    }
}

/// Every answer must be the first one's; `None` is a refusal.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, answers: Vec<(&str, T)>) -> T {
    assert!(answers.iter().all(|(_, answer)| *answer == answers[0].1), "{what}: {answers:#?}");
    let (_, first) = answers.into_iter().next().expect("our own proxy");
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_reach_the_application_in_the_form_that_the_mesh_config_names_and_follow_its_edits() {
    // What is asked for each setting to see that it is in force, and some more whose outcome is known.
    const SETTINGS: &[(&str, &str, &str)] = &[
        ("pathNormalization: {normalization: NONE}", "/p/../%2F//q", "/a/..%2fb"),
        ("pathNormalization: {normalization: BASE}", "/%2F//q", "/a/..%2fb"),
        ("pathNormalization: {normalization: MERGE_SLASHES}", "/%2F/q", "/a/..%2fb"),
        ("pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}", "/q", "/b"),
        ("pathNormalization: {normalization: DEFAULT}", "/%2F//q", "/a/..%2fb"),
    ];
    const PATHS: &[&str] = &[
        "/",
        "//",
        "///",
        "/a",
        "/a/",
        "/a//",
        "//a",
        "/a//b",
        "/a///b//c/",
        "/./a",
        "/a/.",
        "/a/./",
        "/a/..",
        "/a/../",
        "/..",
        "/../a",
        "/a/b/../../../c",
        "/a//../b",
        "/a//..//b",
        "/a/...",
        "/a/.b",
        "/a/..b",
        "/a\\b",
        "\\a",
        "/a\\..\\b",
        "/a\\\\b",
        "/%2e/a",
        "/a/%2e%2E/b",
        "/a/.%2e",
        "/a%2e%2e/b",
        "/a%2fb",
        "/a%2Fb",
        "/a%2f%2Fb",
        "/a%2f/b",
        "/a/..%2fb",
        "/a/%2e%2e%2Fb",
        "/a%5cb",
        "/a%5Cb",
        "/a%5c..%5Cb",
        "/%5c",
        "/%2f",
        "/a%252fb",
        "/a%255cb",
        "/a%25%32%66b",
        "/%41%7a%30%2d%5f%7e",
        "/%20a%3f%23",
        "/a%c0%afb",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%00b",
        "/%%41",
        "/%%34%31",
        "/%2%66%41",
        "/a?q=%2f//../x",
        "/a/../b?x=/../%2F//\\",
        "/a%2fb?",
        "/a;b/../c",
        "/a:b@c",
        "/a{b}/^|",
        "/a\"b",
        "/%%341",
        "/a/%%2e",
        "/a+b%2B",
    ];
    let mut bench = Bench::start(SETTINGS[0].0).await;
    for (round, (settings, probed, known)) in SETTINGS.iter().enumerate() {
        if round > 0 {
            bench.configure(settings).await;
        }
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: echo\r\n\r\n");
        for proxies in [&bench.sidecars, &bench.gateways] {
            for proxy in proxies {
                eventually(&format!("{} is at {settings}", proxy.program), WITHIN, || async {
                    let answer = raw::ask(&proxy.inbound, &request("/p/../%2F//q")).await.ok()?;
                    (answer.target() == Some(*probed)).then_some(())
                })
                .await;
            }
            for path in PATHS {
                let mut answers = Vec::new();
                for proxy in proxies {
                    let answer = proxy.ask(&proxy.inbound, &request(path)).await;
                    answers.push((proxy.program, answer.target().map(str::to_owned).ok_or(answer.status())));
                }
                let reached = same(&format!("{settings}: {path}"), answers);
                if *path == "/a/..%2fb" {
                    assert_eq!(reached.as_deref(), Ok(*known), "{settings}");
                }
            }
        }
    }
}

/// A head without what differs by nature: ids that were made, times, addresses of this machine, the metadata by which sidecars know each
/// other, and the length of an answer that tells all that.
fn comparable(head: &raw::Head, sent: &str) -> Vec<String> {
    let fields = head.fields.iter().filter(|(name, _)| !name.starts_with("x-envoy-peer-metadata") && name != "content-length");
    let made = |(name, value): &(String, String)| {
        let value = match name.as_str() {
            "x-request-id" if !sent.contains(value.as_str()) => "made".to_owned(),
            "x-envoy-upstream-service-time" if value != "77" => "measured".to_owned(),
            "x-envoy-external-address" if value.parse::<std::net::IpAddr>().is_ok() && !sent.contains(value.as_str()) => "peer".to_owned(),
            "x-forwarded-for" => match value.rsplit_once(',') {
                Some((before, last)) if !sent.contains(last) => format!("{before},peer"),
                None if !sent.contains(value.as_str()) => "peer".to_owned(),
                _ => value.clone(),
            },
            _ => value.clone(),
        };
        format!("{name}: {value}")
    };
    fields.map(made).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn header_fields_are_added_kept_and_taken_away_as_by_envoy() {
    const FIELDS: &[&str] = &[
        "",
        "x-request-id: theirs\r\n",
        "x-forwarded-for: 203.0.113.7\r\nx-forwarded-proto: https\r\n",
        "x-forwarded-for: 203.0.113.7, 198.51.100.2\r\nx-forwarded-host: other\r\n",
        "x-envoy-internal: true\r\nx-envoy-ip-tags: a\r\nx-envoy-force-trace: 1\r\nx-envoy-original-url: /u\r\n",
        "x-envoy-upstream-alt-stat-name: a\r\nx-envoy-upstream-rq-timeout-alt-response: 1\r\n",
        "x-envoy-original-path: /o\r\nx-envoy-original-host: o\r\nx-envoy-decorator-operation: d\r\n",
        "x-envoy-downstream-service-cluster: c\r\nx-envoy-downstream-service-node: n\r\n",
        "x-envoy-external-address: 203.0.113.9\r\nx-envoy-attempt-count: 7\r\n",
        "x-request-id: \r\n",
        "x-forwarded-for: \r\n",
        "connection: close\r\n",
        "connection: x-request-id, x-envoy-external-address\r\nx-request-id: theirs\r\n",
        "connection: x-envoy-attempt-count\r\nx-envoy-attempt-count: 3\r\n",
        "connection: cookie, authorization\r\ncookie: a=b\r\nauthorization: x\r\nx-a: b\r\n",
        "connection: x-one, X-Two\r\nx-one: 1\r\nx-two: 2\r\nx-three: 3\r\n",
        "connection: x-forwarded-for\r\nx-forwarded-for: 203.0.113.7\r\n",
        "connection: keep-alive\r\nkeep-alive: timeout=9\r\nproxy-connection: keep-alive\r\n",
        "connection: te\r\nte: trailers\r\n",
        "te: gzip\r\n",
        "te: gzip, trailers\r\n",
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
        "upgrade: websocket\r\n",
        "via: 1.1 other\r\nserver: client\r\nforwarded: for=203.0.113.7\r\nx-b3-traceid: 1\r\n",
    ];
    // What is asked of the proxy: at the gateway and on the way in it is taken away. On the way out we believe it, which Envoy does for
    // addresses that it is told are internal.
    const ASKED: &str = "x-envoy-retry-on: 5xx\r\nx-envoy-retry-grpc-on: cancelled\r\nx-envoy-max-retries: 1\r\nx-envoy-retriable-status-codes: 418\r\n\
                         x-envoy-retriable-header-names: x-a\r\nx-envoy-upstream-rq-timeout-ms: 9000\r\nx-envoy-upstream-rq-per-try-timeout-ms: 900\r\n\
                         x-envoy-hedge-on-per-try-timeout: true\r\nx-envoy-expected-rq-timeout-ms: 7\r\n";
    let bench = Bench::start("accessLogFile: ''").await;
    type Way = (&'static str, fn(&Proxy) -> &str);
    let ways: [(&[Proxy], Way); 3] = [
        (&bench.sidecars, ("in", |proxy| &proxy.inbound)),
        (&bench.sidecars, ("out", |proxy| &proxy.outbound)),
        (&bench.gateways, ("gateway", |proxy| &proxy.inbound)),
    ];
    let mut different = Vec::new();
    for (proxies, (way, address)) in ways {
        for fields in FIELDS.iter().chain((way != "out").then_some(&ASKED)) {
            let request = format!("GET /x HTTP/1.1\r\nhost: echo\r\n{fields}\r\n");
            let mut all = Vec::new();
            for proxy in proxies {
                let exchange = proxy.ask(address(proxy), &request).await;
                let received = exchange.received.as_ref().map(|head| comparable(head, &request));
                let answer = (exchange.status() == 200).then(|| comparable(&exchange.answer, &request));
                all.push((proxy.program, exchange.status(), received, answer));
            }
            if all.iter().any(|(_, status, received, answer)| (status, received, answer) != (&all[0].1, &all[0].2, &all[0].3)) {
                let lines: Vec<String> = all.iter().map(|found| format!("  {found:?}")).collect();
                different.push(format!("{way}, {fields:?}:\n{}", lines.join("\n")));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));

    // What no comparison says: the names by which Istio's proxies answer, and that applications are believed on the way out.
    let plain = "GET /x HTTP/1.1\r\nhost: echo\r\nx-envoy-upstream-rq-timeout-ms: 9000\r\n\r\n";
    for (proxy, gateway) in bench.sidecars.iter().zip(&bench.gateways) {
        let (sent_in, sent_out) = (proxy.ask(&proxy.inbound, plain).await, proxy.ask(&proxy.outbound, plain).await);
        let servers = [&sent_in, &sent_out, &gateway.ask(&gateway.inbound, plain).await]
            .map(|exchange| exchange.answer.field("server").map(str::to_owned));
        assert_eq!(
            servers.each_ref().map(Option::as_deref),
            [Some("istio-envoy"), Some("envoy"), Some("istio-envoy")],
            "{}",
            proxy.program
        );
        if proxy.program == "pillion" {
            let told = |exchange: &Exchange| {
                exchange.received.as_ref().and_then(|head| head.field("x-envoy-expected-rq-timeout-ms").map(str::to_owned))
            };
            assert_eq!((told(&sent_in), told(&sent_out).as_deref()), (None, Some("9000")));
        }
    }
}
