//! `CONNECT host:port`: how gRPC and TLS clients use a proxy.
//!
//! In:  the request. Out: its bytes enter the listener for the address that the mesh's names give, or pass through by policy.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use http::{Request, Response};
use tokio::time::Instant;

use super::body::{Kind, ResponseBody};
use super::check;
use super::context::RequestContext;
use super::headers::Fields;
use super::local_reply::RequestError;
use super::record::ResponseFlags;
use super::server::{Incoming, Tunnel};
use crate::config::OutboundPolicy;
use crate::config::listener::{TcpClusters, TcpProxy};
use crate::connect::Failure;
use crate::connect::stream::{Activity, Downstream, Transport};
use crate::listener::serve;
use crate::tcp::{TcpConnection, Upstream};

/// Cluster of destinations that the mesh does not know.
const PASSTHROUGH: &str = "PassthroughCluster";

static PASS_THROUGH: LazyLock<Arc<TcpProxy>> = LazyLock::new(|| {
    Arc::new(TcpProxy {
        stat_prefix: Arc::from(PASSTHROUGH),
        clusters: TcpClusters::Single(PASSTHROUGH.into()),
        idle_timeout: None,
        max_connect_attempts: 1,
        access_log: Arc::default(),
    })
});

/// Open the tunnel asked for.
///
/// # Errors
/// When the destination makes no sense, may not be reached, or does not answer.
pub async fn open(context: &mut RequestContext, request: Request<Incoming>) -> Result<Response<ResponseBody>, RequestError> {
    let (head, body) = request.into_parts();
    check::head(&head, Fields::of(&head.headers), context.view.manager.max_request_headers)?;
    let mut request = Request::from_parts(head, body);
    let authority = request.uri().authority().ok_or(RequestError::MissingHost)?.clone();
    let port = authority.port_u16().ok_or(RequestError::NoTunnel)?;
    let config = Arc::clone(&context.view.view.config);
    let connection = Rc::clone(&context.connection);
    let (worker, remote) = (Rc::clone(&connection.worker), connection.remote);
    let known = config.names.resolve(authority.host()).map(|address| SocketAddr::new(address, port));
    if let Some((destination, listener)) = known.and_then(|address| Some((address, Arc::clone(config.listeners.for_address(address)?)))) {
        let pending = hyper::upgrade::on(&mut request);
        tokio::task::spawn_local(async move {
            if let Ok(tunnel) = pending.await {
                let transport = Transport::Tunnel(Box::new(Tunnel::new(tunnel)));
                serve::connection(worker, transport, listener, (remote, destination)).await;
            }
        });
        return Ok(accepted(context));
    }
    if config.local.outbound_policy == OutboundPolicy::RegistryOnly {
        return Err(RequestError::NoTunnel);
    }
    let addresses = worker.resolver.lookup(authority.host(), Instant::now()).await.map_err(|_| RequestError::Unresolved)?;
    let destination = SocketAddr::new(*addresses.first().ok_or(RequestError::Unresolved)?, port);
    let passing = TcpConnection {
        worker,
        listener: Arc::clone(&context.view.listener),
        proxy: Arc::clone(&PASS_THROUGH),
        remote,
        local: destination,
    };
    let mut upstream = Upstream::default();
    let started = context.started;
    let (socket, open) = match passing.connect(&mut upstream).await {
        Ok(connected) => connected,
        Err((ResponseFlags::NO_CLUSTER_FOUND, _)) => return Err(RequestError::NoTunnel),
        Err((_, reason)) => {
            let failure = Failure::Connect { timed_out: reason.is_empty(), reason };
            return Err(RequestError::Upstream { failure, retried: false, exhausted: false });
        }
    };
    let pending = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        if let Ok(tunnel) = pending.await {
            let activity = Arc::new(Activity::new(passing.worker.clock()));
            let stream = Downstream::new(Transport::Tunnel(Box::new(Tunnel::new(tunnel))), activity);
            passing.run(stream, socket, upstream, started, open).await;
        }
    });
    Ok(accepted(context))
}

/// 200 without a body. The exchange itself is not recorded: what happens inside is.
fn accepted(context: &mut RequestContext) -> Response<ResponseBody> {
    context.unrecorded = true;
    Response::new(ResponseBody::unrecorded(Kind::Empty))
}
