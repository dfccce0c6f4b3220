//! Backends that say who they are and what they saw, and fail when they are asked to.
//!
//! In:  requests; the headers `do-*` say what to do.
//! Out: answers whose body is the request as JSON, and the record of all that came.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// What all backends saw since it was last cleared.
#[derive(Clone, Default)]
pub struct Records(Arc<Mutex<Vec<Value>>>);

impl Records {
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, record: Value) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }
}

/// Starts a backend and returns its port.
pub async fn start(name: &'static str, records: Records) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let asked = Arc::new(AtomicU64::new(0));
        while let Ok((stream, _)) = listener.accept().await {
            let (records, asked) = (records.clone(), asked.clone());
            let answer = service_fn(move |request: Request<Incoming>| {
                let (records, asked) = (records.clone(), asked.clone());
                async move {
                    let probe = probed(request.uri().path(), &asked).await;
                    let health = request.uri().path() == HEALTH;
                    let Some(status) = probe else {
                        return Ok::<_, Infallible>(if health { healthy(request).await } else { answer(name, &request, &records).await });
                    };
                    Ok(Response::builder().status(status).body(Full::default()).expect("a response"))
                }
            });
            tokio::spawn(async move { auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await });
        }
    });
    port
}

const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// The status of a path that readiness probes ask for; `asked` counts them.
async fn probed(path: &str, asked: &AtomicU64) -> Option<u16> {
    let good = match path {
        "/bad" => false,
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            true
        }
        "/alternate" => asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2),
        "/once" => asked.fetch_add(1, Ordering::Relaxed) == 0,
        _ => return None,
    };
    Some(if good { 200 } else { 500 })
}

/// SERVING, but for the service `down`.
async fn healthy(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let state = if asked.ends_with(b"down") { 2 } else { 1 };
    let message = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, state]));
    Response::builder().header("content-type", "application/grpc").body(message).expect("a response")
}

/// A socket whose queue of connections is full: it neither accepts nor refuses.
pub struct Mute {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Mute {
    pub async fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let listener = socket.listen(1).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let mut queue = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            queue.push(stream);
        }
        Self { listener, _queue: queue }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("an address").port()
    }
}

/// The answer of backend `name`. While the attempt is below `do-until` (or always) and the backend is `do-at` (or any): status `do-fail`, after
/// `do-wait` milliseconds.
async fn answer(name: &'static str, request: &Request<Incoming>, records: &Records) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| header(name).and_then(|text| text.parse::<u64>().ok());
    let mut headers = serde_json::Map::new();
    for name in request.headers().keys() {
        let values: Vec<_> = request.headers().get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        headers.insert(name.to_string(), values.join(",").into());
    }
    let host = request.uri().authority().map(ToString::to_string).or_else(|| header("host").map(str::to_owned));
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let protocol = format!("{:?}", request.version());
    let record =
        json!({"by": name, "method": request.method().as_str(), "target": target, "host": host, "protocol": protocol, "headers": headers});
    records.add(record.clone());
    let acts = header("do-at").is_none_or(|at| at == name)
        && number("do-until").is_none_or(|until| number("x-envoy-attempt-count").unwrap_or(1) < until);
    let mut response = Response::builder().header("x-by", name).header("x-one", "backend").header("x-two", "backend");
    if acts {
        if let Some(wait) = number("do-wait") {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        if let Some(status) = header("do-fail") {
            response = response.status(status);
        }
    }
    response.body(Full::new(Bytes::from(record.to_string()))).expect("a response")
}
