//! Serves a router on a listener, within limits that strangers cannot push.
//!
//! In:  connections. Out: answers of a [`Router`].

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Connections at once; more wait.
const CONNECTIONS: usize = 256;
/// A request's header must be complete within this time.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// The longest life of a connection: nobody holds a place for ever.
const CONNECTION_TIME: Duration = Duration::from_secs(600);
/// After a failed accept (no file descriptors left), wait before the next.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`; open connections end with it.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let service = TowerToHyperService::new(router);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        let (Ok(place), Ok((stream, _))) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let service = service.clone();
        connections.spawn(async move {
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
            let connection = server.serve_connection(TokioIo::new(stream), service);
            // A connection that breaks is the other side's business.
            let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
            drop(place);
        });
    }
}
