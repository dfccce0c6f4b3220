//! The shop as somebody meets it who has just cloned the repository.

use std::{path::Path, time::Duration};

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use pillion_e2e::{client, eventually, mesh::Mesh, metrics};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

const SOON: Duration = Duration::from_secs(10);

fn pids(mesh: &Mesh) -> Vec<u64> {
    let workloads = mesh.ready["workloads"].as_array().expect("a list");
    workloads.iter().flat_map(|workload| [workload["pid"].as_u64(), workload["proxy_pid"].as_u64()]).flatten().collect()
}

fn alive(pid: u64) -> bool {
    // A zombie is gone for our purposes: its parent has not looked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_starts_serves_orders_and_leaves_nothing_behind() {
    let mesh = Mesh::example("shop").await;
    if pillion_e2e::optimised() {
        assert!(mesh.started_in < Duration::from_secs(5), "ready after {:?}", mesh.started_in);
    }
    let workloads = mesh.ready["workloads"].as_array().expect("a list");
    assert_eq!(workloads.iter().filter(|workload| workload["pid"].is_u64()).count(), 9, "nine programs run: {}", mesh.ready);
    assert!(workloads.iter().all(|workload| workload["proxy_pid"].is_u64()), "each has a sidecar of its own: {}", mesh.ready);

    let product = client::get(&mesh.gateway(), "/api/products/7").await;
    assert_eq!((product.status, product.json()["id"].as_u64()), (StatusCode::OK, Some(7)), "{}", product.text());

    // Seven services and both HTTP and gRPC stand behind one order.
    let order = client::post(&mesh.gateway(), "/api/orders", r#"{"product":"bell","quantity":2}"#).await;
    assert_eq!(order.status, StatusCode::CREATED, "{}", order.text());
    let order = order.json();
    assert_eq!(
        (&order["state"], &order["payment"], &order["shipment"]),
        (&"placed".into(), &"paid".into(), &"on its way".into()),
        "{order}"
    );

    metrics_name_both_ends(&mesh).await;
    websocket_tells_orders(&mesh).await;

    let pids = pids(&mesh);
    let ports = [mesh.gateway(), mesh.outbound("order-v1"), mesh.admin("order-v1")];
    assert_eq!(mesh.interrupt().await, Some(0), "Ctrl-C is an orderly end");
    for pid in pids {
        assert!(!alive(pid), "process {pid} outlived the mesh");
    }
    for port in ports {
        assert!(TcpStream::connect(&port).await.is_err(), "{port} is still served");
    }
}

/// Both sidecars of a call count it, each with both ends' names.
async fn metrics_name_both_ends(mesh: &Mesh) {
    let labels = [
        ("source_workload", "order-v1"),
        ("destination_workload", "payment-v1"),
        ("destination_service", "payment-service.default.svc.cluster.local"),
        ("response_code", "201"),
        ("request_protocol", "http"),
    ];
    for (workload, reporter) in [("order-v1", "source"), ("payment-v1", "destination")] {
        let admin = mesh.admin(workload);
        eventually(&format!("{workload} counts the payment as {reporter}"), SOON, || async {
            let text = client::get(&admin, "/stats/prometheus").await.text();
            let with = [&labels[..], &[("reporter", reporter)]].concat();
            (metrics::sum(&text, "istio_requests_total", &with) >= 1.0).then_some(())
        })
        .await;
    }
    let text = client::get(&mesh.admin("order-v1"), "/stats/prometheus").await.text();
    let grpc = [("request_protocol", "grpc"), ("grpc_response_status", "0"), ("destination_workload", "inventory-v1")];
    assert!(metrics::sum(&text, "istio_requests_total", &grpc) >= 1.0, "the call to the stock is gRPC:\n{text}");
}

async fn websocket_tells_orders(mesh: &Mesh) {
    let stream = TcpStream::connect(mesh.gateway()).await.expect("the gateway listens");
    let (mut socket, _) = tokio_tungstenite::client_async("ws://shop.example/ws/orders", stream).await.expect("an upgrade");
    socket.send(Message::text("hello")).await.expect("an open socket");
    client::post(&mesh.gateway(), "/api/orders", r#"{"product":"lamp","quantity":1}"#).await;
    let (mut echoed, mut told) = (false, false);
    while !(echoed && told) {
        let message =
            tokio::time::timeout(SOON, socket.next()).await.expect("an event in time").expect("an open socket").expect("a message");
        let text = message.into_text().expect("text");
        echoed |= text.as_str() == "hello";
        told |= serde_json::from_str::<Value>(text.as_str()).is_ok_and(|event| event["status"] == 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_makes_fifty_requests_a_second_by_itself_and_none_when_quiet() {
    for (arguments, least, most) in [(&[][..], 50.0, 1000.0), (&["--quiet"][..], 0.0, 1.0)] {
        let mesh = Mesh::start(&pillion_e2e::workspace().join("examples/shop"), arguments).await;
        let admin = mesh.admin("api-gateway-v1");
        let count = || async {
            metrics::sum(&client::get(&admin, "/stats/prometheus").await.text(), "istio_requests_total", &[("reporter", "source")])
        };
        let (first, begun) = (count().await, tokio::time::Instant::now());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let rate = (count().await - first) / begun.elapsed().as_secs_f64();
        assert!((least..=most).contains(&rate), "{rate} requests/s with {arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_comes_back_on_its_ports_and_a_killed_mesh_takes_its_children_along() {
    let mesh = Mesh::start(&pillion_e2e::workspace().join("examples/canary"), &[]).await;
    let (outbound, proxy) = (mesh.outbound("visitor"), mesh.workload("visitor")["proxy_pid"].as_u64().expect("a process"));
    kill("-KILL", proxy).await;
    eventually("the sidecar serves again on the same address", SOON, || async {
        let answer = client::Client::new(&outbound).get("http://product-service/api/products/1").await;
        answer.ok().filter(|answer| answer.status == StatusCode::OK)
    })
    .await;

    let children: Vec<_> = children_of(mesh.pid());
    assert!(children.len() >= 6, "three programs, three sidecars: {children:?}");
    kill("-KILL", u64::from(mesh.pid())).await;
    eventually("no child outlives a killed mesh", SOON, || async { children.iter().all(|pid| !alive(*pid)).then_some(()) }).await;
}

async fn kill(signal: &str, pid: u64) {
    let status = tokio::process::Command::new("kill").args([signal, &pid.to_string()]).status().await;
    assert!(status.is_ok_and(|status| status.success()), "kill {signal} {pid}");
}

fn children_of(pid: u32) -> Vec<u64> {
    let tasks = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).expect("the mesh runs");
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
