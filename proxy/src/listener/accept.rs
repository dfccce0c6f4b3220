//! The loop that takes connections off a socket.
//!
//! In:  a listening socket, shared with the other workers. Out: one task per connection.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::serve;
use crate::connect::stream::Transport;
use crate::worker::Worker;

/// Connections taken in one go: the other workers shall get theirs, and those that are open shall not wait.
const BATCH: usize = 8;
/// Pause when the process has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Accept for ever. `named` is the address as the listener names it, which finds the listener of each moment.
pub async fn run(worker: Rc<Worker>, socket: TcpListener, named: SocketAddr) {
    loop {
        for _ in 0..BATCH {
            match socket.accept().await {
                Ok((stream, remote)) => begin(&worker, stream, remote, named),
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(address = %named, %error, "cannot accept connections; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Take what waits already, before the socket is left: those connections were made in good faith.
pub fn last(worker: &Rc<Worker>, socket: &std::net::TcpListener, named: SocketAddr) {
    while let Ok((stream, remote)) = socket.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            begin(worker, stream, remote, named);
        }
    }
}

fn begin(worker: &Rc<Worker>, stream: TcpStream, remote: SocketAddr, named: SocketAddr) {
    // Without it only latency suffers.
    let _ = stream.set_nodelay(true);
    // The address is known without asking, but for wildcards and port 0.
    let known = !named.ip().is_unspecified() && named.port() != 0;
    let local = if known { named } else { stream.local_addr().unwrap_or(named) };
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let Some(listener) = worker.view().config.listeners.bound(named).map(Arc::clone) else { return };
        serve::connection(worker, Transport::Tcp(stream), listener, (remote, local)).await;
    });
}

/// A peer that left before it was accepted is nothing to pause for.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}
