//! The front door: pages for visitors, the orders' fate over a WebSocket, and visits of its own when asked for.

use std::{ops::ControlFlow, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{sync::broadcast, time::MissedTickBehavior};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use crate::{
    Args,
    client::Http,
    server::{Asked, Reply, Serve, not_found, ok, reply},
};

/// Events a slow visitor may lag behind before it misses some.
const EVENT_BACKLOG: usize = 256;
/// One visit in this many places an order.
const ORDER_EVERY: u64 = 10;

#[derive(Clone)]
pub struct ApiGateway {
    http: Http,
    events: broadcast::Sender<String>,
}

impl ApiGateway {
    pub fn start(args: &Args) -> Self {
        let this = Self { http: Http::default(), events: broadcast::Sender::new(EVENT_BACKLOG) };
        if args.visits > 0 && !args.quiet {
            tokio::spawn(this.clone().visit(args.visits));
        }
        this
    }

    /// Visits of people who do not exist, at a steady rate; a slow mesh slows nobody else down.
    async fn visit(self, per_second: u32) {
        let mut clock = tokio::time::interval(Duration::from_secs(1) / per_second.min(10_000));
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let at_once = std::sync::Arc::new(tokio::sync::Semaphore::new(256));
        for visit in 0u64.. {
            clock.tick().await;
            let Ok(permit) = at_once.clone().try_acquire_owned() else { continue };
            let this = self.clone();
            tokio::spawn(async move {
                let mut headers = HeaderMap::new();
                headers.insert("x-user", HeaderValue::from(visit % 100));
                match visit % ORDER_EVERY {
                    0 => this.order(&headers, &json!({"product": "bicycle", "quantity": 1})).await,
                    1 => this.pass(Method::GET, &format!("http://user-service/users/{}", visit % 100), &headers, None).await,
                    _ => this.pass(Method::GET, &format!("http://product-service/api/products/{}", visit % 1000), &headers, None).await,
                };
                drop(permit);
            });
        }
    }

    async fn pass(&self, method: Method, uri: &str, headers: &HeaderMap, body: Option<&Value>) -> Reply {
        match self.http.call(method, uri, headers, body).await {
            Ok(answer) => reply(answer.status, &answer.body),
            Err(error) => reply(StatusCode::BAD_GATEWAY, &json!({"error": error})),
        }
    }

    async fn order(&self, headers: &HeaderMap, body: &Value) -> Reply {
        let event = match self.http.call(Method::POST, "http://order-service/orders", headers, Some(body)).await {
            Ok(answer) => (answer.status, answer.body),
            Err(error) => (StatusCode::BAD_GATEWAY, json!({"error": error})),
        };
        let _ = self.events.send(json!({"status": event.0.as_u16(), "order": event.1}).to_string());
        reply(event.0, &event.1)
    }

    /// Sends every order's fate and answers each message with itself.
    async fn tell<S>(self, mut socket: WebSocketStream<S>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let mut events = self.events.subscribe();
        loop {
            let message = tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => Message::text(event),
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                received = socket.next() => match received {
                    Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => message,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                    Some(Ok(_)) => continue,
                },
            };
            if socket.send(message).await.is_err() {
                break;
            }
        }
        let _ = socket.close(None).await;
    }
}

impl Serve for ApiGateway {
    async fn handle(&self, asked: Asked) -> Reply {
        match (&asked.method, asked.segments().as_slice()) {
            (&Method::GET, []) => ok(&json!({
                "shop": "bicycles and what belongs to them",
                "try": ["/api/products", "/api/products/7", "/api/users/1", "POST /api/orders", "ws: /ws/orders"],
            })),
            (&Method::GET, ["api", "products", ..]) => {
                self.pass(Method::GET, &format!("http://product-service{}", asked.path), &asked.headers, None).await
            }
            (&Method::GET, ["api", "users", id]) => {
                self.pass(Method::GET, &format!("http://user-service/users/{id}"), &asked.headers, None).await
            }
            (&Method::POST, ["api", "login"]) => {
                self.pass(Method::POST, "http://user-service/login", &asked.headers, Some(&asked.body)).await
            }
            (&Method::POST, ["api", "orders"]) => self.order(&asked.headers, &asked.body).await,
            (&Method::GET, ["api", "orders", id]) => {
                self.pass(Method::GET, &format!("http://order-service/orders/{id}"), &asked.headers, None).await
            }
            _ => not_found(&asked),
        }
    }

    fn upgrade(&self, mut request: Request<Incoming>) -> ControlFlow<Reply, Request<Incoming>> {
        let wanted = request.uri().path() == "/ws/orders"
            && request.headers().get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).filter(|_| wanted) else {
            return ControlFlow::Continue(request);
        };
        let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else { return ControlFlow::Continue(request) };
        let (upgrade, this) = (hyper::upgrade::on(&mut request), self.clone());
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                this.tell(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await).await;
            }
        });
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        ControlFlow::Break(response)
    }
}
