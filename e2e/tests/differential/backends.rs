//! Backends that write down what they got and behave as the request says.
//!
//! In:  connections of proxies; `x-do` in requests: `status=N`, `grpc=N`, `reset`, `slow`, `overloaded`, `chunked`, `until-close`, `early`, after
//!      `fail=K; ` only for the first K tries.
//! Out: per request (its user agent) what every backend received.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::wire::{self, Head};

/// Longer than every timeout of the configurations.
const SLOW: Duration = Duration::from_millis(1_200);

/// A request as a backend got it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Received {
    pub backend: &'static str,
    pub line: String,
    /// Names in lower case, sorted; values as they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What all backends got, by user agent.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<String, Vec<Received>>>>);

impl Ledger {
    fn enter(&self, mark: &str, received: Received) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_mark = all.entry(mark.to_owned()).or_default();
        let tries = of_mark.iter().filter(|other| other.backend == received.backend).count();
        of_mark.push(received);
        tries
    }

    /// What backends got for this mark, in a fixed order.
    pub fn of(&self, mark: &str) -> Vec<Received> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = all.get(mark).cloned().unwrap_or_default();
        found.sort();
        found
    }
}

/// Starts a backend; its port.
pub async fn start(name: &'static str, ledger: &Ledger) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let ledger = ledger.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ledger = ledger.clone();
            tokio::spawn(async move { serve(stream, name, &ledger).await });
        }
    });
    port
}

/// Serves a connection until either side ends it.
async fn serve(stream: TcpStream, name: &'static str, ledger: &Ledger) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut stream = BufReader::new(stream);
    loop {
        let head = wire::head(&mut stream).await.ok()?;
        let todo = head.value("x-do").unwrap_or_default().to_owned();
        if todo == "early" {
            // An answer before the body was read.
            respond(&mut stream, name, "status=413", head.line.starts_with("HEAD ")).await?;
        }
        let body = wire::body(&mut stream, &head, false).await.ok()?.bytes;
        let tries = ledger.enter(head.value("user-agent").unwrap_or_default(), received(name, &head, body));
        if todo == "early" {
            continue;
        }
        let todo = match todo.strip_prefix("fail=").and_then(|rest| rest.split_once("; ")) {
            Some((times, failure)) if times.parse().is_ok_and(|times: usize| tries < times) => failure.to_owned(),
            Some(_) => String::new(),
            None => todo,
        };
        respond(&mut stream, name, &todo, head.line.starts_with("HEAD ")).await?;
    }
}

fn received(backend: &'static str, head: &Head, body: Vec<u8>) -> Received {
    Received { backend, line: head.line.clone(), headers: head.sorted(), body }
}

/// Answers; `None` when the connection is at its end.
async fn respond(stream: &mut BufReader<TcpStream>, name: &str, todo: &str, head_only: bool) -> Option<()> {
    let (what, number) = todo.split_once('=').unwrap_or((todo, ""));
    let common = format!("x-backend: {name}\r\nserver: backend\r\nX-Mixed: One\r\nx-mixed: two\r\n");
    let body = format!("from {name}\n");
    let lengthy = |status: &str, more: &str| {
        let shown = if head_only || status.starts_with("304") { "" } else { &body };
        format!("HTTP/1.1 {status}\r\n{common}{more}content-length: {}\r\n\r\n{shown}", body.len())
    };
    let answer = match what {
        "reset" => {
            stream.get_ref().set_zero_linger().ok()?;
            return None;
        }
        "slow" => {
            tokio::time::sleep(SLOW).await;
            lengthy("200 OK", "")
        }
        // Heads that say more of a body than there is.
        "length-of-none" => format!("HTTP/1.1 {number} Some Reason\r\n{common}content-length: {}\r\n\r\n", body.len()),
        "status" if number == "204" => format!("HTTP/1.1 204 No Content\r\n{common}\r\n"),
        "status" if number == "304" => format!("HTTP/1.1 304 Not Modified\r\n{common}etag: \"x\"\r\n\r\n"),
        "status" => lengthy(&format!("{number} Some Reason"), ""),
        "grpc" => {
            format!("HTTP/1.1 200 OK\r\n{common}content-type: application/grpc\r\ngrpc-status: {number}\r\ncontent-length: 0\r\n\r\n")
        }
        "overloaded" => lengthy("503 Service Unavailable", "x-envoy-overloaded: true\r\n"),
        "chunked" if !head_only => {
            format!("HTTP/1.1 200 OK\r\n{common}transfer-encoding: chunked\r\n\r\n3\r\nfro\r\n2\r\nm\n\r\n0\r\n\r\n")
        }
        "until-close" if !head_only => format!("HTTP/1.1 200 OK\r\n{common}connection: close\r\n\r\n{body}"),
        _ => lengthy("200 OK", ""),
    };
    stream.write_all(answer.as_bytes()).await.ok()?;
    if what == "until-close" {
        stream.shutdown().await.ok()?;
        return None;
    }
    Some(())
}
