//! A control plane that nobody here wrote feeds our proxy: what the proxy does not do is refused by its field, and nothing else is disturbed.

use std::{process::Stdio, time::Duration};

use pillion_e2e::{client::Client, eventually, peers, planes::Planes, planes::free_port, workspace};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
};

const SOON: Duration = Duration::from_secs(30);

struct Stranger {
    _child: Child,
    orders: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Stranger {
    async fn line(&mut self) -> Value {
        let line = tokio::time::timeout(SOON, self.says.next_line()).await.expect("the control plane says something in time");
        let line = line.expect("a line").expect("the control plane runs");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Orders a step; the proxy's answers to it, clusters first. An answer without a NACK is empty.
    async fn step(&mut self, step: u64) -> [String; 2] {
        if step > 1 {
            self.orders.write_all(format!("{step}\n").as_bytes()).await.expect("the control plane reads");
        }
        let mut answers = [None, None];
        while answers.iter().any(Option::is_none) {
            let said = self.line().await;
            if said["step"] == step {
                let place = usize::from(said["type"] == "Listener");
                answers[place] = Some(said["nack"].as_str().unwrap_or_default().to_owned());
            }
        }
        answers.map(Option::unwrap_or_default)
    }
}

/// Answers everybody the same; its port.
async fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (reader, mut writer) = stream.split();
                let mut lines = BufReader::new(reader).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line.is_empty() {
                        writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi\n").await?;
                    }
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    port
}

async fn mark(client: &mut Client) -> String {
    let answer = client.get("/").await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-mark").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_foreign_control_plane_asks_in_vain_is_named_and_the_rest_is_served() {
    let Some(python) = peers::python_with("envoy.service.discovery.v3.ads_pb2_grpc") else { return };
    let (front, second) = (free_port().await, free_port().await);
    let ports = [backend().await, front, second].map(|port| port.to_string());
    let script = workspace().join("e2e/tests/foreign_control_plane.py");
    let mut child = Command::new(python)
        .arg(script)
        .args(ports)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Python starts");
    let says = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut stranger = Stranger { orders: child.stdin.take().expect("piped"), _child: child, says };
    let xds = stranger.line().await["xds"].as_u64().expect("a port");

    let mut planes = Planes::new().await;
    planes.xds = format!("127.0.0.1:{xds}");
    let _proxy = planes.proxy(&planes.sidecar("guest").await);
    assert_eq!(stranger.step(1).await, ["", ""], "{}", planes.logs());
    // The first configuration is in force when it is complete: the other types are answered last.
    let address = format!("127.0.0.1:{front}");
    eventually("the first configuration is in force", SOON, async || Client::new(&address).get("/").await.ok()).await;
    let mut kept = Client::new(&address);
    assert_eq!(mark(&mut kept).await, "one");

    let [clusters, listeners] = stranger.step(2).await;
    assert_eq!(clusters, "sharded: lb_policy: MAGLEV is not supported");
    assert!(listeners.starts_with("second: ") && listeners.contains("http_filters[0]") && listeners.contains("ext_authz"), "{listeners}");
    assert_eq!(mark(&mut kept).await, "two", "the good listener of the same response is in force, on the same connection");

    let [clusters, listeners] = stranger.step(3).await;
    assert_eq!(clusters, "");
    assert!(listeners.starts_with("front: ") && listeners.contains("request_mirror_policies[0].cluster_header"), "{listeners}");
    assert_eq!(mark(&mut kept).await, "two", "the last good version serves on");
    assert_eq!(mark(&mut Client::new(&format!("127.0.0.1:{second}"))).await, "three");

    assert_eq!(stranger.step(4).await, ["", ""]);
    assert_eq!(mark(&mut kept).await, "four");
}
