//! The HTTP side that all services share: health, faults, counts, JSON in and out.
//!
//! In:  a listener and a service's `handle`.
//! Out: answers; the process stops accepting on SIGTERM and finishes what it has.

use std::{convert::Infallible, net::SocketAddr, ops::ControlFlow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::faults::Faults;

const MAX_BODY: usize = 1 << 20;
const DRAIN: Duration = Duration::from_secs(5);

pub type Reply = Response<Full<Bytes>>;

/// A request as a service sees it.
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Asked {
    /// The path's segments, without empty ones.
    pub fn segments(&self) -> Vec<&str> {
        self.path.split('/').filter(|segment| !segment.is_empty()).collect()
    }
}

/// A service: what it does with a request.
pub trait Serve: Send + Sync + 'static {
    fn handle(&self, asked: Asked) -> impl Future<Output = Reply> + Send;

    /// Takes over a request that is no plain one (a WebSocket); `Continue` gives it back.
    fn upgrade(&self, request: Request<Incoming>) -> ControlFlow<Reply, Request<Incoming>> {
        ControlFlow::Continue(request)
    }
}

pub fn reply(status: StatusCode, body: &Value) -> Reply {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub fn ok(body: &Value) -> Reply {
    reply(StatusCode::OK, body)
}

pub fn not_found(asked: &Asked) -> Reply {
    reply(StatusCode::NOT_FOUND, &json!({"error": format!("nothing at {} {}", asked.method, asked.path)}))
}

/// Serves until `stop`, then lets running requests finish.
pub async fn serve<S: Serve>(address: SocketAddr, service: S, stop: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let (service, faults) = (Arc::new(service), Arc::new(Faults::default()));
    let graceful = GracefulShutdown::new();
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new());
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    eprintln!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let _ = stream.set_nodelay(true);
        let (service, faults) = (service.clone(), faults.clone());
        let handle = service_fn(move |request| answer(service.clone(), faults.clone(), request));
        let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), handle).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}

async fn answer<S: Serve>(service: Arc<S>, faults: Arc<Faults>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    let request = match service.upgrade(request) {
        ControlFlow::Break(reply) => return Ok(reply),
        ControlFlow::Continue(request) => request,
    };
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(reply(StatusCode::BAD_REQUEST, &json!({"error": format!("body: {error}")}))),
    };
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    match (&parts.method, path.as_str()) {
        (&Method::GET, "/healthz") => return Ok(ok(&json!({"status": "up"}))),
        (&Method::GET, "/count") => return Ok(ok(&faults.counts())),
        (&Method::POST, "/fault") => {
            return Ok(match faults.set(&body) {
                Ok(()) => ok(&body),
                Err(error) => reply(StatusCode::BAD_REQUEST, &json!({"error": error})),
            });
        }
        _ => {}
    }
    faults.count(&parts.method, &path);
    let (delay, status) = faults.meet();
    tokio::time::sleep(delay).await;
    if let Some(status) = status {
        return Ok(reply(status, &json!({"error": "asked for by POST /fault"})));
    }
    let asked = Asked { method: parts.method, path, headers: parts.headers, body };
    Ok(service.handle(asked).await)
}
