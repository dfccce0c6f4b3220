//! Opaque connections: choose a cluster and an endpoint, connect, pass bytes on.
//!
//! In:  a downstream's bytes and a TCP proxy's settings.
//! Out: bytes both ways, and a [`TcpRecord`] at the beginning and at the end.

pub mod copy;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::balance;
use crate::config::cluster::{ClusterKind, ClusterName, OpenRequest};
use crate::config::listener::{Listener, TcpClusters, TcpProxy};
use crate::config::view::{WorkerCluster, WorkerEndpoint};
use crate::connect::stream::Downstream;
use crate::connect::{Failure, dial};
use crate::http::record::{ResponseFlags, TcpClosed, TcpRecord};
use crate::worker::Worker;
use copy::{CopyError, Counts};

/// One opaque connection.
#[derive(Debug)]
pub struct TcpConnection {
    pub worker: Rc<Worker>,
    pub listener: Arc<Listener>,
    pub proxy: Arc<TcpProxy>,
    pub remote: SocketAddr,
    /// Where the downstream wanted to go.
    pub local: SocketAddr,
}

/// What became of the connection upstream.
#[derive(Debug, Default)]
pub struct Upstream {
    cluster: Option<Rc<WorkerCluster>>,
    endpoint: Option<Rc<WorkerEndpoint>>,
    local: Option<SocketAddr>,
}

/// Why there is no connection upstream: flag, and the transport's reason.
pub type Refused = (ResponseFlags, Cow<'static, str>);

/// Connect upstream and serve a connection to its end.
pub async fn serve(connection: TcpConnection, stream: Downstream) {
    let started = Instant::now();
    let mut upstream = Upstream::default();
    match connection.connect(&mut upstream).await {
        Ok((socket, open)) => connection.run(stream, socket, upstream, started, open).await,
        Err(refused) => connection.refused(&upstream, started, &refused),
    }
}

impl TcpConnection {
    /// Choose cluster and endpoint, and connect.
    ///
    /// # Errors
    /// When there is no cluster, no endpoint, or none that answers.
    pub async fn connect(&self, upstream: &mut Upstream) -> Result<(TcpStream, OpenRequest), Refused> {
        let view = self.worker.view();
        let name = cluster_name(&self.proxy.clusters, || self.worker.random());
        let cluster = view.cluster(name).ok_or((ResponseFlags::NO_CLUSTER_FOUND, Cow::Borrowed("")))?;
        upstream.cluster = Some(Rc::clone(&cluster));
        let mut tried = Vec::new();
        let mut last: Refused = (ResponseFlags::NO_HEALTHY_UPSTREAM, Cow::Borrowed(""));
        for _ in 0..self.proxy.max_connect_attempts.max(1) {
            let endpoint = match cluster.cluster.kind {
                ClusterKind::OriginalDestination { port } => {
                    Some(view.dynamic_endpoint(&cluster, SocketAddr::new(self.local.ip(), port.unwrap_or(self.local.port()))))
                }
                ClusterKind::DynamicForwardProxy => Some(view.dynamic_endpoint(&cluster, self.local)),
                ClusterKind::Endpoints(_) | ClusterKind::Dns(_) => {
                    balance::pick(&cluster, &tried, tried.len() as u32, || self.worker.random()).map(Rc::clone)
                }
            };
            let Some(endpoint) = endpoint else { break };
            upstream.endpoint = Some(Rc::clone(&endpoint));
            let open = OpenRequest::new(&endpoint.endpoint.live);
            match dial::dial(endpoint.endpoint.address, cluster.cluster.connect_timeout).await {
                Ok(socket) => {
                    upstream.local = socket.local_addr().ok();
                    return Ok((socket, open));
                }
                Err(Failure::Connect { reason, .. }) => last = (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, reason),
                Err(_) => last = (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, Cow::Borrowed("")),
            }
            tried.push(endpoint);
        }
        Err(last)
    }

    /// Pass bytes on until both directions have ended.
    pub async fn run(&self, mut stream: Downstream, mut socket: TcpStream, upstream: Upstream, started: Instant, open: OpenRequest) {
        let _busy = self.worker.busy();
        self.record(started, &upstream, None);
        let mut counts = Counts::default();
        let ended = copy::both_ways(&mut stream, &mut socket, &mut counts, self.proxy.idle_timeout).await;
        drop(open);
        let flags = match ended {
            Ok(()) | Err(CopyError::Downstream(_)) => ResponseFlags::NONE,
            Err(CopyError::Upstream(_)) => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            Err(CopyError::Idle) => ResponseFlags::STREAM_IDLE_TIMEOUT,
        };
        self.close(&upstream, started, counts, flags, "");
    }

    /// Account for a connection that found no way upstream.
    pub fn refused(&self, upstream: &Upstream, started: Instant, (flags, reason): &Refused) {
        self.close(upstream, started, Counts::default(), *flags, reason);
    }

    fn close(&self, upstream: &Upstream, started: Instant, counts: Counts, flags: ResponseFlags, upstream_failure: &str) {
        let duration = started.elapsed();
        let closed = TcpClosed { duration, bytes_received: counts.up, bytes_sent: counts.down, flags, upstream_failure };
        self.record(started, upstream, Some(closed));
    }

    fn record(&self, started: Instant, upstream: &Upstream, closed: Option<TcpClosed<'_>>) {
        self.worker.recorder.tcp(&TcpRecord {
            direction: self.listener.direction,
            listener: &self.listener,
            proxy: &self.proxy,
            cluster: upstream.cluster.as_ref().map(|cluster| &*cluster.cluster),
            endpoint: upstream.endpoint.as_ref().map(|endpoint| &*endpoint.endpoint),
            endpoint_handles: upstream.endpoint.as_ref().map(|endpoint| &endpoint.handles),
            downstream_remote: self.remote,
            downstream_local: self.local,
            upstream_local: upstream.local,
            started,
            closed,
        });
    }
}

fn cluster_name(clusters: &TcpClusters, random: impl FnOnce() -> u64) -> &ClusterName {
    match clusters {
        TcpClusters::Single(name) => name,
        TcpClusters::Weighted(entries) => {
            let total = entries.last().map_or(1, |(up_to, _)| *up_to).max(1);
            let at = random() % u64::from(total);
            let chosen = entries.iter().find(|(up_to, _)| at < u64::from(*up_to));
            // `compile` lets no empty list through; the last entry ends at the total.
            &chosen.unwrap_or_else(|| &entries[entries.len() - 1]).1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_shared_by_weight() {
        let clusters = TcpClusters::Weighted(vec![(90, "a".into()), (100, "b".into())]);
        for (random, want) in [(0, "a"), (89, "a"), (90, "b"), (199, "b")] {
            assert_eq!(cluster_name(&clusters, || random).as_str(), want, "{random}");
        }
    }
}
