//! Connections to endpoints: dialling, pools, and the codecs' client side. The only I/O towards upstreams.
//!
//! In:  an endpoint, a protocol and a request without hop-by-hop fields.
//! Out: the response's head with its streaming body, or a [`Failure`] that says how far the request got.

pub mod dial;
pub mod h1;
pub mod h2;
pub mod pool;
pub mod resolve;
pub mod stream;

use std::borrow::Cow;

use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use tokio::time::Instant;

use self::pool::Pool;
use crate::config::cluster::{Cluster, EndpointLive};
use crate::retry::replay::RequestBody;

/// A connection that has taken on one request.
#[derive(Debug)]
pub enum Link {
    Http1(h1::Sender),
    Http2(Rc<h2::Connection>),
}

/// A response's head with its body, as the protocol gives it.
#[derive(Debug)]
pub enum Answer {
    /// The sender goes back to its pool when the body has ended.
    Http1(Response<h1::Body>, h1::Sender),
    Http2(Response<h2::ResponseStream>),
}

impl Link {
    /// A connection from the pool, or a new one.
    ///
    /// # Errors
    /// When none can be made.
    pub async fn open(pool: &Pool, cluster: &Cluster, live: &Arc<EndpointLive>, http2: bool, now: Instant) -> Result<Self, Failure> {
        if http2 { pool.http2(cluster, live, now).await.map(Self::Http2) } else { pool.http1(cluster, live, now).await.map(Self::Http1) }
    }

    /// Whether it has carried requests before, so that the peer may have closed it meanwhile.
    pub fn is_used(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.requests > 0,
            Self::Http2(connection) => connection.requests() > 0,
        }
    }

    pub fn local(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Http1(sender) => sender.local,
            Self::Http2(connection) => connection.local,
        }
    }

    /// Send the request.
    ///
    /// # Errors
    /// Says how far it got.
    pub async fn send(self, request: Request<RequestBody>) -> Result<Answer, Failure> {
        match self {
            Self::Http1(mut sender) => {
                let response = sender.send(request).await?;
                Ok(Answer::Http1(response, sender))
            }
            Self::Http2(connection) => h2::send(&connection, request).await.map(Answer::Http2),
        }
    }
}

/// Why a try brought no response.
#[derive(Debug)]
pub enum Failure {
    /// No connection could be made.
    Connect { timed_out: bool, reason: Cow<'static, str> },
    /// Nothing of the request was written; here it is again.
    Unsent(Box<Request<RequestBody>>),
    /// The peer says it has not and will not process it (REFUSED_STREAM, above GOAWAY's last stream).
    Disowned,
    /// The connection ended first.
    Terminated(Cow<'static, str>),
    /// The peer reset the stream.
    RemoteReset,
    /// The peer's answer is no HTTP.
    Protocol(Cow<'static, str>),
    /// The downstream's body broke while it was being sent.
    RequestBody,
}
