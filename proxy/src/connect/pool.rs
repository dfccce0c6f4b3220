//! One worker's connections, by where they lead and how.
//!
//! In:  endpoints of the view; connections that became free.
//! Out: a connection to send on. Pools outlive swaps; those no view refers to are drained, not dropped.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Failure, dial, h1, h2};
use crate::config::cluster::{Cluster, EndpointLive, Transport};

/// What makes two connections interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolKey {
    to: Destination,
    transport: Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Destination {
    Address(SocketAddr),
    /// A name whose address may move.
    Logical(NonZeroU64),
}

impl PoolKey {
    /// Connections to one address, or to a name whatever its address is (`DnsEndpoints::logical`).
    pub fn new(address: SocketAddr, transport: Transport, logical: Option<NonZeroU64>) -> Self {
        Self { to: logical.map_or(Destination::Address(address), Destination::Logical), transport }
    }
}

/// Free connections to one endpoint.
#[derive(Debug)]
pub struct Pool {
    /// Where new connections go.
    target: Cell<SocketAddr>,
    /// The one that became free last is used first: it is the likeliest to be alive, and the others may age.
    idle: RefCell<Vec<h1::Sender>>,
    multiplexed: RefCell<Vec<Rc<h2::Connection>>>,
    /// Held while a multiplexed connection is being made, so that a burst opens one and not a hundred.
    connecting: Mutex<()>,
    /// The last attempt at a multiplexed connection that found no way: those that waited for it share its outcome.
    refused: RefCell<Refused>,
    /// Left the view: connections that become free are closed.
    drained: Cell<bool>,
    /// Free connections are closed after this. Of the cluster that used the pool last.
    idle_timeout: Cell<Option<Duration>>,
}

/// How an attempt to connect ended.
#[derive(Debug, Default)]
struct Refused {
    /// Of the attempts that found no way, from 1.
    number: u32,
    timed_out: bool,
    reason: Cow<'static, str>,
}

/// Counts a connection while it is open.
#[derive(Debug)]
pub struct OpenConnection(Arc<EndpointLive>);

impl OpenConnection {
    pub(super) fn new(live: &Arc<EndpointLive>) -> Rc<Self> {
        live.connections.fetch_add(1, Ordering::Relaxed);
        Rc::new(Self(Arc::clone(live)))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    fn new(target: SocketAddr) -> Self {
        Self {
            target: Cell::new(target),
            idle: RefCell::default(),
            multiplexed: RefCell::default(),
            connecting: Mutex::new(()),
            refused: RefCell::default(),
            drained: Cell::new(false),
            idle_timeout: Cell::new(None),
        }
    }

    /// An HTTP/1.1 connection that carries no request: the youngest free one, else a new one.
    ///
    /// # Errors
    /// When none is free and none can be made.
    pub async fn http1(&self, cluster: &Cluster, live: &Arc<EndpointLive>, now: Instant) -> Result<h1::Sender, Failure> {
        if let Some(sender) = self.free_http1() {
            return Ok(sender);
        }
        self.idle_timeout.set(cluster.idle_timeout);
        let stream = self.dial(cluster).await?;
        Ok(h1::open(stream, OpenConnection::new(live), now))
    }

    fn free_http1(&self) -> Option<h1::Sender> {
        let mut idle = self.idle.borrow_mut();
        std::iter::from_fn(|| idle.pop()).find(|sender| !sender.is_closed())
    }

    /// Give a connection back whose exchange is complete.
    pub fn give_back(&self, mut sender: h1::Sender, cluster: &Cluster, now: Instant) {
        let used_up = cluster.max_requests_per_connection != 0 && sender.requests >= cluster.max_requests_per_connection;
        if !sender.is_closed() && !used_up && !self.drained.get() {
            sender.since = now;
            self.idle.borrow_mut().push(sender);
        }
    }

    /// A multiplexed connection with room for a stream.
    ///
    /// # Errors
    /// When none has room and none can be made.
    pub async fn http2(&self, cluster: &Cluster, live: &Arc<EndpointLive>, now: Instant) -> Result<Rc<h2::Connection>, Failure> {
        if let Some(connection) = self.free_http2(cluster) {
            return Ok(connection);
        }
        let refused_before = self.refused.borrow().number;
        let _turn = self.connecting.lock().await;
        if let Some(connection) = self.free_http2(cluster) {
            return Ok(connection);
        }
        {
            let refused = self.refused.borrow();
            if refused.number != refused_before {
                // Each finding it out for itself, one after the other, would take many times as long.
                return Err(Failure::Connect { timed_out: refused.timed_out, reason: refused.reason.clone() });
            }
        }
        self.idle_timeout.set(cluster.idle_timeout);
        let stream = self.dial(cluster).await.inspect_err(|failure| self.note_refused(failure))?;
        let connection = h2::open(stream, &cluster.http2, OpenConnection::new(live), now).await?;
        if !self.drained.get() {
            self.multiplexed.borrow_mut().push(Rc::clone(&connection));
        }
        Ok(connection)
    }

    fn note_refused(&self, failure: &Failure) {
        if let Failure::Connect { timed_out, reason } = failure {
            let number = self.refused.borrow().number.wrapping_add(1);
            self.refused.replace(Refused { number, timed_out: *timed_out, reason: reason.clone() });
        }
    }

    fn free_http2(&self, cluster: &Cluster) -> Option<Rc<h2::Connection>> {
        let mut multiplexed = self.multiplexed.borrow_mut();
        let most = cluster.max_requests_per_connection;
        if multiplexed.iter().any(|connection| connection.is_gone() || (most != 0 && connection.requests() >= most)) {
            multiplexed.retain(|connection| !connection.is_gone() && (most == 0 || connection.requests() < most));
        }
        multiplexed.iter().find(|connection| connection.has_room(cluster.http2.max_concurrent_streams)).map(Rc::clone)
    }

    /// Open new connections to this address. Those that are open stay: a LOGICAL_DNS name keeps them when it moves, as with Envoy.
    pub fn aim(&self, address: SocketAddr) {
        self.target.set(address);
    }

    pub fn target(&self) -> SocketAddr {
        self.target.get()
    }

    async fn dial(&self, cluster: &Cluster) -> Result<tokio::net::TcpStream, Failure> {
        let dialled = dial::dial(self.target.get(), cluster.connect_timeout).await;
        if dialled.is_err() {
            cluster.live.connect_failures.fetch_add(1, Ordering::Relaxed);
        }
        dialled
    }

    /// Close what is free and keep nothing from now on; exchanges in flight finish.
    fn drain(&self) {
        self.drained.set(true);
        self.idle.borrow_mut().clear();
        self.multiplexed.borrow_mut().clear();
    }

    fn close_idle(&self, now: Instant) {
        let timeout = self.idle_timeout.get();
        let expired = |since: Instant| timeout.is_some_and(|timeout| now.saturating_duration_since(since) >= timeout);
        self.idle.borrow_mut().retain(|sender| !sender.is_closed() && !expired(sender.since));
        self.multiplexed.borrow_mut().retain(|connection| !connection.is_gone() && !connection.idle_since().is_some_and(expired));
    }

    /// Free HTTP/1.1 connections and multiplexed connections.
    pub fn sizes(&self) -> (usize, usize) {
        (self.idle.borrow().len(), self.multiplexed.borrow().len())
    }
}

/// All pools of a worker.
#[derive(Debug, Default)]
pub struct Pools {
    by_key: RefCell<HashMap<PoolKey, Rc<Pool>, foldhash::fast::RandomState>>,
}

impl Pools {
    /// `address`: where the first connections go, should the pool be new.
    pub fn get(&self, key: PoolKey, address: SocketAddr) -> Rc<Pool> {
        Rc::clone(self.by_key.borrow_mut().entry(key).or_insert_with(|| Rc::new(Pool::new(address))))
    }

    /// Close connections that are free for too long, and drain pools that no view refers to any more.
    pub fn sweep(&self, now: Instant) {
        self.by_key.borrow_mut().retain(|_, pool| {
            if Rc::strong_count(pool) == 1 {
                pool.drain();
                return false;
            }
            pool.close_idle(now);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::{ClusterKind, LoadBalancing, ServiceNames, UpstreamProtocol};

    #[tokio::test]
    async fn connections_that_the_peer_closed_are_let_go_also_where_none_expires() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cluster = Cluster {
            name: "c".into(),
            service: ServiceNames::default(),
            kind: ClusterKind::OriginalDestination { port: None },
            policy: LoadBalancing::LeastRequest,
            connect_timeout: Duration::from_secs(5),
            protocol: UpstreamProtocol::Http1,
            http2: Default::default(),
            idle_timeout: None,
            max_requests_per_connection: 0,
            transport: Transport::default(),
            sends_peer_metadata: false,
            live: Arc::default(),
        };
        let closing = async {
            let pools = Pools::default();
            let pool = pools.get(PoolKey::new(address, Transport::default(), None), address);
            let now = Instant::now();
            let sender = pool.http1(&cluster, &Arc::default(), now).await.unwrap();
            pool.give_back(sender, &cluster, now);
            pools.sweep(now + Duration::from_secs(86_400));
            assert_eq!(pool.sizes(), (1, 0));
            drop(listener.accept().await.unwrap());
            while pool.sizes() != (0, 0) {
                tokio::task::yield_now().await;
                pools.sweep(now);
            }
        };
        let local = tokio::task::LocalSet::new();
        tokio::time::timeout(Duration::from_secs(10), local.run_until(closing)).await.unwrap();
    }
}
