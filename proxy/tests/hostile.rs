//! Requests and responses made to be misunderstood: what one reader takes for a body, another for the next message.

#![allow(clippy::unwrap_used)] // Helpers are test code too.

mod path_support;

use path_support::*;
use pillion_proxy::config::cluster::{ClusterKind, UpstreamProtocol};
use pillion_proxy::config::listener::HttpManager;
use pillion_proxy::config::route_table::{DirectResponse, PathMatch, RouteAction};
use tokio::io::AsyncWriteExt;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const H1: UpstreamProtocol = UpstreamProtocol::Http1;

/// Send bytes and read to the end of the connection.
async fn all_of(proxy: &Proxy, request: &str) -> String {
    let mut stream = proxy.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

#[tokio::test]
async fn heads_with_two_meanings_are_refused_and_end_the_connection() {
    let upstream = Upstream::answering(OK).await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let next = "GET /next HTTP/1.1\r\nhost: a\r\n\r\n";
    let cases = [
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "http.invalid_authority"),
        ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400, "http.invalid_authority"),
        ("GET http://u:p@a/ HTTP/1.1\r\nhost: a\r\n\r\n", 400, "http.invalid_authority"),
        ("GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n", 400, "http1.invalid_url"),
        ("GET * HTTP/1.1\r\nhost: a\r\n\r\n", 400, "http1.invalid_url"),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "http1.invalid_transfer_encoding"),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: x-forwarded-proto\r\n\r\n", 400, "http1.connection_header_rejected"),
        ("CONNECT http://a:80/ HTTP/1.1\r\nhost: a\r\n\r\n", 400, "http1.invalid_url"),
        ("CONNECT a:80 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello", 400, "http1.body_disallowed"),
    ];
    for (request, status, details) in cases {
        let text = all_of(&proxy, &format!("{request}{next}")).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")) && text.matches("HTTP/1.1").count() == 1, "{request} {text}");
        assert!(text.contains("\r\nconnection: close\r\n"), "{request} {text}");
        let seen = proxy.seen().await;
        assert_eq!((seen.status, &*seen.flags, &*seen.details), (status, "DPE", details), "{request}");
    }
    assert_eq!(upstream.requests(), 0);
    let text = all_of(&proxy, &format!("GET / HTTP/1.1\r\n\r\n{next}")).await;
    assert!(text.starts_with("HTTP/1.1 400 ") && text.matches("HTTP/1.1").count() == 1, "{text}");
    let seen = proxy.seen().await;
    assert_eq!((&*seen.flags, &*seen.details), ("-", "missing_host_header"));
}

#[tokio::test]
async fn what_the_codec_cannot_read_is_accounted_for() {
    let upstream = Upstream::answering(OK).await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(61 << 10));
    let cases = [
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400, "http1.codec_error"),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400, "http1.codec_error"),
        (&*long, 431, "http1.headers_too_large"),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, "http1.codec_error"),
    ];
    for (request, status, details) in cases {
        let text = all_of(&proxy, request).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        let seen = proxy.seen().await;
        assert_eq!((seen.status, &*seen.flags, &*seen.details), (status, "DPE", details), "{}", &request[..40]);
    }
}

#[tokio::test]
async fn an_offer_to_go_on_in_http2_is_an_ordinary_request() {
    let upstream = Upstream::mirror().await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let offer = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__";
    let mut stream = proxy.connect().await;
    for _ in 0..2 {
        let answer = ask(&mut stream, &format!("GET / HTTP/1.1\r\nhost: a\r\n{offer}\r\n\r\n")).await;
        assert_eq!(answer.status, 200);
        for absent in ["upgrade", "http2-settings", "connection"] {
            assert!(!answer.body.contains(absent), "{absent} in {}", answer.body);
        }
    }
}

#[tokio::test]
async fn bytes_behind_a_declined_upgrade_are_no_request() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let frames = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
    for (token, status) in [("websocket", 200), ("irc", 403)] {
        let text = all_of(&proxy, &format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: {token}\r\n\r\n{frames}")).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")) && text.matches("HTTP/1.1").count() == 1, "{text}");
    }
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_connect_that_opens_no_tunnel_reaches_no_application() {
    let upstream = Upstream::answering(OK).await;
    let mut plan = Plan::to(H1, &[upstream.address], |_| {});
    plan.no_tunnels = true;
    let mut proxy = plan.start();
    let text = all_of(&proxy, "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\nGET /inside HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 404 ") && text.matches("HTTP/1.1").count() == 1, "{text}");
    let seen = proxy.seen().await;
    assert_eq!((&*seen.flags, &*seen.details, upstream.requests()), ("NR", "route_not_found", 0));
}

#[tokio::test]
async fn the_head_alone_of_an_own_answer_is_a_whole_answer() {
    let direct = RouteAction::Direct(DirectResponse { status: http::StatusCode::OK, body: "tea".into() });
    let mut plan = Plan::to(H1, &[], |_| {});
    plan.hosts[0].routes.insert(0, route("direct", PathMatch::Exact("/direct".into()), direct).into());
    let mut proxy = plan.start();
    let mut stream = proxy.connect().await;
    for (path, length, details) in [("/direct", "3", "direct_response"), ("/", "19", "no_healthy_upstream")] {
        stream.write_all(format!("HEAD {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        let head = soon(read_head(&mut stream)).await.unwrap();
        assert!(head.contains(&format!("\r\ncontent-length: {length}\r\n")), "{head}");
        let seen = proxy.seen().await;
        assert_eq!((&*seen.details, seen.bytes_sent, seen.flags.contains("DC")), (details, 0, false), "{path}");
    }
}

#[tokio::test]
async fn responses_with_two_meanings_are_no_responses() {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let cases = [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
    ];
    for fields in cases {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{chunks}").leak();
        let upstream = Upstream::answering(answer).await;
        let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
        for _ in 0..2 {
            let answer = proxy.get("/").await;
            assert!(answer.status == 502 && answer.body.ends_with("reset reason: protocol error"), "{fields} {answer:?}");
            let seen = proxy.seen().await;
            assert_eq!((&*seen.flags, &*seen.details), ("UPE", "upstream_reset_before_response_started{protocol_error}"), "{fields}");
        }
        // What follows such a response on its connection is not the answer to anything.
        assert_eq!(upstream.connections(), 2, "{fields}");
    }
}

#[tokio::test]
async fn every_line_of_the_way_so_far_is_kept() {
    let upstream = Upstream::mirror().await;
    let mut plan = Plan::to(H1, &[upstream.address], |_| {});
    plan.manager = HttpManager { use_remote_address: true, ..HttpManager::default() };
    let proxy = plan.start();
    let answer = proxy.ask("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\n\r\n").await;
    assert!(answer.body.contains("x-forwarded-for: 1.1.1.1,2.2.2.2,127.0.0.1\r\n"), "{}", answer.body);
}

#[tokio::test]
async fn an_original_destination_is_never_this_proxy_but_may_be_at_another_port() {
    let upstream = Upstream::answering(OK).await;
    for (port, status, flags) in [(None, 503, "UH"), (Some(upstream.address.port()), 200, "-")] {
        let mut plan = Plan::to(H1, &[], |_| {});
        plan.clusters = vec![dynamic("c", ClusterKind::OriginalDestination { port })];
        let mut proxy = plan.start();
        assert_eq!(proxy.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.status, status, "{port:?}");
        assert_eq!(proxy.seen().await.flags, flags, "{port:?}");
    }
}

#[tokio::test]
async fn a_request_to_the_proxy_itself_does_not_go_round() {
    let mut plan = Plan::to(H1, &[], |_| {});
    plan.clusters = vec![dynamic("c", ClusterKind::DynamicForwardProxy)];
    let mut proxy = plan.start();
    for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        let answer = proxy.ask(&format!("GET http://{host}:{}/ HTTP/1.1\r\nhost: a\r\n\r\n", proxy.address.port())).await;
        assert_eq!((answer.status, &*answer.body), (503, "no healthy upstream"), "{host}");
        assert_eq!(proxy.seen().await.flags, "UH", "{host}");
        assert!(proxy.nothing_seen(), "{host}");
    }
}
