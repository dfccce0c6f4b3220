//! The request path against upstreams that misbehave, over HTTP/1.1.

#![allow(clippy::unwrap_used)] // Helpers are test code too.

mod path_support;

use std::time::Duration;

use path_support::*;
use pillion_proxy::config::cluster::{ClusterKind, UpstreamProtocol};
use pillion_proxy::config::listener::{Direction, HttpManager, RouteSource};
use pillion_proxy::config::route_table::{
    DirectResponse, Fault, FaultAbort, Forward, Fraction, HeaderAddition, HostRewrite, PathMatch, PathRewrite, Redirect, RedirectPath,
    RouteAction,
};
use pillion_proxy::config::{LocalNode, OutboundPolicy};
use pillion_proxy::route::template::Template;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const H1: UpstreamProtocol = UpstreamProtocol::Http1;

#[tokio::test]
async fn a_request_goes_up_and_its_response_comes_down() {
    let upstream = Upstream::mirror().await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let request = "POST /a?b=c HTTP/1.1\r\nhost: shop\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\nte: trailers\r\ncontent-length: 5\r\n\r\nhello";
    let answer = proxy.ask(request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    assert!(answer.header("x-envoy-upstream-service-time").is_some());
    let received = answer.body;
    assert!(received.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{received}");
    for present in [
        "host: shop\r\n",
        "te: trailers\r\n",
        "x-envoy-attempt-count: 1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-request-id: ",
        "\r\n\r\nhello",
    ] {
        assert!(received.contains(present), "{present:?} in {received}");
    }
    for absent in ["x-hop", "keep-alive", "connection"] {
        assert!(!received.contains(absent), "{absent:?} in {received}");
    }
    let seen = proxy.seen().await;
    assert_eq!((seen.status, &*seen.flags, &*seen.details, &*seen.route), (200, "-", "via_upstream", "all"));
    assert_eq!((seen.bytes_received, seen.bytes_sent as usize, seen.attempts), (5, received.len(), 1));
}

#[tokio::test]
async fn one_upstream_connection_serves_requests_in_turn() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    for _ in 0..5 {
        assert_eq!(ask(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.body, "ok");
    }
    assert_eq!(proxy.get("/").await.body, "ok");
    assert_eq!((upstream.connections(), upstream.requests()), (1, 6));
}

#[tokio::test]
async fn absolute_form_is_sent_in_origin_form() {
    let upstream = Upstream::mirror().await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let answer = proxy.ask("GET http://product:80/x?y HTTP/1.1\r\nhost: other\r\nproxy-connection: keep-alive\r\n\r\n").await;
    assert!(answer.body.starts_with("GET /x?y HTTP/1.1\r\n"), "{}", answer.body);
    assert!(answer.body.contains("host: product:80\r\n") && !answer.body.contains("proxy-connection"), "{}", answer.body);
}

#[tokio::test]
async fn a_refused_connection_is_a_503_that_says_so() {
    let mut proxy = Plan::to(H1, &[refusing().await], |_| {}).start();
    let answer = proxy.post("x").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure");
    let seen = proxy.seen().await;
    assert_eq!((&*seen.flags, seen.status), ("UF", 503));
}

#[tokio::test]
async fn a_refused_connection_is_retried_at_another_endpoint() {
    let upstream = Upstream::answering(OK).await;
    let mut proxy =
        Plan::to(H1, &[refusing().await, upstream.address], |forward| forward.retry = Some(retry("connect-failure", 2))).start();
    for _ in 0..4 {
        assert_eq!(proxy.post("x").await.status, 200);
        assert!(proxy.seen().await.attempts <= 2);
    }
    assert_eq!(upstream.requests(), 4);
}

#[tokio::test]
async fn a_request_that_was_written_is_not_sent_again_without_a_policy() {
    // The upstream takes the request and closes: it may have been executed.
    let upstream = Upstream::start(|mut peer| async move {
        peer.request().await;
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let answer = proxy.post("buy").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "upstream connect error or disconnect/reset before headers. reset reason: connection termination");
    let seen = proxy.seen().await;
    assert_eq!((&*seen.flags, &*seen.details), ("UC", "upstream_reset_before_response_started{connection_termination}"));
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn a_reset_is_retried_when_the_policy_says_so_and_the_body_is_sent_again() {
    let upstream = Upstream::start(|mut peer| async move {
        let request = peer.request().await.unwrap_or_default();
        if peer.number > 0 {
            assert!(request.ends_with("\r\n\r\nbody"), "{request}");
            assert!(request.contains("x-envoy-attempt-count: 2\r\n"), "{request}");
            peer.send(OK).await;
        }
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |forward| forward.retry = Some(retry("reset", 1))).start();
    assert_eq!(proxy.post("body").await.status, 200);
    let seen = proxy.seen().await;
    assert_eq!((seen.attempts, seen.bytes_received), (2, 4));
}

#[tokio::test]
async fn a_body_beyond_the_buffer_is_not_retried() {
    let upstream = Upstream::answering("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
    let policy = retry("5xx", 3);
    let proxy = Plan::to(H1, &[upstream.address], |forward| forward.retry = Some(policy)).start();
    let large = "x".repeat(70 << 10);
    assert_eq!(proxy.post(&large).await.status, 503);
    assert_eq!(upstream.requests(), 1);
    assert_eq!(proxy.post("small").await.status, 503);
    assert_eq!(upstream.requests(), 1 + 4);
}

#[tokio::test]
async fn responses_are_retried_as_often_as_the_policy_says() {
    let upstream = Upstream::answering("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno").await;
    let mut proxy = Plan::to(H1, &[upstream.address], |forward| forward.retry = Some(retry("gateway-error", 2))).start();
    let answer = proxy.get("/").await;
    assert_eq!((answer.status, &*answer.body), (503, "no"));
    let seen = proxy.seen().await;
    assert_eq!((seen.attempts, &*seen.flags, &*seen.details), (3, "URX", "via_upstream"));
}

#[tokio::test]
async fn an_upstream_that_hangs_is_cut_by_the_timeout() {
    let upstream = Upstream::start(|mut peer| async move {
        peer.request().await;
        // Until the proxy gives up.
        let _ = peer.stream.read_u8().await;
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |forward| forward.timeout = Some(Duration::from_millis(50))).start();
    let answer = proxy.get("/").await;
    assert_eq!((answer.status, &*answer.body), (504, "upstream request timeout"));
    let seen = proxy.seen().await;
    assert_eq!((&*seen.flags, &*seen.details), ("UT", "response_timeout"));
}

#[tokio::test]
async fn a_slow_try_is_retried_only_by_a_policy_that_covers_it() {
    for (words, tries, details) in
        [("connect-failure,refused-stream", 1, "upstream_per_try_timeout"), ("5xx", 3, "upstream_per_try_timeout")]
    {
        let upstream = Upstream::start(|mut peer| async move {
            peer.request().await;
            let _ = peer.stream.read_u8().await;
        })
        .await;
        let mut policy = std::sync::Arc::into_inner(retry(words, 2)).unwrap();
        policy.per_try_timeout = Some(Duration::from_millis(30));
        let mut proxy = Plan::to(H1, &[upstream.address], |forward| forward.retry = Some(policy.into())).start();
        assert_eq!(proxy.get("/").await.status, 504, "{words}");
        let seen = proxy.seen().await;
        assert_eq!((seen.attempts, &*seen.details, upstream.requests()), (tries, details, tries as usize), "{words}");
    }
}

#[tokio::test]
async fn garbage_is_a_502() {
    for garbage in ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "\0\0\0\0\r\n\r\n"] {
        let upstream = Upstream::answering(garbage).await;
        let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
        let answer = proxy.get("/").await;
        assert_eq!(answer.status, 502, "{garbage:?}");
        let seen = proxy.seen().await;
        assert_eq!((&*seen.flags, &*seen.details), ("UPE", "upstream_reset_before_response_started{protocol_error}"), "{garbage:?}");
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_not_used() {
    let (closed, mut told) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut peer| {
        let closed = closed.clone();
        async move {
            if peer.request().await.is_some() {
                peer.send(OK).await;
            }
            // Closed without a word after one request; on loopback the FIN is there when this returns.
            drop(peer);
            let _ = closed.send(());
        }
    })
    .await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    for round in 1..=20 {
        let answer = ask(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await;
        assert_eq!(answer.status, 200, "{round}");
        assert_eq!(upstream.requests(), round);
        soon(told.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn a_kept_connection_that_closes_as_a_post_leaves_never_executes_it_twice() {
    // The first request is answered, the second one is read and the connection closed.
    let upstream = Upstream::start(|mut peer| async move {
        if peer.request().await.is_some() {
            peer.send(OK).await;
            peer.request().await;
        }
    })
    .await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    let mut answered = 0;
    for _ in 0..20 {
        let before = upstream.requests();
        let answer = ask(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await;
        answered += usize::from(answer.status == 200);
        assert_eq!(upstream.requests(), before + 1, "one execution per POST");
    }
    assert_eq!(answered, 10);
}

#[tokio::test]
async fn an_early_response_ends_the_exchange() {
    let upstream = Upstream::start(|mut peer| async move {
        read_head(&mut peer.stream).await;
        peer.send("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        // The rest of the body is not read, and at last the connection is cut.
        let mut rest = [0; 1024];
        while peer.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nstart").await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 413);
    assert_eq!(proxy.seen().await.status, 413);
}

#[tokio::test]
async fn a_body_without_end_is_streamed_and_its_upstream_closed_when_the_client_leaves() {
    let (closed, mut told) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut peer| {
        let closed = closed.clone();
        async move {
            peer.request().await;
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while peer.stream.write_all(b"5\r\nhello\r\n").await.is_ok() {
                tokio::task::yield_now().await;
            }
            let _ = closed.send(());
        }
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut some = vec![0; 4096];
    soon(stream.read_exact(&mut some)).await.unwrap();
    drop(stream);
    soon(told.recv()).await.unwrap();
    let seen = proxy.seen().await;
    assert_eq!((seen.status, &*seen.flags, &*seen.details), (200, "DC", "downstream_remote_disconnect"));
    assert!(seen.bytes_sent > 0);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_response_takes_its_request_along() {
    let (closed, mut told) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut peer| {
        let closed = closed.clone();
        async move {
            peer.request().await;
            let _ = closed.send("read");
            let _ = peer.stream.read_u8().await;
            let _ = closed.send("closed");
        }
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(soon(told.recv()).await, Some("read"));
    drop(stream);
    assert_eq!(soon(told.recv()).await, Some("closed"));
    let seen = proxy.seen().await;
    assert_eq!((seen.status, &*seen.flags), (0, "DC"));
}

#[tokio::test]
async fn a_response_that_breaks_off_breaks_off_below_too() {
    let upstream = Upstream::answering_once("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let text = read_all(&mut stream).await;
    assert!(text.ends_with("\r\n\r\nhalf"), "{text}");
    let seen = proxy.seen().await;
    assert_eq!((&*seen.flags, &*seen.details), ("UPE", "upstream_reset_after_response_started{protocol_error}"));
}

#[tokio::test]
async fn expect_is_answered_before_the_body_comes() {
    let upstream = Upstream::mirror().await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await.unwrap();
    let first = soon(read_head(&mut stream)).await.unwrap();
    assert!(first.starts_with("HTTP/1.1 100 "), "{first}");
    let answer = ask(&mut stream, "body").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with("\r\n\r\nbody") && !answer.body.contains("expect"), "{}", answer.body);
}

#[tokio::test]
async fn trailers_of_chunked_bodies_come_down() {
    let upstream =
        Upstream::answering("HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n")
            .await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close, te\r\n\r\n").await.unwrap();
    let text = read_all(&mut stream).await;
    assert!(text.ends_with("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn an_upgrade_passes_both_directions_and_survives_swaps() {
    let upstream = Upstream::start(|mut peer| async move {
        let request = peer.request().await.unwrap();
        assert!(request.contains("upgrade: websocket\r\n") && request.contains("connection: upgrade\r\n"), "{request}");
        peer.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
        let mut line = [0; 5];
        while peer.stream.read_exact(&mut line).await.is_ok() {
            peer.stream.write_all(&line).await.unwrap();
        }
        peer.send("bye").await;
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    let answer = ask(&mut stream, "GET /ws HTTP/1.1\r\nhost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    for round in 0..50 {
        // Route, cluster and listener of the stream itself change.
        let mut plan = Plan::to(H1, &[upstream.address], |forward| forward.timeout = Some(Duration::from_millis(100 + round)));
        plan.clusters[0].idle_timeout = Some(Duration::from_secs(round));
        plan.manager.stream_idle_timeout = Some(Duration::from_secs(100 + round));
        proxy.swap(plan);
        let mut echo = [0; 5];
        stream.write_all(b"hello").await.unwrap();
        soon(stream.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, b"hello");
    }
    // Half close: the upstream's farewell still arrives.
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "bye");
    let seen = proxy.seen().await;
    assert_eq!((seen.status, &*seen.flags, seen.bytes_received, seen.bytes_sent), (101, "-", 50 * 5, 50 * 5 + 3));
}

#[tokio::test]
async fn upgrades_that_are_not_allowed_are_refused() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    for tokens in ["upgrade: irc", "upgrade: websocket, irc", "upgrade: websocket\r\nupgrade: irc"] {
        let answer = proxy.ask(&format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\n{tokens}\r\n\r\n")).await;
        assert_eq!((answer.status, upstream.requests()), (403, 0), "{tokens}");
    }
}

fn tunnel_plan(upstream: std::net::SocketAddr) -> Plan {
    let mut plan = Plan::to(UpstreamProtocol::Downstream, &[upstream], |_| {});
    let manager = HttpManager { routes: RouteSource::Named("routes".into()), ..HttpManager::default() };
    plan.more_listeners.push(http_listener("0.0.0.0_8080", "0.0.0.0:8080", false, manager, Direction::Outbound));
    plan.names.hosts.insert("product".into(), vec!["240.240.0.7".parse().unwrap()]);
    plan
}

#[tokio::test]
async fn a_tunnel_enters_the_listener_of_its_destination() {
    let upstream = Upstream::mirror().await;
    let mut proxy = tunnel_plan(upstream.address).start();
    let mut stream = proxy.connect().await;
    let opened = ask(&mut stream, "CONNECT product:8080 HTTP/1.1\r\nhost: product:8080\r\n\r\n").await;
    assert_eq!(opened.status, 200);
    for _ in 0..2 {
        let answer = ask(&mut stream, "GET /in HTTP/1.1\r\nhost: product\r\n\r\n").await;
        assert!(answer.body.starts_with("GET /in HTTP/1.1\r\n"), "{}", answer.body);
        assert_eq!(proxy.seen().await.status, 200);
    }
    assert!(proxy.nothing_seen(), "the tunnel itself is not recorded");
}

#[tokio::test]
async fn a_tunnel_to_the_unknown_follows_the_policy() {
    let upstream = Upstream::answering(OK).await;
    let unknown = upstream.address;
    for (policy, passthrough, want) in
        [(OutboundPolicy::AllowAny, true, 200), (OutboundPolicy::RegistryOnly, true, 502), (OutboundPolicy::AllowAny, false, 502)]
    {
        let mut plan = tunnel_plan(upstream.address);
        plan.local = LocalNode { outbound_policy: policy, ..LocalNode::default() };
        if passthrough {
            plan.clusters.push(dynamic("PassthroughCluster", ClusterKind::DynamicForwardProxy));
        }
        let mut proxy = plan.start();
        let mut stream = proxy.connect().await;
        let opened = ask(&mut stream, &format!("CONNECT {unknown} HTTP/1.1\r\nhost: {unknown}\r\n\r\n")).await;
        assert_eq!(opened.status, want, "{policy:?} {passthrough}");
        if want == 200 {
            assert_eq!(ask(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.body, "ok");
            drop(stream);
            let seen = proxy.seen().await;
            assert_eq!((&*seen.details, seen.bytes_sent as usize), ("tcp", OK.len()));
        }
    }
}

#[tokio::test]
async fn a_tunnel_to_an_address_that_refuses_is_a_503() {
    let mut plan = tunnel_plan(refusing().await);
    plan.clusters.push(dynamic("PassthroughCluster", ClusterKind::DynamicForwardProxy));
    let proxy = plan.start();
    let nobody = refusing().await;
    assert_eq!(proxy.ask(&format!("CONNECT {nobody} HTTP/1.1\r\nhost: {nobody}\r\n\r\n")).await.status, 503);
}

#[tokio::test]
async fn unknown_hosts_pass_through_by_their_authority() {
    let upstream = Upstream::mirror().await;
    let mut plan = Plan::to(H1, &[], |forward| *forward = Forward::to("PassthroughCluster"));
    plan.clusters = vec![dynamic("PassthroughCluster", ClusterKind::DynamicForwardProxy)];
    let mut proxy = plan.start();
    let port = upstream.address.port();
    for authority in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let answer = proxy.ask(&format!("GET http://{authority}/x HTTP/1.1\r\nhost: {authority}\r\n\r\n")).await;
        assert!(answer.body.contains(&format!("host: {authority}\r\n")), "{}", answer.body);
        proxy.seen().await;
    }
    let answer = proxy.ask("GET http://no.such.host.invalid/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!((answer.status, &*proxy.seen().await.flags), (503, "DF"));
}

#[tokio::test]
async fn too_large_a_head_is_a_431() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let cases = [
        ("bytes", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(61 << 10)), 431),
        ("number", format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(101)), 431),
        ("fits", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(50 << 10)), 200),
    ];
    for (name, request, want) in cases {
        assert_eq!(proxy.ask(&request).await.status, want, "{name}");
    }
}

#[tokio::test]
async fn what_the_proxy_answers_itself_is_envoys_answer() {
    let upstream = Upstream::answering(OK).await;
    let direct = RouteAction::Direct(DirectResponse { status: http::StatusCode::IM_A_TEAPOT, body: "tea".into() });
    let redirect = RouteAction::Redirect(Redirect {
        scheme: None,
        host: Some("b.com".into()),
        port: None,
        path: RedirectPath::Keep,
        status: http::StatusCode::FOUND,
        strip_query: false,
    });
    let mut aborted = route("aborted", PathMatch::Prefix("/abort".into()), RouteAction::Forward(Forward::to("c")));
    aborted.fault = Some(Fault {
        delay: Some((Fraction::ALWAYS, Duration::from_millis(5))),
        abort: Some((Fraction::ALWAYS, FaultAbort::Http(http::StatusCode::BAD_GATEWAY))),
        headers: vec![],
    });
    let mut grpc_aborted = route("", PathMatch::Prefix("/grpc-abort".into()), RouteAction::Forward(Forward::to("c")));
    grpc_aborted.fault = Some(Fault { abort: Some((Fraction::ALWAYS, FaultAbort::Grpc(14))), ..Fault::default() });
    let mut plan = Plan::to(H1, &[upstream.address], |_| {});
    plan.hosts = vec![host(
        "shop",
        vec![
            route("direct", PathMatch::Exact("/direct".into()), direct),
            route("redirect", PathMatch::Exact("/redirect".into()), redirect),
            route("missing", PathMatch::Exact("/missing".into()), RouteAction::Forward(Forward::to("nowhere"))),
            route("empty", PathMatch::Exact("/empty".into()), RouteAction::Forward(Forward::to("empty"))),
            aborted,
            grpc_aborted,
        ],
    )];
    plan.clusters.push(cluster("empty", H1, &[]));
    let mut proxy = plan.start();
    let cases = [
        ("/direct", "", 418, "tea", "-", "direct_response"),
        ("/redirect", "", 302, "", "-", "direct_response"),
        ("/missing", "", 503, "", "NC", "cluster_not_found"),
        ("/empty", "", 503, "no healthy upstream", "UH", "no_healthy_upstream"),
        ("/abort", "", 502, "fault filter abort", "DI,FI", "fault_filter_abort"),
        ("/grpc-abort", "", 200, "fault filter abort", "FI", "fault_filter_abort"),
        ("/grpc-abort", "application/grpc", 200, "", "FI", "fault_filter_abort"),
        ("/nothing", "", 404, "", "NR", "route_not_found"),
    ];
    for (path, content, status, body, flags, details) in cases {
        let answer = proxy.ask(&format!("GET {path} HTTP/1.1\r\nhost: shop\r\ncontent-type: {content}\r\n\r\n")).await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{path} {content}");
        assert_eq!(answer.header("server"), Some("istio-envoy"), "{path}");
        let seen = proxy.seen().await;
        assert_eq!((&*seen.flags, &*seen.details), (flags, details), "{path} {content}");
        if path == "/redirect" {
            assert_eq!(answer.header("location"), Some("http://b.com/redirect"));
        }
        if !content.is_empty() {
            assert_eq!((answer.header("grpc-status"), seen.grpc_status), (Some("14"), Some(14)));
        }
    }
    let other = proxy.ask("GET / HTTP/1.1\r\nhost: elsewhere\r\n\r\n").await;
    assert_eq!(other.status, 404);
}

#[tokio::test]
async fn routes_rewrite_and_change_headers() {
    let upstream = Upstream::mirror().await;
    let mut plan = Plan::to(H1, &[upstream.address], |_| {});
    let mut forward = Forward::to("c");
    forward.path = PathRewrite::Prefix("/v2".into());
    forward.host = HostRewrite::Literal("inner".parse().unwrap());
    let mut rewritten = route("rewritten", PathMatch::Prefix("/api".into()), RouteAction::Forward(forward));
    let add = |name: &'static str, value: &str| HeaderAddition {
        name: http::HeaderName::from_static(name),
        value: Template::parse(value).unwrap(),
        action: Default::default(),
        keep_empty: false,
    };
    rewritten.request_headers.add.push(add("x-was", "%REQ(:path)%"));
    rewritten.request_headers.remove.push("x-gone".parse().unwrap());
    rewritten.response_headers.add.push(add("x-asked", "%REQ(x-user)%"));
    plan.hosts = vec![host("*", vec![rewritten])];
    let proxy = plan.start();
    let answer = proxy.ask("GET /api/x?q HTTP/1.1\r\nhost: shop\r\nx-gone: 1\r\nx-user: maria\r\n\r\n").await;
    assert!(answer.body.starts_with("GET /v2/x?q HTTP/1.1\r\n"), "{}", answer.body);
    for present in ["host: inner\r\n", "x-was: /api/x?q\r\n", "x-envoy-original-path: /api/x?q\r\n"] {
        assert!(answer.body.contains(present), "{present:?} in {}", answer.body);
    }
    assert!(!answer.body.contains("x-gone"));
    assert_eq!(answer.header("x-asked"), Some("maria"));
}

#[tokio::test]
async fn peer_metadata_is_given_outbound_and_taken_inbound() {
    let upstream = Upstream::mirror().await;
    let local = || LocalNode {
        peer_metadata: Some("me".parse().unwrap()),
        peer_metadata_id: Some("sidecar~me".parse().unwrap()),
        ..LocalNode::default()
    };
    let outbound = Plan { local: local(), ..Plan::to(H1, &[upstream.address], |_| {}) }.start();
    let answer = outbound.ask("GET / HTTP/1.1\r\nhost: a\r\nx-envoy-peer-metadata: forged\r\n\r\n").await;
    assert!(answer.body.contains("x-envoy-peer-metadata: me\r\n") && answer.body.contains("x-envoy-peer-metadata-id: sidecar~me\r\n"));
    let mut inbound = Plan { local: local(), direction: Direction::Inbound, ..Plan::to(H1, &[upstream.address], |_| {}) }.start();
    let answer = inbound.ask("GET / HTTP/1.1\r\nhost: a\r\nx-envoy-peer-metadata: you\r\nx-envoy-peer-metadata-id: i\r\n\r\n").await;
    assert!(!answer.body.contains("peer-metadata"), "{}", answer.body);
    assert_eq!(inbound.seen().await.peer.as_deref(), Some("you"));
}

#[tokio::test]
async fn a_kept_connection_follows_a_swap_at_its_next_request() {
    let (one, two) = (Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none").await, Upstream::answering(OK).await);
    let proxy = Plan::to(H1, &[one.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(ask(&mut stream, get).await.body, "one");
    proxy.swap(Plan::to(H1, &[two.address], |_| {}));
    // The worker learns of it within a turn of its loop.
    let obeys = async {
        while ask(&mut stream, get).await.body != "ok" {
            tokio::task::yield_now().await;
        }
    };
    soon(obeys).await;
}

#[tokio::test]
async fn pools_of_endpoints_that_left_are_closed() {
    let (closed, mut told) = tokio::sync::mpsc::unbounded_channel();
    let one = Upstream::start(move |mut peer| {
        let closed = closed.clone();
        async move {
            while peer.request().await.is_some() {
                peer.send(OK).await;
            }
            let _ = closed.send(());
        }
    })
    .await;
    let two = Upstream::answering(OK).await;
    let proxy = Plan::to(H1, &[one.address], |_| {}).start();
    assert_eq!(proxy.get("/").await.status, 200);
    proxy.swap(Plan::to(H1, &[two.address], |_| {}));
    soon(told.recv()).await.unwrap();
}

#[tokio::test]
async fn a_drain_says_close_and_finishes_what_runs() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut peer| {
        let (mut wait, begun) = (wait.clone(), begun.clone());
        async move {
            peer.request().await;
            let _ = begun.send(());
            let _ = wait.wait_for(|go| *go).await;
            peer.send(OK).await;
        }
    })
    .await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut idle = proxy.connect().await;
    let mut busy = proxy.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    soon(begins.recv()).await.unwrap();
    proxy.drain.stop(SOON);
    assert_eq!(read_all(&mut idle).await, "");
    go.send_replace(true);
    let answer = read_answer(&mut busy).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    proxy.join().await;
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut peer| {
        let begun = begun.clone();
        async move {
            peer.request().await;
            let _ = begun.send(());
            let _ = peer.stream.read_u8().await;
        }
    })
    .await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    soon(begins.recv()).await.unwrap();
    proxy.drain.stop(Duration::from_millis(50));
    assert_eq!(read_all(&mut stream).await, "");
    proxy.join().await;
}
