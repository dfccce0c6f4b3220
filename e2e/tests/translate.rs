//! One translation, two proxies: what `pillion translate` writes starts a stock Envoy and our own proxy, both answer the same, and both
//! follow when it is written again.
//!
//! In:  examples, run by `pillion run` for their programs; `envoy`, without which our own proxy is looked at alone.
//! Out: equal answers, shares and addresses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use http::Method;
use pillion_e2e::{
    client::{self, Answer, Client},
    eventually, from_files,
    mesh::{Mesh, write_by_rename},
    planes::free_address,
};
use tempfile::TempDir;
use tokio::process::Child;

const WITHIN: Duration = Duration::from_secs(30);

/// A proxy that runs from a folder of files.
struct FromFiles {
    name: &'static str,
    out: PathBuf,
    outbound: String,
    inbound: String,
    admin: String,
    _child: Child,
}

/// What the visitor's proxy is told, for as many proxies as there are.
struct Bench {
    mesh: Mesh,
    ready: PathBuf,
    proxies: Vec<FromFiles>,
    _home: TempDir,
}

impl Bench {
    async fn start(example: &str) -> Self {
        let mesh = Mesh::example(example).await;
        let home = tempfile::tempdir().expect("a temporary folder");
        let ready = home.path().join("ready.json");
        fs::write(&ready, format!("{}\n", mesh.ready)).expect("writable");
        let mut bench = Self { mesh, ready, proxies: Vec::new(), _home: home };
        for (name, program) in from_files::programs() {
            let proxy = bench.proxy(name, &program).await;
            bench.proxies.push(proxy);
        }
        for proxy in &bench.proxies {
            eventually(&format!("{} listens:\n{}", proxy.name, proxy.says()), WITHIN, || async {
                Client::new(&proxy.outbound).get("http://product-service/api/products/7").await.ok()
            })
            .await;
        }
        bench
    }

    async fn proxy(&self, name: &'static str, program: &Path) -> FromFiles {
        let out = self._home.path().join(name);
        let (outbound, inbound, admin) = (free_address().await, free_address().await, free_address().await);
        self.translate(&out, &outbound, &inbound, &admin).await;
        let child = from_files::run(name, program, &out, Stdio::null());
        FromFiles { name, out, outbound, inbound, admin, _child: child }
    }

    async fn translate(&self, out: &Path, outbound: &str, inbound: &str, admin: &str) {
        let (inbound, ready) = (format!("http={inbound}"), self.ready.to_string_lossy());
        let placed =
            ["--workload", "default/visitor", "--outbound", outbound, "--admin", admin, "--inbound", &inbound, "--endpoints", &ready];
        from_files::translate(&self.mesh.dir, out, &placed.map(str::to_owned)).await;
    }

    /// Changes a file of the mesh and translates again for every proxy.
    async fn edit(&self, file: &str, edits: &[(&str, &str)]) {
        let mut text = self.mesh.read(file);
        for (from, to) in edits {
            assert!(text.contains(from), "{from} in {file}");
            text = text.replace(from, to);
        }
        self.mesh.write(file, &text);
        for proxy in &self.proxies {
            self.translate(&proxy.out, &proxy.outbound, &proxy.inbound, &proxy.admin).await;
        }
    }
}

impl FromFiles {
    fn says(&self) -> String {
        from_files::says(&self.out)
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = Client::new(&self.outbound).call(Method::GET, &format!("http://product-service{path}"), headers, "").await;
        answer.unwrap_or_else(|error| panic!("{}: {error}\n{}", self.name, self.says()))
    }

    /// How many of so many requests release v2 answers.
    async fn share(&self, requests: usize) -> usize {
        let mut client = Client::new(&self.outbound);
        let mut second = 0;
        for _ in 0..requests {
            let answer = client.get("http://product-service/api/products/7").await;
            let answer = answer.unwrap_or_else(|error| panic!("{}: {error}\n{}", self.name, self.says()));
            assert_eq!(answer.status, 200, "{}: {}", self.name, answer.text());
            second += usize::from(answer.json()["release"] == "v2");
        }
        second
    }
}

/// What both must agree on.
fn essence(answer: &Answer) -> (u16, String, String) {
    let said = if answer.status == 200 { answer.json()["release"].to_string() } else { answer.text() };
    (answer.status.as_u16(), answer.header("x-release").to_owned(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_and_our_proxy_share_traffic_alike_from_the_same_files_and_follow_an_edit() {
    let bench = Bench::start("canary").await;
    for proxy in &bench.proxies {
        let second = proxy.share(200).await;
        // 10 % of 200: five standard deviations to either side.
        assert!((1..=42).contains(&second), "{}: {second} of 200", proxy.name);
        let inbound = client::get(&proxy.inbound, "/healthz").await;
        assert_eq!(inbound.status, 200, "{}: the way in", proxy.name);
    }
    bench.edit("routes.yaml", &[("weight: 90", "weight: 0"), ("weight: 10", "weight: 100")]).await;
    for proxy in &bench.proxies {
        eventually(&format!("{} follows:\n{}", proxy.name, proxy.says()), WITHIN, || async { (proxy.share(10).await == 10).then_some(()) })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_and_our_proxy_route_alike_from_the_same_files_and_follow_an_edit() {
    const REQUESTS: &[(&str, &[(&str, &str)])] = &[
        ("/api/products/7", &[]),
        ("/api/products/7", &[("x-user", "tester")]),
        ("/api/products/7", &[("x-user", "testers")]),
        ("/api/products/7", &[("cookie", "a=b; release=v2; c=d")]),
        ("/api/products/7", &[("cookie", "release=v21")]),
        ("/api/products/7?release=v2", &[]),
        ("/api/products/7?release=v3", &[]),
        ("/catalogue/7", &[]),
        ("/catalogue", &[]),
        ("/admin", &[]),
        ("/admin/", &[]),
        ("/nowhere", &[]),
    ];
    let bench = Bench::start("header-routing").await;
    let mut seen = Vec::new();
    for round in 0..2 {
        let mut all = Vec::new();
        for (path, headers) in REQUESTS {
            let mut answers = Vec::new();
            for proxy in &bench.proxies {
                answers.push((proxy.name, essence(&proxy.ask(path, headers).await)));
            }
            let (_, first) = answers[0].clone();
            assert!(answers.iter().all(|(_, answer)| *answer == first), "round {round}, {path} {headers:?}: {answers:?}");
            all.push(first);
        }
        seen.push(all);
        if round == 0 {
            bench.edit("routes.yaml", &[("status: 403", "status: 410"), ("exact: tester", "exact: friend")]).await;
            for proxy in &bench.proxies {
                eventually(&format!("{} follows:\n{}", proxy.name, proxy.says()), WITHIN, || async {
                    (proxy.ask("/admin", &[]).await.status == 410).then_some(())
                })
                .await;
            }
        }
    }
    assert_eq!(seen[0][1], (200, "v2".to_owned(), "\"v2\"".to_owned()), "a tester");
    assert_eq!((seen[1][1].2.as_str(), seen[0][9].0, seen[1][9].0), ("\"v1\"", 403, 410));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_and_our_proxy_see_what_a_sidecar_shows_and_take_requests_where_it_says() {
    let bench = Bench::start("canary").await;
    // The visitor's own program would ask either release.
    let application = bench.mesh.app("product-v2", "http");
    let hidden = "apiVersion: v1\nkind: Service\nmetadata: {name: hidden, namespace: far}\nspec: {ports: [{name: http, port: 80}]}\n---\n";
    let sidecar = format!(
        "{hidden}apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: visitor}}\nspec:\n  \
         workloadSelector: {{labels: {{app: visitor}}}}\n  egress: [{{hosts: [\"./*\"]}}]\n  outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}\n  \
         ingress: [{{port: {{number: 9080, protocol: HTTP, name: http}}, defaultEndpoint: \"{application}\"}}]\n"
    );
    let answers = async |proxy: &FromFiles| {
        let status = async |url: &str| Client::new(&proxy.outbound).get(url).await.map(|answer| answer.status.as_u16());
        let mut second = 0;
        for _ in 0..8 {
            second += usize::from(client::get(&proxy.inbound, "/api/products/7").await.text().contains("\"v2\""));
        }
        (status("http://hidden.far/").await, status("http://product-service/api/products/7").await, second == 8)
    };
    for (text, want) in [(hidden, (Ok(503), Ok(200), false)), (&sidecar, (Ok(502), Ok(200), true))] {
        bench.mesh.write("sidecar.yaml", text);
        for proxy in &bench.proxies {
            bench.translate(&proxy.out, &proxy.outbound, &proxy.inbound, &proxy.admin).await;
            eventually(&format!("{} answers {want:?}:\n{}", proxy.name, proxy.says()), WITHIN, || async {
                (answers(proxy).await == want).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_broken_or_has_what_we_lack_keeps_the_last_good_version_in_force() {
    let bench = Bench::start("canary").await;
    let proxy = &bench.proxies[0];
    let dump = async |query: &str| client::get(&proxy.admin, &format!("/config_dump{query}")).await.json();
    let listeners = fs::read_to_string(proxy.out.join("lds.yaml")).expect("written");

    // One resource that cannot be had: refused by name, the others as written.
    let unsupported = listeners.replace("name: envoy.filters.http.fault", "name: envoy.filters.http.lua");
    let unsupported =
        unsupported.replace("extensions.filters.http.fault.v3.HTTPFault", "extensions.filters.http.jwt_authn.v3.JwtAuthentication");
    assert_ne!(unsupported, listeners);
    write_by_rename(&proxy.out.join("lds.yaml"), &unsupported);
    let refused = eventually("the dump shows what is refused", WITHIN, || async {
        let found = dump("?resource=dynamic_listeners&name_regex=http_proxy").await["configs"][0].clone();
        found["error_state"].is_object().then_some(found)
    })
    .await;
    assert_eq!(refused["client_status"], "NACKED");
    assert!(refused["error_state"]["details"].as_str().is_some_and(|details| details.contains("http_filters[0]")), "{refused}");
    assert!(refused["error_state"]["failed_configuration"].to_string().contains("jwt_authn"), "{refused}");
    assert!(refused["active_state"]["listener"].to_string().contains("HTTPFault"), "{refused}");
    proxy.share(5).await;

    // A file that is none.
    write_by_rename(&proxy.out.join("lds.yaml"), "resources: [");
    eventually("readiness says it", WITHIN, || async {
        client::get(&proxy.admin, "/ready").await.text().contains("lds.yaml: line 1").then_some(())
    })
    .await;
    proxy.share(5).await;

    write_by_rename(&proxy.out.join("lds.yaml"), &listeners);
    eventually("all is well again", WITHIN, || async {
        let ready = client::get(&proxy.admin, "/ready").await.text() == "LIVE\n";
        (ready && !dump("").await.to_string().contains("error_state")).then_some(())
    })
    .await;
}
