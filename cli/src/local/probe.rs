//! Is a program ready? Checks as Kubernetes' kubelet makes them, and the counting of successes and failures.
//!
//! In:  a [`Probe`] and the time passed in.
//! Out: one attempt's outcome; changes of readiness.
//!
//! Differences from a kubelet, all because nobody likes to wait on a laptop: until the first success a probe is repeated quickly, and
//! `initialDelaySeconds` is not waited for (a probe that fails before readiness has no consequence).

use std::{collections::BTreeMap, ffi::OsString, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// First pause between two attempts before a program was ever ready; grows to [`SLOW`].
const QUICK: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_millis(250);
/// Bytes of a health answer that are looked at.
const ANSWER_LIMIT: usize = 64 * 1024;

/// What counts as ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// 200..400 to a GET.
    HttpGet { address: SocketAddr, path: String, headers: Vec<(String, String)> },
    /// A connection is accepted.
    Tcp { address: SocketAddr },
    /// Status 0 of a command.
    Exec { command: Vec<OsString>, env: BTreeMap<String, String>, directory: PathBuf },
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc { address: SocketAddr, service: String },
}

/// A check with its rhythm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub check: Check,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

impl Probe {
    /// "The port accepts", checked every second.
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            check: Check::Tcp { address },
            period: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
        }
    }

    /// One attempt; the error says what was seen.
    pub async fn attempt(&self) -> Result<(), String> {
        match tokio::time::timeout(self.timeout, self.check.attempt()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }
}

/// Successes and failures in a row, and what follows from them. Pure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streak {
    success_threshold: u32,
    failure_threshold: u32,
    successes: u32,
    failures: u32,
    attempts_unready: u32,
    ready: bool,
}

impl Streak {
    /// Ready, nothing seen since.
    pub fn of_ready(probe: &Probe) -> Self {
        Self { ready: true, ..Self::new(probe) }
    }

    /// Not ready, nothing seen.
    pub fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold.max(1),
            failure_threshold: probe.failure_threshold.max(1),
            successes: 0,
            failures: 0,
            attempts_unready: 0,
            ready: false,
        }
    }

    /// Counts an attempt; `Some` when readiness changes.
    pub fn observe(&mut self, success: bool) -> Option<bool> {
        if success {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
        }
        let next = if self.ready { self.failures < self.failure_threshold } else { self.successes >= self.success_threshold };
        self.attempts_unready = if next { 0 } else { self.attempts_unready.saturating_add(1) };
        let changed = next != self.ready;
        self.ready = next;
        changed.then_some(next)
    }

    /// How long to wait before the next attempt: short while a start is awaited, the period afterwards.
    pub fn pause(&self, period: Duration) -> Duration {
        if self.ready || self.failures >= self.failure_threshold.saturating_add(240) {
            return period;
        }
        QUICK.saturating_mul(1 + self.attempts_unready).min(SLOW).min(period)
    }
}

impl Check {
    async fn attempt(&self) -> Result<(), String> {
        match self {
            Self::Tcp { address } => connect(*address).await.map(drop),
            Self::HttpGet { address, path, headers } => http_get(*address, path, headers).await,
            Self::Exec { command, env, directory } => exec(command, env, directory).await,
            Self::Grpc { address, service } => grpc(*address, service).await,
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))
}

async fn http_get(address: SocketAddr, path: &str, headers: &[(String, String)]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| format!("http://{address}{path}: {error}");
    let stream = connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get(path).header("connection", "close").header("user-agent", "pillion-probe");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", address.to_string());
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| text(&e))?;
    let answer = sender.send_request(request).await;
    connection.abort();
    match answer.map_err(|e| text(&e))?.status() {
        status if status.is_success() || status.is_redirection() => Ok(()),
        status => Err(text(&status)),
    }
}

async fn exec(command: &[OsString], env: &BTreeMap<String, String>, directory: &PathBuf) -> Result<(), String> {
    let (program, arguments) = command.split_first().ok_or("the probe has no command")?;
    let status = tokio::process::Command::new(program)
        .args(arguments)
        .envs(env)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", program.display())) }
}

async fn grpc(address: SocketAddr, service: &str) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| format!("grpc health at {address}: {error}");
    let io = TokioIo::new(connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(|error| text(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(health_request(service)))
        .map_err(|error| text(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        if response.status() != StatusCode::OK {
            return Err(text(&response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| text(&error))?;
        Ok(body.to_bytes())
    }
    .await;
    connection.abort();
    if is_serving(&answer?) { Ok(()) } else { Err(text(&"not SERVING")) }
}

/// `HealthCheckRequest {service}` in a gRPC frame.
fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    let length = u8::try_from(service.len().min(127)).unwrap_or(127);
    if length > 0 {
        message.extend_from_slice(&[0x0a, length]);
        message.extend_from_slice(&service.as_bytes()[..usize::from(length)]);
    }
    let mut frame = BytesMut::from(&[0, 0, 0, 0][..]);
    frame.extend_from_slice(&[u8::try_from(message.len()).unwrap_or(u8::MAX)]);
    frame.extend_from_slice(&message);
    frame.freeze()
}

/// `HealthCheckResponse {status: SERVING}` in a gRPC frame.
fn is_serving(frame: &[u8]) -> bool {
    frame.get(5..).is_some_and(|message| message.starts_with(&[0x08, 0x01]))
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    fn probe(check: Check) -> Probe {
        Probe { check, ..Probe::tcp(SocketAddr::from(([127, 0, 0, 1], 1))) }
    }

    #[test]
    fn readiness_follows_thresholds() {
        let mut streak =
            Streak::new(&Probe { success_threshold: 2, failure_threshold: 3, ..Probe::tcp(SocketAddr::from(([127, 0, 0, 1], 1))) });
        let steps = [
            (true, None),
            (false, None),
            (true, None),
            (true, Some(true)),
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
            (true, None),
            (true, Some(true)),
        ];
        for (index, (success, want)) in steps.into_iter().enumerate() {
            assert_eq!(streak.observe(success), want, "step {index}");
        }
    }

    #[test]
    fn a_start_is_awaited_quickly_and_watched_slowly() {
        let slow = Probe { period: Duration::from_secs(10), ..Probe::tcp(SocketAddr::from(([127, 0, 0, 1], 1))) };
        let mut streak = Streak::new(&slow);
        assert_eq!(streak.pause(slow.period), QUICK);
        for _ in 0..50 {
            streak.observe(false);
        }
        assert_eq!(streak.pause(slow.period), SLOW);
        streak.observe(true);
        assert_eq!(streak.pause(slow.period), slow.period);
    }

    #[test]
    fn health_messages_are_framed() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let cases = [(&[0, 0, 0, 0, 2, 8, 1][..], true), (&[0, 0, 0, 0, 2, 8, 2], false), (&[0, 0, 0, 0, 0], false), (&[], false)];
        for (frame, want) in cases {
            assert_eq!(is_serving(frame), want, "{frame:?}");
        }
    }

    #[tokio::test]
    async fn http_answers_below_400_count() {
        for (status, want) in [("200 OK", true), ("302 Found", true), ("503 Service Unavailable", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
                stream
            });
            let outcome = probe(Check::HttpGet { address, path: "/healthz".into(), headers: vec![] }).attempt().await;
            assert_eq!(outcome.is_ok(), want, "{status}: {outcome:?}");
            drop(server.await);
        }
    }

    #[tokio::test]
    async fn a_closed_port_and_a_failing_command_are_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(Probe::tcp(address).attempt().await, Ok(()));
        drop(listener);
        assert!(Probe::tcp(address).attempt().await.is_err());
        for (command, want) in [("true", true), ("false", false)] {
            let check = Check::Exec { command: vec![command.into()], env: BTreeMap::new(), directory: "/".into() };
            assert_eq!(probe(check).attempt().await.is_ok(), want, "{command}");
        }
    }
}
