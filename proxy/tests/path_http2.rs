//! The request path over HTTP/2: streams, trailers, refusals, GOAWAY, and between the protocols.

#![allow(clippy::unwrap_used)] // Helpers are test code too.

mod path_support;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, Request, Response};
use path_support::*;
use pillion_proxy::config::cluster::UpstreamProtocol;
use pillion_proxy::config::route_table::{Fraction, Mirror};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const H2: UpstreamProtocol = UpstreamProtocol::Http2;
type Responder = server::SendResponse<Bytes>;

/// An upstream that speaks HTTP/2; the script runs per request.
struct Upstream2 {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Upstream2 {
    async fn start<F>(
        builder: server::Builder,
        script: impl Fn(usize, Request<RecvStream>, Responder) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, seen) = (Arc::clone(&requests), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::SeqCst);
                let (builder, script, counted) = (builder.clone(), script.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    while let Some(Ok((request, responder))) = connection.accept().await {
                        let number = counted.fetch_add(1, Ordering::SeqCst);
                        tokio::spawn(script(number, request, responder));
                    }
                });
            }
        });
        Self { address, requests, connections }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn read_body(body: &mut RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.ok().flatten();
    (bytes, trailers)
}

fn ok() -> Response<()> {
    Response::new(())
}

/// Echoes method, target, authority and body, with a trailer.
async fn echo(_: usize, request: Request<RecvStream>, mut responder: Responder) {
    let (head, mut body) = request.into_parts();
    let (bytes, trailers) = read_body(&mut body).await;
    let sum = trailers.and_then(|trailers| trailers.get("x-sum").cloned());
    let text = format!("{} {} {}", head.method, head.uri, String::from_utf8_lossy(&bytes));
    let mut response = ok();
    response.headers_mut().insert("x-te", head.headers.get("te").cloned().unwrap_or("none".parse().unwrap()));
    let Ok(mut stream) = responder.send_response(response, false) else { return };
    let _ = stream.send_data(text.into(), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.extend(sum.map(|sum| (http::HeaderName::from_static("x-sum"), sum)));
    let _ = stream.send_trailers(trailers);
}

async fn client_of(proxy: &Proxy) -> client::SendRequest<Bytes> {
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (sender, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://shop{path}")).header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

async fn send(sender: &mut client::SendRequest<Bytes>, request: Request<()>, body: &str) -> (Response<()>, String, Option<HeaderMap>) {
    poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
    let (response, mut stream) = sender.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
    }
    let (head, mut body) = soon(response).await.unwrap().into_parts();
    let (bytes, trailers) = soon(read_body(&mut body)).await;
    (Response::from_parts(head, ()), String::from_utf8(bytes).unwrap(), trailers)
}

#[tokio::test]
async fn grpc_keeps_its_trailers_and_te() {
    let upstream = Upstream2::start(server::Builder::new(), echo).await;
    let mut proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    let (head, body, trailers) = send(&mut sender, post("/pkg.Service/Call"), "message").await;
    assert_eq!((head.status().as_u16(), head.headers()["x-te"].to_str().unwrap()), (200, "trailers"));
    assert_eq!(body, "POST http://shop/pkg.Service/Call message");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    let seen = proxy.seen().await;
    assert_eq!((seen.status, seen.grpc_status, seen.bytes_received, &*seen.flags), (200, Some(0), 7, "-"));
}

#[tokio::test]
async fn mirrors_speak_their_own_protocol() {
    let upstream = Upstream2::start(server::Builder::new(), echo).await;
    let (sender, mut told) = mpsc::unbounded_channel();
    let (told_two, told_one) = (sender.clone(), sender);
    let two = Upstream2::start(server::Builder::new(), move |_, request, mut responder| {
        let told = told_two.clone();
        async move {
            let (head, mut body) = request.into_parts();
            let (bytes, trailers) = read_body(&mut body).await;
            let sum = trailers.is_some_and(|trailers| trailers.contains_key("x-sum"));
            let _ = told.send(format!("two {} {} {sum}", head.uri, String::from_utf8_lossy(&bytes)));
            let _ = responder.send_response(ok(), true);
        }
    })
    .await;
    let one = Upstream::start(move |mut peer| {
        let told = told_one.clone();
        async move {
            while let Some(request) = peer.request().await {
                let lines: Vec<&str> = request.lines().collect();
                let host = lines.iter().find(|line| line.starts_with("host: ")).copied().unwrap_or_default();
                let _ = told.send(format!("one {} {host} {}", lines[0], request.contains("message")));
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let mirror = |cluster: &str| Mirror { cluster: cluster.into(), share: Fraction::ALWAYS, shadow_host: true, host: None };
    let mut plan = Plan::to(H2, &[upstream.address], |forward| forward.mirrors = Box::new([mirror("one"), mirror("two")]));
    plan.clusters.push(cluster("one", UpstreamProtocol::Http1, &[one.address]));
    plan.clusters.push(cluster("two", H2, &[two.address]));
    let proxy = plan.start();
    let mut sender = client_of(&proxy).await;
    for _ in 0..2 {
        poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        let (response, mut stream) = sender.send_request(post("/pkg.Service/Call"), false).unwrap();
        stream.send_data(Bytes::from_static(b"message"), false).unwrap();
        stream.send_trailers(HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), "7".parse().unwrap())])).unwrap();
        let (head, mut body) = soon(response).await.unwrap().into_parts();
        let (bytes, trailers) = soon(read_body(&mut body)).await;
        assert_eq!((head.status.as_u16(), &*bytes), (200, &b"POST http://shop/pkg.Service/Call message"[..]));
        assert_eq!(trailers.unwrap()["x-sum"], "7");
        let mut copies = [soon(told.recv()).await.unwrap(), soon(told.recv()).await.unwrap()];
        copies.sort();
        assert_eq!(
            copies,
            ["one POST /pkg.Service/Call HTTP/1.1 host: shop-shadow true", "two http://shop-shadow/pkg.Service/Call message true"]
        );
    }
    assert_eq!((one.connections(), two.connections.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn streams_run_in_both_directions_at_once() {
    let upstream = Upstream2::start(server::Builder::new(), |_, request, mut responder| async move {
        // The head first, then every message as it comes.
        let mut stream = responder.send_response(ok(), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            stream.send_data(data, false).unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let mut proxy = Plan::to(H2, &[upstream.address], |forward| forward.retry = Some(retry("unavailable", 2))).start();
    let mut sender = client_of(&proxy).await;
    let (response, mut up) = sender.send_request(post("/chat"), false).unwrap();
    let mut down = soon(response).await.unwrap().into_body();
    for round in 0..100 {
        let message = format!("message {round}");
        up.send_data(Bytes::from(message.clone()), false).unwrap();
        let echoed = soon(down.data()).await.unwrap().unwrap();
        let _ = down.flow_control().release_capacity(echoed.len());
        assert_eq!(echoed, message.as_bytes());
        // Changes of the stream's own route and cluster cut nothing.
        proxy.swap(Plan::to(H2, &[upstream.address], |forward| forward.timeout = Some(Duration::from_secs(round + 1))));
    }
    up.send_data(Bytes::new(), true).unwrap();
    let (rest, trailers) = soon(read_body(&mut down)).await;
    assert!(rest.is_empty());
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    assert_eq!(proxy.seen().await.grpc_status, Some(0));
}

#[tokio::test]
async fn large_bodies_pass_under_flow_control() {
    let upstream = Upstream2::start(server::Builder::new(), echo).await;
    let proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let body = "0123456789abcdef".repeat(256 << 10);
    let request = format!("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = proxy.connect().await;
    let (mut read, mut write) = stream.split();
    let writing = async { tokio::io::AsyncWriteExt::write_all(&mut write, request.as_bytes()).await.unwrap() };
    let reading = async {
        let mut got = Vec::new();
        while !got.ends_with(b"0\r\n\r\n") && !got.ends_with(b"0\r\ngrpc-status: 0\r\n\r\n") {
            assert!(tokio::io::AsyncReadExt::read_buf(&mut read, &mut got).await.unwrap() > 0);
        }
        got.len()
    };
    let ((), length) = soon(async { tokio::join!(writing, reading) }).await;
    assert!(length > body.len());
}

#[tokio::test]
async fn http1_goes_up_as_http2_and_back() {
    let upstream = Upstream2::start(server::Builder::new(), echo).await;
    let proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let answer = proxy.ask("POST /a?b HTTP/1.1\r\nhost: shop:80\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!((answer.status, answer.header("x-te")), (200, Some("none")));
    assert!(answer.body.contains("POST http://shop:80/a?b hi"), "{}", answer.body);
}

#[tokio::test]
async fn http2_goes_up_as_http1_and_back() {
    let upstream = Upstream::mirror().await;
    let proxy = Plan::to(UpstreamProtocol::Http1, &[upstream.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    let (head, body, _) = send(&mut sender, post("/x?y"), "message").await;
    assert_eq!(head.status(), 200);
    assert!(body.starts_with("POST /x?y HTTP/1.1\r\n") && body.contains("host: shop\r\n"), "{body}");
    assert!(!head.headers().contains_key("connection"));
}

#[tokio::test]
async fn the_upstream_gets_what_the_downstream_speaks_when_the_cluster_says_so() {
    let (one, two) = (Upstream::mirror().await, Upstream2::start(server::Builder::new(), echo).await);
    let proxy = Plan::to(UpstreamProtocol::Downstream, &[two.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    assert_eq!(send(&mut sender, post("/"), "x").await.1, "POST http://shop/ x");
    proxy.swap(Plan::to(UpstreamProtocol::Downstream, &[one.address], |_| {}));
    let speaks = async {
        while proxy.get("/").await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    soon(speaks).await;
}

#[tokio::test]
async fn a_refused_stream_moves_even_a_post() {
    // Every other stream is refused: not processed, says HTTP/2, so it may be sent again.
    let executed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executed);
    let upstream = Upstream2::start(server::Builder::new(), move |number, request, mut responder| {
        let counted = Arc::clone(&counted);
        async move {
            if number % 2 == 0 {
                responder.send_reset(h2::Reason::REFUSED_STREAM);
                return;
            }
            counted.fetch_add(1, Ordering::SeqCst);
            echo(number, request, responder).await;
        }
    })
    .await;
    let mut proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    for round in 1..=5 {
        let (head, body, _) = send(&mut sender, post("/"), "buy").await;
        assert_eq!((head.status().as_u16(), &*body), (200, "POST http://shop/ buy"));
        assert_eq!(executed.load(Ordering::SeqCst), round);
        assert_eq!(proxy.seen().await.attempts, 1);
    }
}

#[tokio::test]
async fn a_peer_that_refuses_everything_is_given_up() {
    let upstream =
        Upstream2::start(server::Builder::new(), |_, _, mut responder| async move { responder.send_reset(h2::Reason::REFUSED_STREAM) })
            .await;
    let mut proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let answer = proxy.get("/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.ends_with("reset reason: remote refused stream reset"), "{}", answer.body);
    assert_eq!(&*proxy.seen().await.flags, "UR");
    assert!(upstream.requests() <= 4);
}

#[tokio::test]
async fn other_resets_are_not_repeated() {
    let upstream =
        Upstream2::start(server::Builder::new(), |_, _, mut responder| async move { responder.send_reset(h2::Reason::INTERNAL_ERROR) })
            .await;
    let mut proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    let (head, _, _) = send(&mut sender, post("/"), "buy").await;
    assert_eq!((head.status().as_u16(), head.headers()["grpc-status"].to_str().unwrap()), (200, "14"));
    let seen = proxy.seen().await;
    assert_eq!((&*seen.flags, &*seen.details), ("UR", "upstream_reset_before_response_started{remote_reset}"));
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn requests_above_a_goaway_move_to_another_connection() {
    // Each connection takes one request and says that it will take no more.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let executed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&executed);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                let mut first = true;
                while let Some(Ok((request, responder))) = connection.accept().await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(echo(0, request, responder));
                    if std::mem::take(&mut first) {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    let mut proxy = Plan::to(H2, &[address], |_| {}).start();
    let sender = client_of(&proxy).await;
    let requests = (0..20).map(|_| {
        let mut sender = sender.clone();
        tokio::spawn(async move { send(&mut sender, post("/"), "buy").await.0.status() })
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(soon(request).await.unwrap(), 200);
    }
    assert_eq!(executed.load(Ordering::SeqCst), 20);
    for _ in 0..20 {
        assert_eq!(proxy.seen().await.flags, "-");
    }
}

#[tokio::test]
async fn a_connection_that_ends_after_its_goaway_is_not_mistaken_for_a_refusal() {
    let executed = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counted = Arc::clone(&executed);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = server::handshake(stream).await.unwrap();
            // The request is taken (the last stream of the GOAWAY includes it), and then all is dropped.
            if let Some(Ok(taken)) = connection.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                connection.graceful_shutdown();
                let _ = tokio::time::timeout(Duration::from_millis(20), connection.accept()).await;
                drop(connection);
                drop(taken);
            }
        }
    });
    let mut proxy = Plan::to(H2, &[address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    let (head, _, _) = send(&mut sender, post("/"), "buy").await;
    assert_eq!(head.headers()["grpc-status"], "14");
    assert_eq!(executed.load(Ordering::SeqCst), 1);
    assert_eq!(proxy.seen().await.status, 200);
}

#[tokio::test]
async fn more_streams_than_the_peer_allows_open_another_connection() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(3);
    let (go, wait) = tokio::sync::watch::channel(false);
    let upstream = Upstream2::start(builder, move |number, request, responder| {
        let mut wait = wait.clone();
        async move {
            if number > 0 {
                let _ = wait.wait_for(|go| *go).await;
            }
            echo(number, request, responder).await;
        }
    })
    .await;
    let proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    // The first answer tells that the peer's SETTINGS have been read.
    send(&mut sender, post("/"), "").await;
    let requests: Vec<_> = (0..9)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move { send(&mut sender, post("/"), "x").await.0.status() })
        })
        .collect();
    let all_there = async {
        while upstream.requests() < 10 {
            tokio::task::yield_now().await;
        }
    };
    soon(all_there).await;
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 3);
    go.send_replace(true);
    for request in requests {
        assert_eq!(soon(request).await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_client_that_resets_its_stream_resets_the_upstreams() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let upstream = Upstream2::start(server::Builder::new(), move |_, _, mut responder| {
        let told = told.clone();
        async move {
            let mut stream: SendStream<Bytes> = responder.send_response(ok(), false).unwrap();
            let _ = told.send(None);
            let reason = poll_fn(|cx| stream.poll_reset(cx)).await.ok();
            let _ = told.send(reason);
        }
    })
    .await;
    let mut proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    let (response, mut stream) = sender.send_request(post("/"), false).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(soon(heard.recv()).await, Some(None));
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    assert_eq!(soon(heard.recv()).await, Some(Some(h2::Reason::CANCEL)));
    assert_eq!(&*proxy.seen().await.flags, "DC");
}

#[tokio::test]
async fn grpc_deadlines_bound_the_request_when_the_route_lets_them() {
    use pillion_proxy::config::route_table::GrpcTimeout;
    let upstream = Upstream2::start(server::Builder::new(), |_, _, responder| async move {
        let _kept = responder;
        std::future::pending::<()>().await;
    })
    .await;
    let mut proxy = Plan::to(H2, &[upstream.address], |forward| forward.grpc_timeout = GrpcTimeout::Uncapped).start();
    let mut sender = client_of(&proxy).await;
    let mut request = post("/");
    request.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let (head, _, _) = send(&mut sender, request, "x").await;
    assert_eq!((head.headers()["grpc-status"].to_str().unwrap(), &*proxy.seen().await.flags), ("14", "UT"));
}

#[tokio::test]
async fn grpc_replies_in_the_head_are_retried_by_their_condition() {
    let upstream = Upstream2::start(server::Builder::new(), |number, request, mut responder| async move {
        if number == 0 {
            let reply = Response::builder().header("content-type", "application/grpc").header("grpc-status", "14").body(()).unwrap();
            responder.send_response(reply, true).unwrap();
            return;
        }
        echo(number, request, responder).await;
    })
    .await;
    let mut proxy = Plan::to(H2, &[upstream.address], |forward| forward.retry = Some(retry("unavailable", 2))).start();
    let mut sender = client_of(&proxy).await;
    assert_eq!(send(&mut sender, post("/"), "again").await.1, "POST http://shop/ again");
    let seen = proxy.seen().await;
    assert_eq!((seen.attempts, seen.grpc_status), (2, Some(0)));
}

#[tokio::test]
async fn a_drain_says_goaway_and_finishes_the_streams() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let upstream = Upstream2::start(server::Builder::new(), move |number, request, responder| {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|go| *go).await;
            echo(number, request, responder).await;
        }
    })
    .await;
    let proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, connection) = client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let (response, _) = sender.send_request(post("/"), true).unwrap();
    let there = async {
        while upstream.requests() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(there).await;
    proxy.drain.stop(SOON);
    let refused = async {
        while poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await;
    go.send_replace(true);
    assert_eq!(soon(response).await.unwrap().status(), 200);
    drop(sender);
    soon(connection).await.unwrap().unwrap();
    proxy.join().await;
}

#[tokio::test]
async fn heads_larger_than_allowed_are_refused() {
    let upstream = Upstream2::start(server::Builder::new(), echo).await;
    let proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    let mut request = post("/");
    request.headers_mut().insert("x", "y".repeat(61 << 10).parse().unwrap());
    let (response, _) = sender.send_request(request, true).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 431);
}

#[tokio::test]
async fn pieces_of_a_cookie_reach_rules_and_upstreams_as_one() {
    let upstream = Upstream::mirror().await;
    let proxy = Plan::to(UpstreamProtocol::Http1, &[upstream.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    let mut request = post("/");
    request.headers_mut().append("cookie", "a=1".parse().unwrap());
    request.headers_mut().append("cookie", "b=2".parse().unwrap());
    let (_, body, _) = send(&mut sender, request, "x").await;
    assert!(body.contains("\r\ncookie: a=1; b=2\r\n"), "{body}");
}

#[tokio::test]
async fn more_fields_than_allowed_are_refused() {
    let upstream = Upstream2::start(server::Builder::new(), echo).await;
    let mut proxy = Plan::to(H2, &[upstream.address], |_| {}).start();
    let mut sender = client_of(&proxy).await;
    let mut request = Request::get("http://shop/").body(()).unwrap();
    for number in 0..101 {
        request.headers_mut().append("x", number.into());
    }
    let (head, _, _) = send(&mut sender, request, "").await;
    assert_eq!((head.status().as_u16(), upstream.requests()), (431, 0));
    let seen = proxy.seen().await;
    assert_eq!((&*seen.flags, &*seen.details), ("DPE", "http2.too_many_headers"));
    // Only the stream ends.
    assert_eq!(send(&mut sender, post("/"), "x").await.0.status(), 200);
}

#[tokio::test]
async fn requests_that_wait_for_one_connection_share_its_failure() {
    // Nobody accepts here, and what may wait to be accepted is full: connecting takes until the timeout.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    let mut plan = Plan::to(H2, &[address], |_| {});
    plan.clusters[0].connect_timeout = Duration::from_millis(400);
    let proxy = plan.start();
    let sender = client_of(&proxy).await;
    let began = tokio::time::Instant::now();
    let requests = (0..6).map(|_| {
        let mut sender = sender.clone();
        tokio::spawn(async move { send(&mut sender, Request::get("http://shop/").body(()).unwrap(), "").await })
    });
    for request in requests.collect::<Vec<_>>() {
        let (head, body, _) = soon(request).await.unwrap();
        assert!(head.status() == 503 && body.ends_with("reset reason: connection timeout"), "{body}");
    }
    assert!(began.elapsed() < Duration::from_millis(1600), "one after the other: {:?}", began.elapsed());
}
