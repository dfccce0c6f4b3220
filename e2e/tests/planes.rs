//! The planes as processes of their own: the proxy outlives its control plane, and says so.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use pillion_e2e::{client, client::Client, eventually, mesh::write_by_rename};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
};

const SOON: Duration = Duration::from_secs(20);

async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello\n")))) });
            tokio::spawn(async move { auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await });
        }
    });
    address
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn yaml(backend: SocketAddr, mark: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: hello}}
spec:
  hosts: [hello.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: {}, ports: {{http: {}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: hello}}
spec:
  hosts: [hello.example]
  http:
  - headers: {{response: {{set: {{x-mark: {mark}}}}}}}
    route: [{{destination: {{host: hello.example}}}}]
",
        backend.ip(),
        backend.port()
    )
}

struct Planes {
    home: tempfile::TempDir,
    xds: String,
    api: String,
    proxy_port: u16,
    admin: String,
}

impl Planes {
    async fn new(backend: SocketAddr) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(home.path().join("config")).expect("a fresh folder");
        fs::write(home.path().join("config/hello.yaml"), yaml(backend, "one")).expect("writable");
        let address = |port: u16| format!("127.0.0.1:{port}");
        Self {
            home,
            xds: address(free_port().await),
            api: address(free_port().await),
            proxy_port: free_port().await,
            admin: address(free_port().await),
        }
    }

    fn spawn(&self, binary: &str, arguments: &[&str]) -> Child {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.home.path().join(format!("{binary}.log"))).expect("a log file");
        let child = Command::new(pillion_e2e::binary(binary))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        child.expect("the binary starts")
    }

    fn control_plane(&self) -> Child {
        let config = self.path("config");
        self.spawn("pillion-control-plane", &["--config", &config, "--xds", &self.xds, "--api", &self.api, "--metrics", "127.0.0.1:0"])
    }

    fn proxy(&self) -> Child {
        let (state, port) = (self.path("state"), self.proxy_port.to_string());
        let arguments = [
            "--xds",
            &self.xds,
            "--name",
            "hello-client-0",
            "--namespace",
            "default",
            "--workload",
            "hello-client",
            "--http-proxy-port",
            &port,
            "--admin",
            &self.admin,
            "--status",
            "127.0.0.1:0",
            "--state-dir",
            &state,
        ];
        self.spawn("pillion-proxy", &arguments)
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).to_string_lossy().into_owned()
    }

    fn log(&self, binary: &str) -> String {
        fs::read_to_string(self.home.path().join(format!("{binary}.log"))).unwrap_or_default()
    }

    async fn obeys(&self, mark: &str) {
        let proxy = format!("127.0.0.1:{}", self.proxy_port);
        let begun = Instant::now();
        loop {
            let answer = Client::new(&proxy).get("http://hello.example/").await;
            match answer {
                Ok(answer) if answer.status == StatusCode::OK && answer.header("x-mark") == mark => return,
                other => {
                    assert!(
                        begun.elapsed() < SOON,
                        "no {mark}: {other:?}\n{}\n{}",
                        self.log("pillion-proxy"),
                        self.log("pillion-control-plane")
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_notices_that_the_control_plane_was_killed_and_came_back() {
    let backend = backend().await;
    let planes = Planes::new(backend).await;
    let mut control = planes.control_plane();
    let mut proxy = planes.proxy();
    planes.obeys("one").await;
    eventually("the proxy keeps a copy of its configuration", SOON, || async {
        fs::read_dir(planes.path("state")).ok()?.next().map(|_| ())
    })
    .await;

    control.kill().await.expect("the control plane dies");
    let address = format!("127.0.0.1:{}", planes.proxy_port);
    let mut kept = Client::new(&address);
    for _ in 0..100 {
        let answer = kept.get("http://hello.example/").await.expect("an answer without a control plane");
        assert_eq!(answer.status, StatusCode::OK);
    }

    // A proxy that starts while the control plane is away serves its last good configuration and says that it is old.
    proxy.kill().await.expect("the proxy dies");
    let _proxy = planes.proxy();
    planes.obeys("one").await;
    let stale = || async {
        let text = client::get(&planes.admin, "/stats/prometheus").await.text();
        text.lines().find(|line| line.starts_with("pillion_config_stale")).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    assert_eq!(stale().await, Some(1.0), "the gauge says that the configuration is from disk");

    write_by_rename(&planes.home.path().join("config/hello.yaml"), &yaml(backend, "two"));
    let _control = planes.control_plane();
    planes.obeys("two").await;
    eventually("the gauge says that the configuration is fresh", SOON, || async { (stale().await == Some(0.0)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_an_error_that_says_whose_it_is() {
    let holder = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let taken = holder.local_addr().expect("an address").to_string();
    let home = tempfile::tempdir().expect("a temporary folder");
    let config = home.path().to_string_lossy().into_owned();
    let output = Command::new(pillion_e2e::binary("pillion-control-plane"))
        .args(["--config", &config, "--xds", &taken, "--api", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
        .output();
    let output = tokio::time::timeout(SOON, output).await.expect("it ends").expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let pid = std::process::id().to_string();
    assert!(said.contains(&taken) && said.contains(&pid), "names the port {taken} and the holder {pid}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_are_not_enforced_stop_the_control_plane_unless_allowed() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}\n";
    fs::write(home.path().join("strict.yaml"), strict).expect("writable");
    let start = |more: &'static [&'static str]| {
        let mut command = Command::new(pillion_e2e::binary("pillion-control-plane"));
        command
            .arg("--config")
            .arg(home.path())
            .args(["--xds", "127.0.0.1:0", "--api", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .args(more);
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    };
    let refused = tokio::time::timeout(SOON, start(&[]).output()).await.expect("it ends").expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("PeerAuthentication") && said.contains("strict.yaml") && said.contains("--allow-unenforced"), "{said}");

    let mut allowed = start(&["--allow-unenforced"]).spawn().expect("it starts");
    let ended = tokio::time::timeout(Duration::from_secs(2), allowed.wait()).await;
    assert!(ended.is_err(), "it runs when allowed: {ended:?}");
    assert!(Path::new("/proc").join(allowed.id().unwrap_or_default().to_string()).exists());
}
