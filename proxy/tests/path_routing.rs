//! What routes do beside forwarding: copies for mirrors, answers to browsers, rewrites by expression, and what requests ask for themselves.

#![allow(clippy::unwrap_used)] // Helpers are test code too.

mod path_support;

use std::sync::Arc;
use std::time::Duration;

use path_support::*;
use pillion_proxy::config::cluster::UpstreamProtocol;
use pillion_proxy::config::expression::unanchored;
use pillion_proxy::config::listener::{Direction, HttpManager};
use pillion_proxy::config::route_table::{
    Cors, CorsList, DirectResponse, Fault, FaultAbort, Forward, Fraction, GrpcTimeout, Mirror, PathMatch, PathRewrite, RouteAction,
    TextMatch, substitution,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const H1: UpstreamProtocol = UpstreamProtocol::Http1;

/// An upstream that tells what it gets.
async fn telling() -> (Upstream, mpsc::UnboundedReceiver<String>) {
    let (sender, told) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut peer| {
        let sender = sender.clone();
        async move {
            while let Some(request) = peer.request().await {
                let _ = sender.send(request);
                peer.send(OK).await;
            }
        }
    });
    (upstream.await, told)
}

fn mirror(cluster: &str) -> Mirror {
    Mirror { cluster: cluster.into(), share: Fraction::ALWAYS, shadow_host: true, host: None }
}

#[tokio::test]
async fn a_request_is_copied_to_every_mirror_and_only_the_first_answer_counts() {
    let (upstream, mut got) = telling().await;
    let (one, mut first) = telling().await;
    let (two, mut second) = telling().await;
    let mut plan = Plan::to(H1, &[upstream.address], |forward| {
        forward.path = PathRewrite::Prefix("/new/".into());
        forward.timeout = Some(Duration::from_secs(3));
        forward.mirrors = Box::new([
            mirror("one"),
            Mirror { shadow_host: false, ..mirror("two") },
            Mirror { share: Fraction { numerator: 0, denominator: 100 }, ..mirror("one") },
            mirror("nowhere"),
        ]);
    });
    plan.clusters.push(cluster("one", H1, &[one.address]));
    plan.clusters.push(cluster("two", H1, &[two.address]));
    let mut proxy = plan.start();
    let request = "POST /a?q HTTP/1.1\r\nhost: shop:80\r\nx-forwarded-for: 1.2.3.4\r\ncontent-length: 5\r\n\r\nhello";
    for _ in 0..2 {
        let answer = proxy.ask(request).await;
        assert_eq!((answer.status, &*answer.body), (200, "ok"));
        let original = soon(got.recv()).await.unwrap();
        assert!(original.contains("host: shop:80\r\n") && !original.contains("x-envoy-internal"), "{original}");
        for (told, host) in [(&mut first, "host: shop-shadow:80\r\n"), (&mut second, "host: shop:80\r\n")] {
            let copy = soon(told.recv()).await.unwrap();
            assert!(copy.starts_with("POST /new/a?q HTTP/1.1\r\n") && copy.ends_with("\r\n\r\nhello"), "{copy}");
            for part in [
                host,
                "x-envoy-internal: true\r\n",
                "x-envoy-expected-rq-timeout-ms: 3000\r\n",
                "x-forwarded-for: 1.2.3.4,127.0.0.1\r\n",
                "x-envoy-attempt-count: 1\r\n",
            ] {
                assert!(copy.contains(part), "{part} in {copy}");
            }
        }
        assert_eq!(proxy.seen().await.status, 200);
    }
    assert!(proxy.nothing_seen() && first.try_recv().is_err());
    assert_eq!((one.connections(), two.connections()), (1, 1), "mirrors use their connections again");
}

#[tokio::test]
async fn a_mirror_that_hangs_refuses_or_fails_is_not_noticed() {
    let upstream = Upstream::answering(OK).await;
    let hanging = Upstream::start(|peer| async move {
        tokio::time::sleep(SOON).await;
        drop(peer);
    })
    .await;
    let failing = Upstream::answering("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
    let mut plan = Plan::to(H1, &[upstream.address], |forward| {
        forward.mirrors = Box::new([mirror("hanging"), mirror("refusing"), mirror("failing"), mirror("empty")]);
    });
    plan.clusters.push(cluster("hanging", H1, &[hanging.address]));
    plan.clusters.push(cluster("refusing", H1, &[refusing().await]));
    plan.clusters.push(cluster("failing", H1, &[failing.address]));
    plan.clusters.push(cluster("empty", H1, &[]));
    let mut proxy = plan.start();
    // More than a copy may lag behind.
    let body = "x".repeat(5 << 20);
    for _ in 0..3 {
        let started = std::time::Instant::now();
        assert_eq!(proxy.post(&body).await.status, 200);
        assert!(started.elapsed() < SOON / 2);
        assert_eq!(proxy.seen().await.bytes_received, body.len() as u64);
    }
}

#[tokio::test]
async fn what_reaches_no_upstream_is_mirrored_only_as_far_as_it_was_read() {
    let (mirrored, mut told) = telling().await;
    let cases = [
        // As Envoy: without endpoints nothing is mirrored, without a connection it is.
        (vec![], "no healthy upstream", false),
        (vec![refusing().await], "remote connection failure", true),
    ];
    for (endpoints, why, copied) in cases {
        let mut plan = Plan::to(H1, &endpoints, |forward| forward.mirrors = Box::new([mirror("m")]));
        plan.clusters.push(cluster("m", H1, &[mirrored.address]));
        let mut proxy = plan.start();
        // Unlike Envoy: a body that nobody reads is not read for the copy.
        let posted = proxy.post("hello").await;
        assert!(posted.status == 503 && posted.body.contains(why), "{posted:?}");
        proxy.seen().await;
        assert_eq!(proxy.get("/get").await.status, 503);
        proxy.seen().await;
        if copied {
            let copy = soon(told.recv()).await.unwrap();
            assert!(copy.starts_with("GET /get "), "{copy}");
        }
        assert!(told.try_recv().is_err(), "{why}");
    }
}

#[tokio::test]
async fn bodies_are_mirrored_as_they_come() {
    let upstream = Upstream::answering(OK).await;
    let (sender, mut told) = mpsc::unbounded_channel();
    let mirrored = Upstream::start(move |mut peer| {
        let sender = sender.clone();
        async move {
            let mut bytes = vec![0; 4096];
            while let Ok(count) = peer.stream.read(&mut bytes).await {
                if count == 0 || sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let mut plan = Plan::to(H1, &[upstream.address], |forward| forward.mirrors = Box::new([mirror("m")]));
    plan.clusters.push(cluster("m", H1, &[mirrored.address]));
    let proxy = plan.start();
    let mut stream = proxy.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await.unwrap();
    let mut copy = String::new();
    while !copy.contains("one") {
        copy += &soon(told.recv()).await.unwrap();
    }
    stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    while !copy.ends_with("0\r\n\r\n") {
        copy += &soon(told.recv()).await.unwrap();
    }
    assert!(copy.contains("two"), "{copy}");
    assert_eq!(read_answer(&mut stream).await.status, 200);
}

fn cors(origin: &str, forward_unmatched: bool) -> Option<Box<Cors>> {
    Some(Box::new(Cors {
        share: Fraction::ALWAYS,
        origins: vec![TextMatch::Exact { text: origin.into(), ignore_case: false }],
        any_origin: origin == "*",
        methods: CorsList::Fixed("GET,POST".parse().unwrap()),
        headers: CorsList::Asked,
        expose: Some("x-e".parse().unwrap()),
        max_age: Some("600".parse().unwrap()),
        credentials: true,
        private_network: false,
        forward_unmatched,
    }))
}

#[tokio::test]
async fn browsers_are_answered_as_envoy_answers_them() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\naccess-control-allow-origin: up\r\ncontent-length: 2\r\n\r\nok").await;
    let to = |path: &str, cluster: &str, policy| {
        let mut made = route(path, PathMatch::Prefix(path.into()), RouteAction::Forward(Forward::to(cluster)));
        made.cors = policy;
        made
    };
    let mut broken = to("/fault", "c", cors("https://a", true));
    broken.fault = Some(Fault { abort: Some((Fraction::ALWAYS, FaultAbort::Http(http::StatusCode::IM_A_TEAPOT))), ..Fault::default() });
    let mut plan = Plan::to(H1, &[upstream.address], |_| {});
    plan.clusters.push(cluster("dead", H1, &[refusing().await]));
    let routes = vec![
        to("/cors", "c", cors("https://a", true)),
        to("/ignore", "c", cors("https://a", false)),
        to("/dead", "dead", cors("*", true)),
        broken,
        to("/none", "c", None),
    ];
    plan.hosts = vec![host("*", routes)];
    let mut proxy = plan.start();
    // What a real Envoy 1.40 answered with the same policies; `*`: from the upstream.
    let preflight = "access-control-request-method: PUT\r\naccess-control-request-headers: x-q\r\n";
    type Said<'a> = [Option<&'a str>; 6];
    let all: Said<'_> = [Some("https://a"), Some("true"), Some("GET,POST"), Some("x-q"), Some("600"), Some("x-e")];
    let cases: [(&str, &str, &str, u16, &str, Said<'_>); 9] = [
        ("preflight", "OPTIONS /cors", "https://a", 200, "cors_response", all),
        ("foreign, forwarded", "OPTIONS /cors", "https://b", 200, "via_upstream", [Some("up"), None, None, None, None, None]),
        ("foreign, ignored", "OPTIONS /ignore", "https://b", 200, "cors_response", [None, Some("true"), all[2], all[3], all[4], None]),
        ("simple", "GET /cors", "https://a", 200, "via_upstream", [all[0], all[1], None, None, None, all[5]]),
        ("simple, foreign", "GET /cors", "https://b", 200, "via_upstream", [Some("up"), None, None, None, None, None]),
        ("no origin", "GET /cors", "", 200, "via_upstream", [Some("up"), None, None, None, None, None]),
        (
            "no upstream",
            "GET /dead",
            "https://a",
            503,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
            [all[0], all[1], None, None, None, all[5]],
        ),
        ("a fault comes first", "OPTIONS /fault", "https://a", 418, "fault_filter_abort", [None; 6]),
        ("no policy", "GET /none", "https://a", 200, "via_upstream", [Some("up"), None, None, None, None, None]),
    ];
    let names = ["allow-origin", "allow-credentials", "allow-methods", "allow-headers", "max-age", "expose-headers"];
    for (name, line, origin, status, details, want) in cases {
        let preflight = if line.starts_with("OPTIONS") { preflight } else { "" };
        let answer = proxy.ask(&format!("{line} HTTP/1.1\r\nhost: a\r\norigin: {origin}\r\n{preflight}\r\n")).await;
        let said = names.map(|name| answer.header(&format!("access-control-{name}")).map(str::to_owned));
        let seen = proxy.seen().await;
        assert_eq!((answer.status, &*seen.details), (status, details), "{name}");
        assert_eq!(said.each_ref().map(Option::as_deref), want, "{name}");
    }
    assert_eq!(upstream.requests(), 5);
}

#[tokio::test]
async fn a_rewrite_by_expression_keeps_the_query() {
    let upstream = Upstream::mirror().await;
    let proxy = Plan::to(H1, &[upstream.address], |forward| {
        let expression = unanchored("^/re/([^/]+)(.*)$").unwrap();
        forward.path = PathRewrite::Regex { expression, substitution: substitution(r"\2/\1-\0") };
    })
    .start();
    let answer = proxy.get("/re/a/b?q=/re/x").await;
    assert!(answer.body.starts_with("GET /b/a-/re/a/b?q=/re/x HTTP/1.1\r\n"), "{}", answer.body);
    assert!(answer.body.contains("x-envoy-original-path: /re/a/b?q=/re/x\r\n"), "{}", answer.body);
    let answer = proxy.get("/other").await;
    assert!(answer.body.starts_with("GET /other HTTP/1.1\r\n"), "{}", answer.body);
}

#[tokio::test]
async fn an_application_asks_for_retries_and_nobody_else_does() {
    let asking = "GET / HTTP/1.1\r\nhost: a\r\nx-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 2\r\n\r\n";
    let gateway = HttpManager { use_remote_address: true, ..HttpManager::default() };
    let cases = [
        ("sidecar", HttpManager::default(), Direction::Outbound, 3),
        ("gateway", gateway, Direction::Outbound, 1),
        ("inbound", HttpManager::default(), Direction::Inbound, 1),
    ];
    for (name, manager, direction, tries) in cases {
        let upstream = Upstream::start(|mut peer| async move {
            while let Some(request) = peer.request().await {
                assert!(!request.contains("x-envoy-retry") && !request.contains("x-envoy-max"), "{request}");
                peer.send("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
            }
        })
        .await;
        let mut plan = Plan::to(H1, &[upstream.address], |_| {});
        (plan.manager, plan.direction) = (manager, direction);
        let mut proxy = plan.start();
        assert_eq!(proxy.ask(asking).await.status, 503, "{name}");
        let seen = proxy.seen().await;
        assert_eq!((seen.attempts, upstream.requests()), (tries, tries as usize), "{name}");
    }
}

#[tokio::test]
async fn an_application_asks_for_a_timeout_and_the_upstream_is_told() {
    let upstream = Upstream::mirror().await;
    let hanging = Upstream::start(|mut peer| async move {
        peer.request().await;
        tokio::time::sleep(SOON).await;
    })
    .await;
    let mut plan = Plan::to(H1, &[upstream.address], |forward| {
        forward.timeout = Some(Duration::from_secs(3));
        forward.retry = Some(retry("5xx", 1));
    });
    plan.clusters.push(cluster("hanging", H1, &[hanging.address]));
    plan.hosts[0]
        .routes
        .insert(0, Arc::new(route("slow", PathMatch::Prefix("/slow".into()), RouteAction::Forward(Forward::to("hanging")))));
    let mut proxy = plan.start();
    let ask = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    let cases = [
        ("the route's", "", "x-envoy-expected-rq-timeout-ms: 3000\r\n"),
        ("the request's", "x-envoy-upstream-rq-timeout-ms: 700\r\n", "x-envoy-expected-rq-timeout-ms: 700\r\n"),
        ("of each try", "x-envoy-upstream-rq-per-try-timeout-ms: 300\r\n", "x-envoy-expected-rq-timeout-ms: 300\r\n"),
        ("of each try, too long", "x-envoy-upstream-rq-per-try-timeout-ms: 9000\r\n", "x-envoy-expected-rq-timeout-ms: 3000\r\n"),
        ("what is told is not believed", "x-envoy-expected-rq-timeout-ms: 7\r\n", "x-envoy-expected-rq-timeout-ms: 3000\r\n"),
    ];
    for (name, headers, want) in cases {
        let received = proxy.ask(&ask("/", headers)).await.body;
        assert!(received.contains(want) && !received.contains("x-envoy-upstream-rq"), "{name}: {received}");
        proxy.seen().await;
    }
    let answer = proxy.ask(&ask("/slow", "x-envoy-upstream-rq-timeout-ms: 50\r\n")).await;
    let seen = proxy.seen().await;
    assert_eq!((answer.status, &*seen.flags, &*seen.details), (504, "UT", "response_timeout"));
}

#[tokio::test]
async fn a_grpc_deadline_is_told_as_what_is_left_of_it() {
    let upstream = Upstream::mirror().await;
    let proxy = Plan::to(H1, &[upstream.address], |forward| {
        forward.timeout = Some(Duration::from_secs(3));
        forward.grpc_timeout = GrpcTimeout::AtMost(Duration::from_secs(3));
    })
    .start();
    for (asked, want) in [("2S", "2000m"), ("1H", "3000m")] {
        let request =
            format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\ngrpc-timeout: {asked}\r\ncontent-length: 0\r\n\r\n");
        let received = proxy.ask(&request).await.body;
        assert!(received.contains(&format!("grpc-timeout: {want}\r\n")), "{asked}: {received}");
    }
}

#[tokio::test]
async fn what_routes_answer_themselves_has_no_cors_and_no_mirror() {
    let action = RouteAction::Direct(DirectResponse { status: http::StatusCode::OK, body: "own".into() });
    let proxy = Plan { hosts: vec![host("*", vec![route("direct", PathMatch::Any, action)])], ..Plan::default() }.start();
    let answer = proxy.ask("GET / HTTP/1.1\r\nhost: a\r\norigin: https://a\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin"), &*answer.body), (200, None, "own"));
}
