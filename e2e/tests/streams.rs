//! Long streams outlive every push, also those that change their own route, cluster and listener.

use std::{future::ready, time::Duration};

use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use pillion_e2e::{length, mesh::Mesh, workspace};
use pillion_shop::inventory::{StockRequest, inventory_client::InventoryClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;
use tonic::transport::Endpoint;

const SOON: Duration = Duration::from_secs(10);

/// One of `pushes` versions of everything that the two streams run through.
fn edit(push: usize) -> String {
    let timeout = 600 + push;
    let connect = 1000 + push;
    let balancer = ["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"][push % 3];
    let mut text = String::new();
    for service in ["api-gateway", "inventory-service"] {
        text += &format!(
            "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}}}
spec:
  hosts: [{service}]
  http:
  - name: push-{push}
    route:
    - destination: {{host: {service}, subset: s{generation}}}
    timeout: {timeout}s
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}}}
spec:
  host: {service}
  trafficPolicy:
    loadBalancer: {{simple: {balancer}}}
    connectionPool: {{tcp: {{connectTimeout: {connect}ms}}}}
  subsets:
  - name: s{generation}
    labels: {{version: v1}}
",
            generation = push / 2,
        );
    }
    text
}

/// Changes every listener: the access log is part of it.
fn mesh_config(push: usize) -> String {
    let log = if push.is_multiple_of(2) { "/dev/null" } else { "" };
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |-
    accessLogFile: \"{log}\"
    outboundTrafficPolicy: {{mode: ALLOW_ANY}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pushes_cut_neither_a_websocket_nor_a_grpc_stream() {
    let mut mesh = Mesh::start(&workspace().join("examples/shop"), &["--quiet"]).await;
    mesh.apply("edits.yaml", &edit(0)).await;
    let outbound = mesh.outbound("user-v1");

    let stream = TcpStream::connect(&outbound).await.expect("the sidecar listens");
    let (mut socket, _) =
        tokio_tungstenite::client_async("ws://api-gateway/ws/orders", stream).await.expect("an upgrade through the sidecar");

    let mut tunnel = TcpStream::connect(&outbound).await.expect("the sidecar listens");
    tunnel.write_all(b"CONNECT inventory-service:9090 HTTP/1.1\r\nHost: inventory-service:9090\r\n\r\n").await.expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tunnel.read_u8().await.expect("an answer to CONNECT"));
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    let mut tunnel = Some(tunnel);
    // One connection and no second: a stream that was cut cannot hide behind a reconnect.
    let connector =
        tower::service_fn(move |_| ready(tunnel.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("the connection was cut"))));
    let channel =
        Endpoint::from_static("http://inventory-service:9090").connect_with_connector(connector).await.expect("HTTP/2 in the tunnel");
    let (ask, asked) = mpsc::channel(4);
    let mut answers =
        InventoryClient::new(channel).converse(ReceiverStream::new(asked)).await.expect("a stream in both directions").into_inner();

    for push in 1..=length(500).max(100) {
        if push % 5 == 0 {
            mesh.apply("mesh/mesh-config.yaml", &mesh_config(push)).await;
        } else {
            mesh.apply("edits.yaml", &edit(push)).await;
        }
        let text = format!("after push {push}");
        socket.send(Message::text(text.clone())).await.unwrap_or_else(|error| panic!("push {push} cut the WebSocket: {error}"));
        let echo = tokio::time::timeout(SOON, socket.next()).await.unwrap_or_else(|_| panic!("push {push} silenced the WebSocket"));
        let echo = echo.expect("an open socket").unwrap_or_else(|error| panic!("push {push} cut the WebSocket: {error}"));
        assert_eq!(echo.into_text().expect("text").as_str(), text);
        ask.send(StockRequest { product: format!("p{push}") }).await.unwrap_or_else(|_| panic!("push {push} cut the gRPC stream"));
        let answer = tokio::time::timeout(SOON, answers.message()).await.unwrap_or_else(|_| panic!("push {push} silenced the gRPC stream"));
        let answer = answer.unwrap_or_else(|status| panic!("push {push} cut the gRPC stream: {status}")).expect("an open stream");
        assert_eq!(answer.product, format!("p{push}"));
    }
}
