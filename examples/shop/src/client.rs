//! How a service of the shop calls another: plain clients that honour the proxy variables, as curl and grpc-core do.
//!
//! In:  `http://host[:port]/path` and JSON; `host:port` of a gRPC service.
//! Out: status and JSON; a tonic channel.

use std::{env, io, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint};

/// Headers that a service copies from the request it serves to those it makes, so that a trace holds together.
const PASSED_ON: &[&str] = &[
    "x-request-id",
    "x-correlation-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "x-user",
];

/// No answer of the shop is larger.
const MAX_ANSWER: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// `host:port` of the proxy that the environment names first among `names`.
fn proxy(names: &[&str]) -> Option<String> {
    let value = names.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))?;
    let bare = value.strip_prefix("http://").unwrap_or(&value);
    Some(bare.trim_end_matches('/').to_owned())
}

/// Every call failed one way or answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

/// An HTTP client with a pool. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    client: Client<Connector, Full<Bytes>>,
}

impl Default for Http {
    fn default() -> Self {
        let connector = Connector { proxy: proxy(&["http_proxy", "HTTP_PROXY"]) };
        Self { client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(64).build(connector) }
    }
}

impl Http {
    /// Calls `uri`; `incoming` are the headers of the request being served.
    pub async fn call(&self, method: Method, uri: &str, incoming: &HeaderMap, body: Option<&Value>) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(uri).header("user-agent", "shop");
        for name in PASSED_ON {
            if let Some(value) = incoming.get(*name) {
                request = request.header(*name, value);
            }
        }
        let bytes = match body {
            Some(value) => {
                request = request.header("content-type", "application/json");
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes)).map_err(|error| format!("{uri}: {error}"))?;
        let response = self.client.request(request).await.map_err(|error| format!("{uri}: {error}"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| format!("{uri}: {error}"))?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Ok(Answer { status, body })
    }
}

#[derive(Clone)]
struct Connector {
    proxy: Option<String>,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let proxy = self.proxy.clone();
        Box::pin(async move {
            let direct = || format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
            let proxied = proxy.is_some();
            let stream = connect(&proxy.unwrap_or_else(direct)).await?;
            Ok(Stream { io: TokioIo::new(stream), proxied })
        })
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that knows whether it leads to a proxy: requests through one have the absolute form.
struct Stream {
    io: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>, buf: &[u8]) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A channel to the gRPC service at `target` (`host:port`), through `CONNECT` when the environment names a proxy. It connects on first use
/// and again whenever the connection was lost.
pub fn grpc(target: &'static str) -> Channel {
    let proxy = proxy(&["grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy"]);
    let connector = tower::service_fn(move |_: Uri| {
        let proxy = proxy.clone();
        async move {
            let stream = match proxy {
                Some(proxy) => tunnel(&proxy, target).await?,
                None => connect(target).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://inventory-service").origin(origin(target)).connect_with_connector_lazy(connector)
}

fn origin(target: &str) -> Uri {
    format!("http://{target}").parse().unwrap_or_default()
}

async fn tunnel(proxy: &str, target: &str) -> io::Result<TcpStream> {
    let mut stream = connect(proxy).await?;
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: shop\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 {
            return Err(io::Error::other(format!("{proxy}: endless answer to CONNECT {target}")));
        }
        head.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    if line.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(format!("CONNECT {target}: {line}")));
    }
    Ok(stream)
}
