//! One connection at a listener: choose its filter chain and hand it over.
//!
//! In:  a socket or the inside of a tunnel, the listener it entered.
//! Out: the connection served to its end by `http::server` or `tcp`.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::filter_chain::{self, Sniffed};
use super::sniff;
use crate::config::listener::{Listener, NetworkFilter};
use crate::connect::stream::{Activity, Downstream, Transport};
use crate::http::connection::Connection;
use crate::http::server;
use crate::tcp::{self, TcpConnection};
use crate::worker::Worker;

/// Serve a connection to its end. `addresses`: the downstream's, and where it wanted to go.
pub async fn connection(worker: Rc<Worker>, transport: Transport, listener: Arc<Listener>, addresses: (SocketAddr, SocketAddr)) {
    let activity = Arc::new(Activity::new(worker.clock()));
    let mut stream = Downstream::new(transport, Arc::clone(&activity));
    let sniffed = if listener.needs_sniff() {
        let Some(sniffed) = sniff(&listener, &mut stream).await else { return };
        sniffed
    } else {
        Sniffed::default()
    };
    let Some(chain) = filter_chain::choose(&listener, addresses.1, &sniffed).map(Arc::clone) else {
        tracing::debug!(listener = &*listener.name, remote = %addresses.0, "no filter chain matches");
        return;
    };
    match &chain.filter {
        NetworkFilter::Http(manager) => {
            let manager = Arc::clone(manager);
            let connection = Connection::new(&worker, addresses, listener, chain, manager, activity);
            // Large and long-lived: not to be part of this future, which small TCP connections share.
            Box::pin(server::serve(connection, stream)).await;
        }
        NetworkFilter::Tcp(proxy) => {
            let proxy = Arc::clone(proxy);
            let (remote, local) = addresses;
            tcp::serve(TcpConnection { worker, listener, proxy, remote, local }, stream).await;
        }
    }
}

/// Look at first bytes and put them back. `None`: the connection is over.
async fn sniff(listener: &Listener, stream: &mut Downstream) -> Option<Sniffed> {
    let mut bytes = BytesMut::with_capacity(512);
    let reading = sniff::read(stream, &mut bytes);
    let kind = match listener.sniff_timeout {
        None => reading.await.ok()?,
        Some(limit) => match tokio::time::timeout(limit, reading).await {
            Ok(read) => read.ok()?,
            Err(_) if listener.continue_on_sniff_timeout => None,
            Err(_) => return None,
        },
    };
    stream.unread(bytes.freeze());
    Some(sniff::sniffed(kind))
}
