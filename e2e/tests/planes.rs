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
use pillion_e2e::{
    client,
    client::Client,
    eventually,
    planes::{Planes, Sidecar},
};
use tokio::{net::TcpListener, process::Command};

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

async fn obeys(planes: &Planes, sidecar: &Sidecar, mark: &str) {
    let begun = Instant::now();
    loop {
        let answer = Client::new(&sidecar.outbound).get("http://hello.example/").await;
        match answer {
            Ok(answer) if answer.status == StatusCode::OK && answer.header("x-mark") == mark => return,
            other => assert!(begun.elapsed() < SOON, "no {mark}: {other:?}\n{}", planes.logs()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_notices_that_the_control_plane_was_killed_and_came_back() {
    let backend = backend().await;
    let planes = Planes::new().await;
    planes.write("hello.yaml", &yaml(backend, "one"));
    let sidecar = planes.sidecar("hello-client").await;
    let mut control = planes.control_plane();
    let mut proxy = planes.proxy(&sidecar);
    obeys(&planes, &sidecar, "one").await;
    eventually("the proxy keeps a copy of its configuration", SOON, || async {
        fs::read_dir(planes.path("state-hello-client")).ok()?.next().map(|_| ())
    })
    .await;

    control.kill().await.expect("the control plane dies");
    let mut kept = Client::new(&sidecar.outbound);
    for _ in 0..100 {
        let answer = kept.get("http://hello.example/").await.expect("an answer without a control plane");
        assert_eq!(answer.status, StatusCode::OK);
    }

    // A proxy that starts while the control plane is away serves its last good configuration and says that it is old.
    proxy.kill().await.expect("the proxy dies");
    let _proxy = planes.proxy(&sidecar);
    obeys(&planes, &sidecar, "one").await;
    let stale = || async {
        let text = client::get(&sidecar.admin, "/stats/prometheus").await.text();
        text.lines().find(|line| line.starts_with("pillion_config_stale")).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    assert_eq!(stale().await, Some(1.0), "the gauge says that the configuration is from disk");

    planes.write("hello.yaml", &yaml(backend, "two"));
    let _control = planes.control_plane();
    obeys(&planes, &sidecar, "two").await;
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
