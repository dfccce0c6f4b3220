//! The HTTP/1.1 client inside the path: both directions at once, early answers, and what upstreams say unasked.

#![allow(clippy::unwrap_used)] // Helpers are test code too.

mod path_support;

use path_support::*;
use pillion_proxy::config::cluster::UpstreamProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const H1: UpstreamProtocol = UpstreamProtocol::Http1;

#[tokio::test]
async fn both_directions_go_on_after_an_early_head_and_the_connection_is_kept() {
    let upstream = Upstream::start(|mut peer| async move {
        while read_head(&mut peer.stream).await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
            let mut letter = [0];
            for _ in 0..5 {
                peer.stream.read_exact(&mut letter).await.unwrap();
                peer.stream.write_all(&letter).await.unwrap();
            }
        }
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    for _ in 0..3 {
        stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n").await.unwrap();
        assert!(soon(read_head(&mut stream)).await.unwrap().starts_with("HTTP/1.1 200"));
        for letter in b"hello" {
            stream.write_all(&[*letter]).await.unwrap();
            assert_eq!(soon(stream.read_u8()).await.unwrap(), *letter);
        }
        assert_eq!(proxy.seen().await.status, 200);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn trailers_that_a_request_announces_go_up() {
    let upstream = Upstream::start(|mut peer| async move {
        let head = read_head(&mut peer.stream).await.unwrap();
        let mut body = Vec::new();
        while !body.ends_with(b"\r\n\r\n") {
            peer.stream.read_buf(&mut body).await.unwrap();
        }
        let text = format!("{head}{}", String::from_utf8(body).unwrap());
        peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())).await;
    })
    .await;
    let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let answer = proxy
        .ask("POST / HTTP/1.1\r\nhost: a\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\nx-other: 1\r\n\r\n")
        .await;
    assert!(answer.body.contains("transfer-encoding: chunked\r\n"), "{answer:?}");
    assert!(answer.body.ends_with("\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n"), "{answer:?}");
}

#[tokio::test]
async fn bytes_said_unasked_are_nobodys_answer() {
    for unasked in ["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", "x"] {
        let upstream = Upstream::start(move |mut peer| async move {
            while peer.request().await.is_some() {
                peer.send(&format!("{OK}{unasked}")).await;
            }
        })
        .await;
        let proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
        let mut stream = proxy.connect().await;
        for number in 1..5 {
            assert_eq!(ask(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await.body, "ok");
            assert_eq!(upstream.connections(), number);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_upload_is_stuck_takes_the_connection_along() {
    let (closed, mut told) = tokio::sync::mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut peer| {
        let closed = closed.clone();
        async move {
            read_head(&mut peer.stream).await;
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
            // Nothing of the body is read; only the end of what can be written is noticed.
            while peer.stream.write_all(b"1\r\ny\r\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            closed.send(()).unwrap();
        }
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    let mut stream = proxy.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").await.unwrap();
    soon(read_head(&mut stream)).await.unwrap();
    let piece = vec![b'x'; 1 << 20];
    while tokio::time::timeout(std::time::Duration::from_millis(300), stream.write_all(&piece)).await.is_ok() {}
    drop(stream);
    soon(told.recv()).await.unwrap();
    assert_eq!(proxy.seen().await.flags, "DC");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_passed_on_whole() {
    let upstream = Upstream::start(|mut peer| async move {
        read_head(&mut peer.stream).await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
        let mut rest = [0; 1024];
        while peer.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let mut proxy = Plan::to(H1, &[upstream.address], |_| {}).start();
    for number in 1..3 {
        let mut stream = proxy.connect().await;
        stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nstart").await.unwrap();
        assert_eq!(read_answer(&mut stream).await.body, "hello");
        assert_eq!(proxy.seen().await.status, 200);
        assert_eq!(upstream.connections(), number, "a connection whose request is not complete is not used again");
    }
}
