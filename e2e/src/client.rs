//! A plain HTTP/1.1 client for tests: one connection, whatever form of target the test wants.
//!
//! In:  `host:port` to connect to, requests.
//! Out: whole responses.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON: {}: {error}", self.text()))
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// A kept-alive connection, made again when it was closed.
pub struct Client {
    address: String,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Client {
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), sender: None }
    }

    /// Sends a request as it is; its target may be absolute (for a proxy) or a path.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let exchange = async {
            let mut kept = self.sender.take();
            if let Some(sender) = &mut kept
                && sender.ready().await.is_err()
            {
                kept = None;
            }
            let sender = match kept {
                Some(sender) => self.sender.insert(sender),
                None => {
                    let stream = TcpStream::connect(&self.address).await.map_err(|error| format!("{}: {error}", self.address))?;
                    stream.set_nodelay(true).map_err(|error| error.to_string())?;
                    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
                    tokio::spawn(connection);
                    self.sender.insert(sender)
                }
            };
            let response: Response<_> = sender.send_request(request).await.map_err(|error| format!("{}: {error:?}", self.address))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("body: {error:?}"))?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        let answer =
            tokio::time::timeout(ANSWER_WITHIN, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_WITHIN:?}")));
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    /// Asks for `uri`, absolute for a proxy (`http://product-service/…`).
    pub async fn call(&mut self, method: Method, uri: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer, String> {
        let host = uri.parse::<http::Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
        let mut request = Request::builder().method(method).uri(uri);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", host.unwrap_or_else(|| self.address.clone()));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(Bytes::from(body.to_owned()))).map_err(|error| error.to_string())?).await
    }

    pub async fn get(&mut self, uri: &str) -> Result<Answer, String> {
        self.call(Method::GET, uri, &[], "").await
    }
}

/// One GET on a fresh connection; panics when there is no answer.
pub async fn get(address: &str, uri: &str) -> Answer {
    Client::new(address).get(uri).await.unwrap_or_else(|error| panic!("GET {uri} at {address}: {error}"))
}

/// One POST on a fresh connection; panics when there is no answer.
pub async fn post(address: &str, uri: &str, body: &str) -> Answer {
    let mut client = Client::new(address);
    let answer = client.call(Method::POST, uri, &[("content-type", "application/json")], body).await;
    answer.unwrap_or_else(|error| panic!("POST {uri} at {address}: {error}"))
}
