//! Everything known about one exchange, from its head to its record.
//!
//! In:  facts, as the stages learn them.
//! Out: one [`RequestRecord`] when the exchange is over, however it ends: this is `finish`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, Version, request};
use tokio::time::Instant;

use super::check::Malformed;
use super::connection::{Connection, ConnectionView};
use super::local_reply::{BodyFailure, GRPC_STATUS};
use super::record::{LogFacts, Peer, Protocol, RequestRecord, ResponseFlags};
use crate::config::cluster::OpenRequest;
use crate::config::route_table::Route;
use crate::config::view::{WorkerCluster, WorkerEndpoint};
use crate::connect::h1;
use crate::retry::replay::RequestStream;
use crate::retry::timeout::{Expired, Timers};

/// One exchange. Its end is its record.
#[derive(Debug)]
pub struct RequestContext {
    pub connection: Rc<Connection>,
    pub view: Rc<ConnectionView>,
    pub started: Instant,
    pub version: Version,
    /// Where the request comes from: the other end of the connection, else what the proxies before this one say, then without a port.
    pub remote: SocketAddr,
    pub grpc: bool,
    /// The request's body; `None` when it has none.
    pub stream: Option<Rc<RequestStream>>,
    pub route: Option<Arc<Route>>,
    pub cluster: Option<Rc<WorkerCluster>>,
    pub endpoint: Option<Rc<WorkerEndpoint>>,
    pub open: Option<OpenRequest>,
    pub upstream_local: Option<SocketAddr>,
    pub attempts: u32,
    pub service_time: Option<Duration>,
    pub flags: ResponseFlags,
    pub details: Cow<'static, str>,
    pub upstream_failure: Cow<'static, str>,
    pub peer: Option<Rc<Peer>>,
    pub timers: Option<Box<Timers>>,
    pub log: Option<Box<LogFacts>>,
    /// The request's head, where changes of the response's headers refer to it.
    pub asked: Option<Box<request::Parts>>,
    /// The origin that the route's CORS policy allows.
    pub origin: Option<Box<HeaderValue>>,
    /// An HTTP/1.1 connection that goes back to its pool when the exchange is complete.
    pub lease: Option<h1::Sender>,
    /// Left out of the record: the exchange only opened a tunnel whose inside is recorded.
    pub unrecorded: bool,
    /// The answer has no body, because only its head was asked for.
    pub head_only: bool,
    /// The connection takes no request after this one.
    pub last: bool,
    /// Bytes from the downstream after its connection was upgraded.
    pub upgraded_bytes: u64,
    status: u16,
    grpc_status: Option<u16>,
    bytes_sent: u64,
    complete: bool,
}

impl RequestContext {
    pub fn new(connection: Rc<Connection>, view: Rc<ConnectionView>, version: Version, started: Instant) -> Box<Self> {
        connection.exchange_begins();
        Box::new(Self {
            remote: connection.remote,
            connection,
            view,
            started,
            version,
            grpc: false,
            stream: None,
            route: None,
            cluster: None,
            endpoint: None,
            open: None,
            upstream_local: None,
            attempts: 0,
            service_time: None,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(""),
            upstream_failure: Cow::Borrowed(""),
            peer: None,
            timers: None,
            log: None,
            asked: None,
            origin: None,
            lease: None,
            unrecorded: false,
            head_only: false,
            last: false,
            upgraded_bytes: 0,
            status: 0,
            grpc_status: None,
            bytes_sent: 0,
            complete: false,
        })
    }

    pub fn flag(&mut self, flag: ResponseFlags) {
        self.flags = self.flags.with(flag);
    }

    /// When the request was complete; `None` while its body still comes.
    pub fn request_complete(&self) -> Option<Instant> {
        match &self.stream {
            None => Some(self.started),
            Some(stream) => stream.ended(),
        }
    }

    /// The head of the response goes down.
    pub fn responds(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status.as_u16();
        if self.grpc {
            self.grpc_status = self.grpc_status.or_else(|| grpc_status(headers));
        }
        if let Some(log) = &mut self.log {
            log.response_headers = self.view.manager.access_log.capture_response(headers);
        }
        if let Some(timers) = &mut self.timers {
            timers.end_tries();
        }
    }

    /// The codec has answered a head that it could not read.
    pub fn refused(mut self: Box<Self>, what: Malformed) {
        let (status, details, _) = what.answer();
        self.flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
        self.details = Cow::Borrowed(details);
        self.status = status.as_u16();
        self.complete = true;
    }

    pub fn sent(&mut self, bytes: usize) {
        self.bytes_sent += bytes as u64;
        if let Some(timers) = &mut self.timers
            && timers.watches_silence()
        {
            timers.moved(Instant::now());
        }
    }

    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if self.grpc {
            self.grpc_status = grpc_status(trailers).or(self.grpc_status);
        }
        if let Some(log) = &mut self.log {
            log.response_trailers = self.view.manager.access_log.capture_trailers(trailers);
        }
    }

    /// What has run out while the response's body is waited for.
    pub fn poll_timers(&mut self, cx: &mut Context<'_>) -> Option<Expired> {
        let timers = self.timers.as_mut()?;
        match timers.poll(cx, self.started, self.stream.as_deref()) {
            Poll::Ready(expired) => Some(expired),
            Poll::Pending => None,
        }
    }

    /// The whole response has been passed on.
    pub fn complete(mut self: Box<Self>) {
        self.complete = true;
        let request_over = self.stream.as_ref().is_none_or(|stream| stream.ended().is_some());
        if let (true, Some(lease), Some(endpoint), Some(cluster)) = (request_over, self.lease.take(), &self.endpoint, &self.cluster) {
            let now = Instant::now();
            endpoint.pool.give_back(lease, &cluster.cluster, now);
            self.finish(now);
        }
    }

    /// The response broke off behind its head.
    pub fn broken(mut self: Box<Self>, failure: BodyFailure) {
        let (flag, details) = failure.facts();
        self.flag(flag);
        self.details = Cow::Borrowed(details);
        self.complete = true;
    }

    /// Account for the exchange: the only place where telemetry is told.
    fn finish(&mut self, now: Instant) {
        if std::mem::replace(&mut self.unrecorded, true) {
            return;
        }
        if !self.complete {
            // Dropped on the way: by the downstream, or with it.
            self.flag(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            self.details = Cow::Borrowed("downstream_remote_disconnect");
        }
        self.count();
        let connection = &*self.connection;
        let cluster = self.cluster.as_deref();
        let endpoint = self.endpoint.as_deref();
        let record = RequestRecord {
            direction: self.view.listener.direction,
            listener: &self.view.listener,
            manager: &self.view.manager,
            protocol: if self.grpc { Protocol::Grpc } else { Protocol::Http },
            version: self.version,
            status: self.status,
            grpc_status: self.grpc_status,
            flags: self.flags,
            details: &self.details,
            upstream_failure: &self.upstream_failure,
            bytes_received: self.stream.as_ref().map_or(0, |stream| stream.bytes()) + self.upgraded_bytes,
            bytes_sent: self.bytes_sent,
            started: self.started,
            duration: now.saturating_duration_since(self.started),
            upstream_service_time: self.service_time,
            attempts: self.attempts,
            route_name: self.route.as_ref().map_or("", |route| &route.name),
            cluster: cluster.map(|cluster| &*cluster.cluster),
            endpoint: endpoint.map(|endpoint| &*endpoint.endpoint),
            endpoint_handles: endpoint.map(|endpoint| &endpoint.handles),
            cluster_handles: cluster.map(|cluster| &cluster.handles),
            peer: self.peer.as_ref(),
            connection_handles: &connection.handles,
            downstream_remote: self.remote,
            downstream_local: connection.local,
            upstream_local: self.upstream_local,
            log: self.log.as_deref(),
        };
        connection.worker.recorder.request(&record);
    }

    fn count(&self) {
        if let Some(cluster) = &self.cluster {
            let live = &cluster.cluster.live;
            live.requests.fetch_add(1, Ordering::Relaxed);
            if self.attempts > 1 {
                live.retries.fetch_add(u64::from(self.attempts - 1), Ordering::Relaxed);
            }
            if self.flags.has(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT) {
                live.timeouts.fetch_add(1, Ordering::Relaxed);
            }
        }
        if let Some(endpoint) = &self.endpoint {
            let live = &endpoint.endpoint.live;
            live.requests.fetch_add(1, Ordering::Relaxed);
            if self.status == 0 || self.status >= 500 {
                live.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        if !self.unrecorded {
            self.finish(Instant::now());
        }
        if let Some(stream) = &self.stream
            && stream.ended().is_none()
        {
            // Nobody waits for the rest of the request.
            stream.abandon();
        }
        self.connection.exchange_ends();
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}
