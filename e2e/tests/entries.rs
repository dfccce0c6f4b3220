//! ServiceEntries of every resolution, served by our own proxy and by a stock Envoy from the same translation: both find the same servers
//! under the same rules.
//!
//! In:  ServiceEntries and WorkloadEntries over two servers on the loopback, by names below `localhost`, which need no name server; `envoy`,
//!      without which our own proxy is looked at alone.
//! Out: who answered, and what had reached it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use pillion_e2e::{
    client::{self, Answer, Client},
    eventually, from_files,
    planes::free_address,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Child,
};

const WITHIN: Duration = Duration::from_secs(30);

/// Answers every request with its own name and the head that it read.
async fn server(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(name, stream));
        }
    });
    port
}

async fn answer(name: &str, mut stream: TcpStream) {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        read.extend_from_slice(&buffer[..count]);
        while let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
            let reply = format!("HTTP/1.1 200 OK\r\nx-server: {name}\r\ncontent-length: {}\r\n\r\n{head}", head.len());
            if stream.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
            read.drain(..end + 4);
        }
    }
}

/// One service per way of finding its servers. A request's own authority says the port where the proxy resolves it.
fn mesh(one: u16, two: u16) -> String {
    let entry = |name: &str, hosts: &str, rest: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{hosts: ['{hosts}'], location: MESH_INTERNAL, {rest}}}\n---\n"
        )
    };
    let port = |number: u16| format!("ports: [{{number: {number}, name: http, protocol: HTTP}}]");
    let marked = |name: &str, host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {{hosts: ['{host}'], http: [{{match: [{{uri: {{prefix: /gone}}}}], directResponse: {{status: 410}}}}, {{route: [{{destination: {{host: '{host}'}}}}], headers: {{request: {{set: {{x-ruled: {name}}}}}}}}}]}}\n---\n"
        )
    };
    let workload = |name: &str, address: &str, port: u16, version: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\nspec: {{address: {address}, ports: {{http: {port}}}, labels: {{app: {version}}}}}\n---\n"
        )
    };
    let both = format!("endpoints: [{{address: localhost, ports: {{http: {one}}}}}, {{address: b.localhost, ports: {{http: {two}}}}}]");
    let text = [
        "apiVersion: pillion.io/v1alpha1\nkind: Workload\nmetadata: {name: client}\nspec: {}\n---\n".to_owned(),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}\n---\n".to_owned(),
        entry("none", "*.none.localhost", &format!("resolution: NONE, {}", port(one))),
        marked("none", "*.none.localhost"),
        entry("exact", "exact.localhost", &format!("resolution: NONE, {}", port(two))),
        entry("dynamic", "*.dynamic.localhost", &format!("resolution: DYNAMIC_DNS, {}", port(two))),
        marked("dynamic", "*.dynamic.localhost"),
        entry("bare", "bare.localhost", &format!("resolution: DNS, {}", port(one))),
        entry("dns", "dns.example", &format!("resolution: DNS, {}, {both}", port(80))),
        marked("dns", "dns.example"),
        entry(
            "round",
            "round.example",
            &format!("resolution: DNS_ROUND_ROBIN, {}, endpoints: [{{address: c.localhost, ports: {{http: {two}}}}}]", port(80)),
        ),
        entry("vms", "vms.example", &format!("resolution: STATIC, {}, workloadSelector: {{labels: {{app: vm}}}}", port(80))),
        entry("names", "names.example", &format!("resolution: DNS, {}, workloadSelector: {{labels: {{app: name}}}}", port(80))),
        "apiVersion: v1\nkind: Service\nmetadata: {name: vms}\nspec: {selector: {app: vm}, ports: [{name: http, port: 80}]}\n---\n".to_owned(),
        workload("vm", "127.0.0.1", two, "vm"),
        workload("name", "d.localhost", one, "name"),
    ];
    text.concat()
}

/// A proxy that runs from a folder of files.
struct FromFiles {
    name: &'static str,
    out: PathBuf,
    outbound: String,
    admin: String,
    _child: Child,
}

impl FromFiles {
    async fn start(name: &'static str, program: &Path, home: &Path) -> Self {
        let out = home.join(name);
        let (outbound, admin) = (free_address().await, free_address().await);
        let placed = ["--workload", "default/client", "--outbound", &outbound, "--admin", &admin].map(str::to_owned);
        from_files::translate(&home.join("mesh"), &out, &placed).await;
        let child = from_files::run(name, program, &out, Stdio::null());
        Self { name, out, outbound, admin, _child: child }
    }

    fn says(&self) -> String {
        from_files::says(&self.out)
    }

    async fn ask(&self, url: &str) -> Answer {
        Client::new(&self.outbound).get(url).await.unwrap_or_else(|error| panic!("{}: {url}: {error}\n{}", self.name, self.says()))
    }

    /// Everybody who answers in so many requests.
    async fn servers(&self, url: &str, requests: usize) -> BTreeSet<String> {
        let mut client = Client::new(&self.outbound);
        let mut seen = BTreeSet::new();
        for _ in 0..requests {
            let answer = client.get(url).await.unwrap_or_else(|error| panic!("{}: {url}: {error}", self.name));
            seen.insert(answer.header("x-server").to_owned());
        }
        seen
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_and_our_proxy_find_the_servers_of_every_resolution_alike() {
    let (one, two) = (server("one").await, server("two").await);
    let home = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(home.path().join("mesh")).expect("writable");
    fs::write(home.path().join("mesh/mesh.yaml"), mesh(one, two)).expect("writable");

    // Who answers, with which rule's mark, under which host.
    let cases = [
        (format!("http://a.none.localhost:{one}/"), 200, "one", "none"),
        (format!("http://b.c.none.localhost:{one}/x"), 200, "one", "none"),
        (format!("http://a.none.localhost:{one}/gone"), 410, "", ""),
        (format!("http://exact.localhost:{two}/"), 200, "two", ""),
        (format!("http://a.dynamic.localhost:{two}/"), 200, "two", "dynamic"),
        (format!("http://a.dynamic.localhost:{two}/gone"), 410, "", ""),
        (format!("http://bare.localhost:{one}/"), 200, "one", ""),
        ("http://round.example/".to_owned(), 200, "two", ""),
        ("http://vms.example/".to_owned(), 200, "two", ""),
        ("http://vms/".to_owned(), 200, "two", ""),
        ("http://names.example/".to_owned(), 200, "one", ""),
        // Nobody's hosts, and a port that the entry does not have.
        (format!("http://a.other.localhost:{one}/"), 502, "", ""),
        (format!("http://none.localhost:{one}/"), 502, "", ""),
        (format!("http://a.none.localhost:{two}/"), 502, "", ""),
    ];
    for (name, program) in from_files::programs() {
        let proxy = FromFiles::start(name, &program, home.path()).await;
        eventually(&format!("{name} listens:\n{}", proxy.says()), WITHIN, || async {
            let answer = Client::new(&proxy.outbound).get("http://round.example/").await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        for (url, status, server, mark) in &cases {
            let answer = proxy.ask(url).await;
            assert_eq!((answer.status.as_u16(), answer.header("x-server")), (*status, *server), "{name}: {url}: {}", answer.text());
            if !server.is_empty() {
                let head = answer.text();
                let host = url.split('/').nth(2).expect("an authority");
                assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{name}: {url}: {head}");
                let marked = head.lines().find_map(|line| line.strip_prefix("x-ruled: ")).unwrap_or_default();
                assert_eq!(marked, *mark, "{name}: {url}: {head}");
            }
        }
        let all = eventually(&format!("{name} has both names of dns.example"), WITHIN, || async {
            let seen = proxy.servers("http://dns.example/", 40).await;
            (seen.len() == 2).then_some(seen)
        })
        .await;
        assert_eq!(all, BTreeSet::from(["one".to_owned(), "two".to_owned()]), "{name}");
        // What is resolved per request counts under the name of its service.
        let (page, service) = match name {
            "envoy" => ("/stats", format!("cluster.outbound|{one}||*.none.localhost.upstream_rq_total: ")),
            _ => ("/stats/prometheus", "*.none.localhost".to_owned()),
        };
        eventually(&format!("{name} counts under {service}"), WITHIN, || async {
            let stats = client::get(&proxy.admin, page).await.text();
            stats.lines().any(|line| line.contains(&service) && !line.ends_with(" 0")).then_some(())
        })
        .await;
    }
}
